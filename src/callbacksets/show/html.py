"""What a notebook shows of an object: a title and a small table, in the colours and the font of its theme."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

# Notebooks align tables to the right, and some fill the page with them.
_TABLE = "width: auto; margin: 0.3em 0; border-collapse: collapse"
_CELL = "text-align: left; vertical-align: top; padding: 0.15em 1em 0.15em 0"
_LONGEST = 60


def card(title: str, about: str | None, rows: Mapping[str, str]) -> str:
    """A title, a line about it, and what else is to be known, by name; what is empty is left out."""
    cells = ([f"<b>{escape(name)}</b>", escape(text)] for name, text in rows.items() if text)
    return _titled(title, about, _table(cells))


def table(title: str, about: str | None, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A title, a line about it, and a table."""
    cells = ([escape(text) for text in row] for row in rows)
    return _titled(title, about, _table([[f"<b>{escape(name)}</b>" for name in header], *cells]))


def values(given: Mapping[str, Any]) -> str:
    """`a=1, b='x'`, with what is long cut short."""
    return ", ".join(f"{name}={_short(value)}" for name, value in given.items())


def names(given: Iterable[str]) -> str:
    """`begin, end` for the stages `on_begin` and `on_end`, or any other names as they are."""
    return ", ".join(name.removeprefix("on_") for name in given)


def first_line(documented: object) -> str | None:
    """The first line of an object's own documentation."""
    return (documented.__doc__ or "").strip().partition("\n")[0] or None


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _titled(title: str, about: str | None, body: str) -> str:
    line = f"<div>{escape(about)}</div>" if about else ""
    return f"<div><div><b>{escape(title)}</b></div>{line}{body}</div>"


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = ("".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) for row in rows)
    return f'<table style="{_TABLE}">{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'
