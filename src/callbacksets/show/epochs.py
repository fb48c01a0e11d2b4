"""The scores of the epochs: as rows while they are collected, as columns in a state, and as a table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from callbacksets.show import tables

Rows = list[dict[str, Any]]
_ORDER = ("epoch", "train.", "valid.")


def row_of(epoch: int, train: Mapping[str, float] | None, valid: Mapping[str, float] | None) -> dict[str, Any]:
    """A row: the epoch and its scores, as `train.<name>` and `valid.<name>`."""
    row: dict[str, Any] = {"epoch": epoch}
    for loop, scores in (("train", train), ("valid", valid)):
        row |= {f"{loop}.{name}": score for name, score in (scores or {}).items()}
    return row


def add(rows: Rows, row: dict[str, Any]) -> None:
    """Add the row of an epoch. If a resumed run has trained the rest of it, its row replaces that of the first part."""
    if rows and rows[-1]["epoch"] == row["epoch"]:
        rows.pop()
    rows.append(row)


def columns_of(state: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The columns in the state of a history, without what a subclass may have added to it."""
    return {name: state[name] for name in state if str(name).partition(".")[0] in ("epoch", "train", "valid")}


def as_columns(rows: Rows) -> dict[str, list[Any]]:
    """Lists of equal length; a missing value is None. The order is: epoch, training scores, validation scores, others.

    Example:
        >>> as_columns([{"epoch": 1, "valid.loss": 0.5, "train.loss": 0.7}])
        {'epoch': [1], 'train.loss': [0.7], 'valid.loss': [0.5]}
    """
    names = dict.fromkeys(name for row in rows for name in row)
    ranks = {name: next((i for i, kind in enumerate(_ORDER) if name.startswith(kind)), len(_ORDER)) for name in names}
    return {name: [row.get(name) for row in rows] for name in sorted(names, key=ranks.__getitem__)}


def as_rows(columns: Mapping[str, Sequence[Any]]) -> Rows:
    """The rows of such columns, without the missing values."""
    return [
        {name: value for name, value in zip(columns, values, strict=True) if value is not None}
        for values in zip(*columns.values(), strict=True)
    ]


def best_of(rows: Rows, column: str, *, minimize: bool) -> tuple[int, float] | tuple[None, None]:
    """The best epoch by the scores in a column, and its score; None if there is none. NaN counts as missing."""
    known = [(row["epoch"], row[column]) for row in rows if not math.isnan(row.get(column, math.nan))]
    return (min if minimize else max)(known, key=lambda one: one[1], default=(None, None))


def as_text(columns: Mapping[str, Sequence[Any]], *, digits: int = 4, best_epoch: int | None = None) -> str:
    """A table with the best epoch marked. The middle of a long table is left out.

    Example:
        >>> print(as_text({"epoch": [1, 2], "train.loss": [0.7, 0.5], "valid.loss": [0.8, None]}, digits=2))
        epoch  train.loss  valid.loss
            1        0.70        0.80
            2        0.50           -
    """
    return tables.numbers_as_text(*_cells(columns, digits, best_epoch))


def as_html(columns: Mapping[str, Sequence[Any]], *, digits: int = 4, best_epoch: int | None = None) -> str:
    """The same for a notebook."""
    return tables.numbers_as_html(*_cells(columns, digits, best_epoch))


def _cells(
    columns: Mapping[str, Sequence[Any]], digits: int, best_epoch: int | None
) -> tuple[list[str], list[list[str]], int | None]:
    rows = [
        [_cell(name, value, digits) for name, value in zip(columns, values, strict=True)]
        for values in zip(*columns.values(), strict=True)
    ]
    epochs = list(columns["epoch"])
    if best_epoch not in epochs:
        return list(columns), rows, None
    best = len(epochs) - 1 - epochs[::-1].index(best_epoch)
    return [*columns, ""], [[*row, "best" if i == best else ""] for i, row in enumerate(rows)], best


def _cell(name: str, value: Any, digits: int) -> str:
    if value is None:
        return "-"
    if name == "seconds":
        return f"{value:.2f}"
    return score(value, digits) if isinstance(value, float) else str(value)


def score(value: float, digits: int) -> str:
    """A number with so many digits after the decimal point, or in another form if they would all be zeros.

    Example:
        >>> score(0.1234, 2), score(0.00002, 2)
        ('0.12', '2e-05')
    """
    fixed = f"{value:.{digits}f}"
    return fixed if value == 0 or float(fixed) != 0 else f"{value:.{max(digits, 1)}g}"
