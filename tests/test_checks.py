"""The words that errors share: what came is shown on one short line."""

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from callbacksets import (
    CallbackSet,
    CallbackSetAdapter,
    ParamSet,
    SupervisedModule,
    TorchCallback,
    as_torch_callback,
    callback_set,
    t_clbk,
    t_clbks,
    torch_callbacks,
)
from callbacksets.checks import did_you_mean, names_of, nearest_first, plain, shown
from callbacksets.scores import Scores


class Id(str, Enum):  # noqa: UP042
    LOSS = "loss"


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        ("a\n b", r"'a\n b'"),
        ({"b": 1, "a": [2]}, "{'a': [2], 'b': 1}"),
        (torch.ones(1000, 3), "<Tensor of shape (1000, 3), torch.float32>"),
        ([np.ones(7)], "[<ndarray of shape (7,), float64>]"),
        (torch.tensor(3.0), "tensor(3.)"),
        ({"a": {"b": {"c": {"d": 1}}}}, "{'a': {'b': {'c': {...}}}}"),
    ],
)
def test_shown(value: Any, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    "value",
    [
        "long" * 100,
        nn.Sequential(*(nn.Linear(2, 2) for _ in range(50))),
        {f"key{i}": torch.ones(100) for i in range(100)},
        [{"epoch": i} for i in range(1000)],
        Unspeakable(),
        UninitializedParameter(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_it_is_it_is_one_short_line(value: Any) -> None:
    assert 0 < len(shown(value)) < 600
    assert "\n" not in shown(value)


PAGES = (torch.ones(50, 50), [torch.ones(50)] * 99, dict.fromkeys(map(str, range(999)), "x" * 99), "x" * 9999)


@pytest.mark.parametrize("page", PAGES, ids=["tensor", "list", "dict", "str"])
@pytest.mark.parametrize(
    "make",
    [
        lambda page: CallbackSetAdapter([page]),
        lambda page: CallbackSetAdapter({"a": page}),
        lambda page: CallbackSetAdapter([{"class_path": page}]),
        lambda page: t_clbk(page),
        lambda page: t_clbk("history", label=[page]),
        lambda page: t_clbks([page]),
        lambda page: torch_callbacks.add("a", page),
        lambda page: as_torch_callback(page),
        lambda page: TorchCallback(page),
        lambda page: TorchCallback(CallbackSet, additional_args=[page]),
        lambda page: TorchCallback(CallbackSet, param_set=page),
        lambda page: ParamSet([], [page]),
        lambda page: callback_set("CallbackSetX", on_end=page),
        lambda page: callback_set("CallbackSetX", public=[page]),
        lambda page: callback_set("CallbackSetX", inherit=page),
        lambda page: type("X", (CallbackSet,), {"on_end": page}),
        lambda page: SupervisedModule(page, sum, sum),
        lambda page: SupervisedModule(nn.Linear(1, 1), page, sum),
        lambda page: SupervisedModule(nn.Linear(1, 1), sum, sum, {"a": page}),
        lambda page: Scores({"a": page}),
        lambda page: Scores({"a": 1})[page if isinstance(page, str) else "b"],
    ],
)
def test_no_message_is_a_page(make: Callable[[Any], Any], page: Any) -> None:
    with pytest.raises((TypeError, ValueError, LookupError)) as caught:
        make(page)
    assert len(str(caught.value)) < 2000


def test_a_string_of_another_type_is_what_it_equals() -> None:
    for text in (Id.LOSS, np.str_("loss"), "loss"):
        assert (plain(text), type(plain(text))) == ("loss", str)
        assert did_you_mean(text, ["los"]) == " Did you mean 'los'?"
    assert [type(name) for name in names_of("keys", [Id.LOSS, np.str_("a")])] == [str, str]


def test_the_nearest_names_come_first() -> None:
    known = ["model.body.weight", "model.head.weight", "model.head.bias"]
    assert nearest_first([r"^haed\."], known)[0].startswith("model.head")
    assert nearest_first(["head.bais"], known)[0] == "model.head.bias"
    assert nearest_first([], known) == known
