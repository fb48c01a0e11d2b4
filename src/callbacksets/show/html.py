"""The HTML that a notebook shows for an object: a title and a small table, in the colours and font of its theme."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from callbacksets.show import tables


def card(title: str, about: str | None, rows: Mapping[str, str]) -> str:
    """A title, a line about it, and a table of rows by name. Empty rows are left out."""
    return titled(title, about, tables.as_html((), [row for row in rows.items() if row[1]]))


def table(title: str, about: str | None, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A title, a line about it, and a table."""
    return titled(title, about, tables.as_html(header, rows))


def titled(title: str, about: str | None, body: str) -> str:
    """A title, a line about it, and HTML."""
    line = f"<div>{escape(about)}</div>" if about else ""
    return f"<div><div><b>{escape(title)}</b></div>{line}{body}</div>"


def first_line(documented: object) -> str | None:
    """The first line of an object's docstring."""
    return (documented.__doc__ or "").strip().partition("\n")[0] or None
