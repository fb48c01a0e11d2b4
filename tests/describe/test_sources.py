"""What the adapter takes as callbacks, and what a fit makes of it."""

import copy
import pickle
import re
import warnings
from enum import Enum
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory, TorchCallback, t_clbk, t_clbks
from callbacksets.describe.sources import generate, sources_by_id
from tests.helpers import fit


class CallbackSetSized(CallbackSet):
    """Needs a size."""

    def __init__(self, size: int) -> None:
        self.size = size


def nothing(self: Any) -> None: ...


class CallbackSetEMA(CallbackSet):
    weight = 5


def described() -> "TorchCallback":
    return TorchCallback(CallbackSetEMA, id="described")


def unknown() -> None:
    raise AssertionError("it was called")


class CalledError(Exception):
    def __init__(self, *args: Any) -> None:
        raise AssertionError("it was called")


class Id(str, Enum):  # noqa: UP042
    A = "a"


class CallbackSetMisspelled(CallbackSet):
    def epoch_end(self) -> None: ...

    def onBatchEnd(self) -> None: ...

    def _end(self) -> None: ...


class CallbackSetByItself(CallbackSet):
    def __init__(self) -> None:
        self.on_end = self.end

    def end(self) -> None: ...


class CallbackSetKeeps(CallbackSet):
    def state_dict(self) -> Any:
        return {"seed": 1}

    def load_state_dict(self, state_dict: Any) -> None: ...


def weighted(weight: Any) -> CallbackSet:
    callback = CallbackSet()
    callback.weight = weight
    return callback


@pytest.mark.parametrize(
    ("callbacks", "ids"),
    [
        ([], []),
        ({}, []),
        ("history", ["history"]),
        (CallbackSetHistory, ["history"]),
        (CallbackSetHistory(), ["history"]),
        (t_clbk("history"), ["history"]),
        (t_clbk("history", id="scores"), ["scores"]),
        (t_clbks(["history", "progress"]), ["history", "progress"]),
        (t_clbks(["history", "progress"]).values(), ["history", "progress"]),
        (["history_1", "history", CallbackSetEMA], ["history_1", "history", "ema"]),
        (("progress", CallbackSetSized(3), TorchCallback(CallbackSetSized, id="b")), ["progress", "sized", "b"]),
        (iter(["history", "progress"]), ["history", "progress"]),
        ({"a": "history", "b": t_clbk("history"), "c": CallbackSetEMA}, ["a", "b", "c"]),
        ([{"early_stopping": {"patience": 2}}, {"lr_step": {"step_size": 1, "id": "b"}}], ["early_stopping", "b"]),
        ({"a": {"early_stopping": {"patience": 2}}}, ["a"]),
        ([{"class_path": "callbacksets.CallbackSetProgress", "init_args": {"digits": 3}}], ["progress"]),
        ([{"class_path": "tests.describe.test_sources.described"}], ["described"]),
        ([t_clbks({"a": "history"}), CallbackSetEMA(), t_clbks(["tb_1"]), {}], ["a", "ema", "tb_1"]),
        ([{"b": CallbackSetEMA, "c": CallbackSetHistory()}, "history"], ["b", "c", "history"]),
    ],
)
def test_ids(callbacks: Any, ids: list[str]) -> None:
    assert list(sources_by_id(callbacks)) == ids


def test_what_fails_when_it_is_made_says_what_it_was() -> None:
    class CallbackSetPicky(CallbackSet):
        def __init__(self, patience: Any) -> None:
            raise TypeError("patience")

    picky = TorchCallback(CallbackSetPicky, id="this_one")
    picky.param_set.set_values(patience=5)
    with pytest.raises(TypeError, match="patience") as caught:
        fit([t_clbk("early_stopping", patience=5), picky])
    assert caught.value.__notes__ == ["while making callback 'this_one' for the fit"]


def test_what_a_fit_makes_of_them() -> None:
    instance, descriptor = CallbackSetSized(1), TorchCallback(CallbackSetSized, id="described")
    descriptor.param_set.set_values(size=2)
    sources = sources_by_id(["history", CallbackSetEMA, instance, descriptor])
    descriptor.param_set.set_values(size=3)
    first: Any = generate(sources)
    descriptor.param_set.set_values(size=4)
    second: Any = generate(sources)

    assert list(first) == list(second) == ["history", "sized", "described", "ema"]  # by weight
    assert first["sized"] is second["sized"] is instance
    assert all(first[id] is not second[id] for id in ("history", "described", "ema"))
    assert (first["described"].size, second["described"].size) == (3, 4)
    assert sources["described"] is descriptor


