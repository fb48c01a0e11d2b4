"""Tables as text and as HTML: the only place that arranges cells in columns."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from itertools import pairwise

# Notebooks align tables to the right, and some stretch them over the page. There is no style sheet, because some
# viewers drop it, and no colour, because the page may be dark or light.
_TABLE = "width: auto; margin: 0.3em 0; border-collapse: collapse"
_CELL = "text-align: left; vertical-align: top; padding: 0.15em 1em 0.15em 0"

_FIRST, _LAST = 3, 5  # the first and last rows of a long table are always shown
_FEW = 3  # up to so many further rows are not folded


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
        return _table(
            [[f"<b>{escape(name)}</b>" for name in header], *([escape(cell) for cell in row] for row in rows)]
        )
    return _table([f"<b>{escape(name)}</b>", *map(escape, others)] for name, *others in rows)


def numbers_as_text(header: Sequence[str], rows: Sequence[Sequence[str]], marked: int | None = None) -> str:
    """Columns of numbers, aligned to the right. The middle of a long table is left out, except a marked row.

    Example:
        >>> print(numbers_as_text(["epoch", "loss"], [["1", "0.5"], ["2", "0.25"]]))
        epoch  loss
            1   0.5
            2  0.25
    """
    first, *lines = _lines(header, rows, str.rjust)
    shown = [first]
    for folded, which in _segments(len(lines), marked):
        shown += [f"... {len(which)} more"] if folded else [lines[i] for i in which]
    return "\n".join(shown)


def numbers_as_html(
    header: Sequence[str], rows: Sequence[Sequence[str]], marked: int | None = None, *, unfolds: bool = True
) -> str:
    """The same for a notebook, with the marked row in bold.

    The middle of a long table can be unfolded. With `unfolds=False` it is left out, for a table that will be updated:
    an update would fold it again.
    """
    # The folded rows are a separate table, so the widths of the columns must be given.
    widths = [0.65 * max(map(len, column)) + 1.4 for column in zip(header, *rows, strict=True)]
    names = "".join(f"<th>{escape(name)}</th>" for name in header)
    parts, head = [], f'<tr align="right">{names}</tr>'
    for folded, which in _segments(len(rows), marked):
        if folded and unfolds:
            table = _numbers(widths, [_row(rows[i]) for i in which])
            parts.append(f"<details><summary>{len(which)} more</summary>{table}</details>")
        elif folded:
            parts.append(f"<div>... {len(which)} more</div>")
        else:
            lines = [_row(rows[i], bold=i == marked) for i in which]
            parts.append(_numbers(widths, lines if parts else [head, *lines]))
    return "".join(parts or [_numbers(widths, [head])])


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]], pad: Callable[[str, int], str]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return ["  ".join(map(pad, row, widths)).rstrip() for row in (header, *rows)]


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = ("".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) for row in rows)
    return f'<table style="{_TABLE}">{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'


def _numbers(widths: Sequence[float], lines: Iterable[str]) -> str:
    columns = "".join(f'<col style="width: {width:.1f}em">' for width in widths)
    style = (
        f"table-layout: fixed; width: {sum(widths):.1f}em; margin: 0; border-collapse: collapse; text-align: right; "
        "font-variant-numeric: tabular-nums"
    )
    return f'<table style="{style}"><colgroup>{columns}</colgroup>{"".join(lines)}</table>'


def _row(cells: Sequence[str], *, bold: bool = False) -> str:
    texts = (f"<b>{escape(cell)}</b>" if bold else escape(cell) for cell in cells)
    # the attribute `align`, because a style in every cell would make a long table large, and some viewers drop it
    return f'<tr align="right">{"".join(f"<td>{text}</td>" for text in texts)}</tr>'


def _segments(n: int, marked: int | None) -> Iterator[tuple[bool, range]]:
    """Ranges of rows, each with whether it is folded."""
    stays = [i for i in range(n) if i < _FIRST or i >= n - _LAST or i == marked]
    gaps = [(low + 1, high) for low, high in pairwise(stays) if high - low - 1 > _FEW]
    start = 0
    for low, high in gaps:
        yield False, range(start, low)
        yield True, range(low, high)
        start = high
    if start < n:
        yield False, range(start, n)
