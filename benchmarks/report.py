"""Rows of the table, and how numbers are written in it."""

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """What was measured, what came out, and what we want, if anything."""

    what: str
    result: str
    goal: str = ""


def ratio(values: Sequence[float]) -> str:
    """Ratios of several rounds: the median, and in brackets the quartiles."""
    return _spread(values, 1, "", 3)


def microseconds(seconds: Sequence[float]) -> str:
    return _spread(seconds, 1e6, " us", 1)


def nanoseconds(seconds: Sequence[float]) -> str:
    return _spread(seconds, 1e9, " ns", 0)


def milliseconds(seconds: Sequence[float]) -> str:
    return _spread(seconds, 1e3, " ms", 1)


def megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB"


def differences(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Round by round, so that what disturbs a whole round cancels."""
    return [value - other for value, other in zip(values, others, strict=True)]


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, others, strict=True)]


def alternating(rounds: int, names: Sequence[str]) -> Iterator[str]:
    """The names again and again, every other time backwards, so that a machine that slows down slows all alike."""
    for round in range(rounds):
        yield from names if round % 2 == 0 else reversed(names)


def table(rows: Sequence[Row]) -> str:
    cells = [Row("what", "result", "goal"), *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _spread(values: Sequence[float], factor: float, unit: str, digits: int) -> str:
    if len(values) < 2:
        return f"{values[0] * factor:.{digits}f}{unit}"
    low, median, high = (value * factor for value in statistics.quantiles(values, n=4))
    return f"{median:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"