def test_one_descriptor_may_have_several_ids() -> None:
    descriptor = t_clbk("history")
    callbacks = generate(sources_by_id({"a": descriptor, "b": descriptor}))
    assert callbacks["a"] is not callbacks["b"]


def test_in_a_fit() -> None:
    adapter = fit(["history", TorchCallback(CallbackSetEMA, weight=-1)], max_epochs=2)
    assert list(adapter.sets) == ["ema", "history"]
    assert adapter.states["history"]["epoch"] == [1, 2]
    before = adapter.sets
    fit(adapter)
    assert adapter.states["history"]["epoch"] == [1]
    assert adapter.sets["ema"] is not before["ema"]


@pytest.mark.parametrize("remake", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_the_adapter_can_be_copied_and_pickled(remake: Any) -> None:
    adapter = remake(
        CallbackSetAdapter(["history", t_clbk("early_stopping", patience=3), t_clbk("lr_step", step_size=1)])
    )
    assert list(generate(adapter._sources)) == ["history", "lr_step", "early_stopping"]


SAME = CallbackSet()

REFUSED = [
    ("histroy", KeyError, "There is no callback 'histroy'. Did you mean 'history'?"),
    (
        ["history", "early_stopping"],
        TypeError,
        "'early_stopping' cannot be made without 'patience'. Give a descriptor: "
        "t_clbk('early_stopping', patience=...).",
    ),
    ("checkpoint", TypeError, "'checkpoint' cannot be made without 'path', 'freq'."),
    (
        CallbackSetSized,
        TypeError,
        "CallbackSetSized is given as a class but cannot be made without 'size'. Give an "
        "instance: CallbackSetSized(size=...).",
    ),
    ("", ValueError, "Expected key to be a non-empty string but got ''."),
    (3, TypeError, "Expected callbacks to be CallbackSet instances or classes, descriptors or dictionary keys"),
    ([None], TypeError, "a list or a mapping) but got None."),
    ({"history", "progress"}, TypeError, "a list or a mapping) but got {'history', 'progress'}."),
    ([TorchCallback], TypeError, "but got <class 'callbacksets.describe.descriptor.TorchCallback'>."),
    ([lambda: CallbackSet()], TypeError, "but got <function"),
    ([L.Callback()], TypeError, "Callback is a Lightning callback, not a CallbackSet."),
    ([L.pytorch.callbacks.Timer], TypeError, "Timer is a Lightning callback, not a CallbackSet."),
    ([CallbackSetAdapter([])], TypeError, "Expected callbacks to be CallbackSets but got a CallbackSetAdapter."),
    (["history", "history"], ValueError, "Two callbacks have the id 'history'. Name them yourself"),
    ([t_clbk("history"), CallbackSetHistory()], ValueError, "Two callbacks have the id 'history'."),
    ([t_clbks(["history"]), "history"], ValueError, "Two callbacks have the id 'history'."),
    ([{"a": CallbackSetHistory, "b": L.Callback}], TypeError, "Callback is a Lightning callback, not a CallbackSet."),
    (
        [{"class_path": "tests.describe.test_sources.unknown"}],
        TypeError,
        "Expected class_path to name a CallbackSet class, TorchCallback, or a function with a return annotation of "
        "one of them (-> TorchCallback), but got 'tests.describe.test_sources.unknown'.",
    ),
    ([{"class_path": "tests.describe.test_sources.CalledError"}], TypeError, "Expected class_path to name"),
    ([{"class_path": "os.getcwd"}], TypeError, "Expected class_path to name"),
    ([{"class_path": "lightning.pytorch.callbacks.Timer"}], TypeError, "Timer is a Lightning callback"),
    ([[1.0] * 1000], TypeError, "but got [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, ...]."),
    ([torch.ones(1000)], TypeError, "but got <Tensor of shape (1000,), torch.float32>."),
    ([SAME, SAME], ValueError, "is given twice, as 'callback_set' and 'callback_set'."),
    ({"a": SAME, "b": SAME}, ValueError, "is given twice, as 'a' and 'b'. Make one instance for each."),
    ({3: SAME}, TypeError, "Expected the ids of the callbacks to be non-empty strings but got 3."),
    ({"": "history"}, TypeError, "Expected the ids of the callbacks to be non-empty strings but got ''."),
    ([weighted("1")], TypeError, "Expected the weight of callback 'callback_set' to be a number but got '1'."),
    ([weighted(True)], TypeError, "Expected the weight of callback 'callback_set' to be a number but got True."),
    ([weighted(float("nan"))], ValueError, "Expected the weight of callback 'callback_set' to be a number but got nan"),
]


@pytest.mark.parametrize(("callbacks", "error", "message"), REFUSED, ids=[message[:50] for *_, message in REFUSED])
def test_refuses(callbacks: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        CallbackSetAdapter(callbacks)
    assert re.search(re.escape(message), str(raised.value.args[0]))


@pytest.mark.parametrize("id", [Id.A, np.str_("a")])
def test_an_id_of_another_type_is_what_it_equals(id: Any) -> None:
    for ids in ({id: CallbackSetHistory}, [{id: CallbackSetHistory()}]):
        [key] = sources_by_id(ids)
        assert (key, type(key)) == ("a", str)
    assert list(fit({id: CallbackSetHistory()}).states) == ["a"]


@pytest.mark.parametrize(
    "source", [CallbackSetMisspelled, CallbackSetMisspelled(), TorchCallback(CallbackSetMisspelled)]
)
def test_a_method_that_looks_like_a_stage_warns(source: Any) -> None:
    with pytest.warns(UserWarning, match="looks like a stage") as warned:
        CallbackSetAdapter([source])
    assert [str(one.message) for one in warned] == [
        f"CallbackSetMisspelled.{name}() looks like a stage, but the training loop never calls it. Rename it {stage}."
        for name, stage in (("epoch_end", "on_epoch_end"), ("onBatchEnd", "on_batch_end"))
    ]


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("setup", "on_begin"),
        ("teardown", "on_exit"),
        ("before_step", "on_after_backward"),
        ("eval_end", "on_valid_end"),
    ],
)
def test_a_hook_of_another_library_warns(name: str, stage: str) -> None:
    hooked = type("CallbackSetHooked", (CallbackSet,), {name: nothing, stage: nothing})
    with pytest.warns(UserWarning, match=rf"{name}\(\) looks like a stage, .* never calls it. Rename it {stage}."):
        CallbackSetAdapter([hooked])


