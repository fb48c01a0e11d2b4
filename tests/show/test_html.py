"""What notebooks show of callbacks, descriptors and the dictionary."""

import re
from html.parser import HTMLParser

import pytest
import torch

from callbacksets import CallbackSet, CallbackSetEarlyStopping, TorchCallback, t_clbk, torch_callbacks


class Cells(HTMLParser):
    """The texts of a fragment, of which every element must be closed."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(fragment)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


class CallbackSetHolder(CallbackSet):
    def __init__(self, held: object, unused: int = 1) -> None:
        self.held = held


def texts(thing: object) -> list[str]:
    return Cells(thing._repr_html_()).texts  # type: ignore[attr-defined]


def test_a_callback() -> None:
    assert texts(CallbackSetEarlyStopping(patience=3)) == [
        "CallbackSetEarlyStopping",
        "Stops training when a validation score has not improved in several evaluations.",
        "arguments",
        "patience=3, min_delta=0.0, restore_best_weights=False, monitor=None, mode=None",
        "stages",
        "on_begin, on_valid_end, on_exit",
        "weight",
        "1000",
    ]


def test_a_callback_without_documentation_stages_or_arguments() -> None:
    assert texts(type("CallbackSetBare", (CallbackSet,), {})()) == ["CallbackSetBare", "stages", "none", "weight", "0"]


def test_what_it_holds_is_escaped_and_cut_short() -> None:
    assert "held='<script>'" in texts(CallbackSetHolder("<script>"))
    assert "<script>" not in CallbackSetHolder("<script>")._repr_html_()
    [shown] = [text for text in texts(CallbackSetHolder("long" * 100)) if text.startswith("held=")]
    assert len(shown) < 120
    assert "..." in shown
    assert "held=<Tensor of shape (100, 100), torch.float32>" in texts(CallbackSetHolder(torch.zeros(100, 100)))


def test_a_descriptor() -> None:
    shown = texts(t_clbk("early_stopping", min_delta=0.5, weight=7))
    assert shown[0] == "Early Stopping (early_stopping)"
    rows = dict(zip(shown[2::2], shown[3::2], strict=True))
    assert rows == {
        "class": "CallbackSetEarlyStopping",
        "parameters": "min_delta=0.5",
        "still needed": "patience",
        "stages": "on_begin, on_before_valid, on_batch_valid_begin, on_valid_end, on_exit",
        "weight": "7",
    }
    assert "packages" in texts(TorchCallback(CallbackSetHolder, packages="numpy"))


def test_the_dictionary() -> None:
    shown = texts(torch_callbacks)
    assert shown[2:7] == ["key", "label", "weight", "packages", "stages"]
    assert shown[7:12] == ["checkpoint", "Checkpoint", "inf", "-", "on_begin, on_epoch_end, on_end"]
    assert len(shown) == 2 + 5 * (1 + len(torch_callbacks))


@pytest.mark.parametrize(
    "thing", [CallbackSetEarlyStopping(1), t_clbk("history"), torch_callbacks], ids=lambda thing: type(thing).__name__
)
def test_the_colours_are_those_of_the_theme(thing: object) -> None:
    assert not re.search(r"color|background|#[0-9a-f]{3}", thing._repr_html_())  # type: ignore[attr-defined]


def test_a_value_that_cannot_be_shown_is_no_error() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    [held] = [text for text in texts(CallbackSetHolder(Broken())) if text.startswith("held=")]
    assert "Broken" in held
