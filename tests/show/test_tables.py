"""Tables as text and as HTML."""

import re

import pytest

from callbacksets.show import epochs, tables
from tests.show.test_html import Cells

COLUMNS = {"epoch": list(range(1, 31)), "train.loss": [1 / n for n in range(1, 31)], "valid.acc": [None] * 30}


def epochs_in(html: str) -> list[int]:
    return [int(cell) for cell in re.findall(r"<tr><td[^>]*>(?:<b>)?(\d+)", html)]


def test_words_are_aligned_to_the_left_and_numbers_to_the_right() -> None:
    assert tables.as_text(("a", "bb"), [("long", "")]) == "a     bb\nlong"
    assert tables.numbers_as_text(("a", "bb"), [("long", "1")]) == "   a  bb\nlong   1"


@pytest.mark.parametrize("rows", [0, 1, 8, 11])
def test_a_short_table_is_whole(rows: int) -> None:
    cells = [[str(i)] for i in range(rows)]
    assert tables.numbers_as_text(["n"], cells).split() == ["n", *(cell for [cell] in cells)]
    html = tables.numbers_as_html(["n"], cells)
    assert epochs_in(html) == list(range(rows))


def test_the_middle_of_a_long_table_is_left_out_but_for_the_marked_row() -> None:
    html = epochs.as_html(COLUMNS, best_epoch=15)
    assert [text for text in Cells(html).texts if "more" in text] == ["... 11 more", "... 10 more"]
    assert epochs_in(html) == [1, 2, 3, 15, 26, 27, 28, 29, 30]
    assert re.findall(r"<b>([^<]*)", html)[-4:] == ["15", "0.0667", "-", "best"]
    text = epochs.as_text(COLUMNS, best_epoch=15).splitlines()
    assert [line.split()[0] for line in text] == [
        "epoch",
        "1",
        "2",
        "3",
        "...",
        "15",
        "...",
        "26",
        "27",
        "28",
        "29",
        "30",
    ]
    assert text[5].endswith("best")


def test_what_is_shown_is_escaped() -> None:
    html = epochs.as_html({"epoch": [1], "train.<b>": [0.5]})
    assert "train.&lt;b&gt;" in html
    assert tables.as_html((), [("<i>", "<u>")]).count("&lt;") == 2


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.125, 2, "0.12"), (0.00002, 2, "2e-05"), (0.004, 2, "0.004"), (0.0, 2, "0.00"), (3.7, 0, "4"), (0.2, 0, "0.2")],
)
def test_a_score_has_digits_that_say_something(value: float, digits: int, text: str) -> None:
    assert epochs.score(value, digits) == text


def test_rows_and_columns_are_the_same() -> None:
    rows = [{"epoch": 1, "valid.b": 2.0}, {"epoch": 2, "train.a": 1.0, "seconds": 3.0}]
    columns = epochs.as_columns(rows)
    assert list(columns) == ["epoch", "train.a", "valid.b", "seconds"]
    assert epochs.as_rows(columns) == rows
    assert epochs.as_rows(epochs.as_columns([])) == []


def test_an_epoch_that_is_there_twice_is_marked_once() -> None:
    assert epochs.as_text({"epoch": [1, 1], "train.a": [0.5, 0.5]}, best_epoch=1).count("best") == 1