def test_a_method_that_the_callback_calls_itself_does_not() -> None:
    class CallbackSetHelped(CallbackSet):
        def on_begin(self) -> None:
            self.setup()

        def setup(self) -> None: ...

    sources_by_id([CallbackSetHelped])


@pytest.mark.parametrize("source", [CallbackSetEMA, CallbackSetEMA(), TorchCallback(CallbackSetEMA)])
def test_a_callback_without_a_stage_warns(source: Any) -> None:
    with pytest.warns(UserWarning, match=r"Callback 'ema' \(CallbackSetEMA\) has no stage, so it will do nothing"):
        CallbackSetAdapter([source])


@pytest.mark.parametrize("cls", [CallbackSetByItself, CallbackSetKeeps])
def test_a_callback_that_sets_its_stages_or_has_a_state_does_not(cls: type[CallbackSet]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CallbackSetAdapter([cls])
        CallbackSetAdapter([cls()])


class CallbackSetHeavyLater(CallbackSet):
    def __init__(self) -> None:
        self.weight = "much"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([TorchCallback(CallbackSetSized)], "Callback 'sized' cannot be made without 'size'."),
        (
            [TorchCallback(CallbackSetEMA, packages="no_such_thing")],
            "Callback 'ema' needs packages that are not installed",
        ),
        ([CallbackSetHeavyLater], "Expected the weight of callback 'heavy_later' to be a number but got 'much'."),
    ],
)
def test_refuses_when_the_fit_starts(callbacks: Any, message: str) -> None:
    adapter = CallbackSetAdapter(callbacks)
    with pytest.raises((TypeError, ModuleNotFoundError), match=message):
        fit(adapter)


def test_a_class_path_alone_is_one_callback() -> None:
    assert list(sources_by_id({"class_path": "callbacksets.CallbackSetHistory"})) == ["history"]
