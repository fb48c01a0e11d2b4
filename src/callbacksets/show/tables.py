"""Tables as text and as HTML: the only place that arranges cells in columns."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import pairwise

# Notebooks align tables to the right, and some stretch them over the page. There is no style sheet, because some
# viewers drop it, and no colour, because the page may be dark or light.
_TABLE = "width: auto; margin: 0.3em 0; border-collapse: collapse"
_CELL = "vertical-align: top; padding: 0.15em 1em 0.15em 0"

_FIRST, _LAST = 3, 5  # the first and last rows of a long table are always shown
_FEW = 3  # up to so many further rows are not left out


def as_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of words, aligned to the left.

    Example:
        >>> print(as_text(["key", "weight"], [["history", "0"]]))
        key      weight
        history  0
    """
    return "\n".join(_lines(header, list(rows), str.ljust))


def as_html(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same for a notebook. Without a header, the first column contains the names."""
    if header:
        return _table([_row(map(_bold, header)), *(_row(map(escape, row)) for row in rows)])
    return _table(_row([_bold(name), *map(escape, others)]) for name, *others in rows)


def numbers_as_text(header: Sequence[str], rows: Sequence[Sequence[str]], marked: int | None = None) -> str:
    """Columns of numbers, aligned to the right. The middle of a long table is left out, except a marked row.

    Example:
        >>> print(numbers_as_text(["epoch", "loss"], [["1", "0.5"], ["2", "0.25"]]))
        epoch  loss
            1   0.5
            2  0.25
    """
    first, *lines = _lines(header, rows, str.rjust)
    return "\n".join([first, *_shortened(lines, marked, "... {} more")])


def numbers_as_html(header: Sequence[str], rows: Sequence[Sequence[str]], marked: int | None = None) -> str:
    """The same for a notebook, with the marked row in bold."""
    lines = [_row(map(_bold if i == marked else escape, row), "right") for i, row in enumerate(rows)]
    more = _row(["... {} more"], "right")
    return _table([_row(map(_bold, header), "right"), *_shortened(lines, marked, more)])


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]], pad: Callable[[str, int], str]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return ["  ".join(map(pad, row, widths)).rstrip() for row in (header, *rows)]


def _table(rows: Iterable[str]) -> str:
    return f'<table style="{_TABLE}">{"".join(rows)}</table>'


def _row(cells: Iterable[str], align: str = "left") -> str:
    texts = (f'<td style="text-align: {align}; {_CELL}">{cell}</td>' for cell in cells)
    return f"<tr>{''.join(texts)}</tr>"


def _bold(text: str) -> str:
    return f"<b>{escape(text)}</b>"


def _shortened(lines: Sequence[str], marked: int | None, more: str) -> list[str]:
    """The lines of a table without the middle of a long one; `more` stands for the lines of a gap."""
    stay = [i for i in range(len(lines)) if i < _FIRST or i >= len(lines) - _LAST or i == marked]
    shown: list[str] = []
    for before, i in pairwise([-1, *stay]):
        gap = lines[before + 1 : i]
        shown += [*gap, lines[i]] if len(gap) <= _FEW else [more.format(len(gap)), lines[i]]
    return shown
