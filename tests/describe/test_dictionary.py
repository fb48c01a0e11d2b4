"""The dictionary: keys, values, and what turns into descriptors."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.optim import lr_scheduler

import callbacksets
from callbacksets import (
    CallbackSet,
    CallbackSetAdapter,
    CallbackSetHistory,
    TorchCallback,
    as_torch_callback,
    as_torch_callbacks,
    select_all,
    t_clbk,
    t_clbks,
    torch_callback,
    torch_callbacks,
)
from callbacksets.describe.dictionary import DictionaryTorchCallbacks

REQUIRED: dict[str, dict[str, Any]] = {
    "checkpoint": {"path": "checkpoints", "freq": 1},
    "early_stopping": {"patience": 5},
    "grad_norm": {},
    "history": {},
    "lr_cosine_annealing": {"T_max": 3},
    "lr_lambda": {"lr_lambda": float},
    "lr_monitor": {},
    "lr_multiplicative": {"lr_lambda": float},
    "lr_one_cycle": {"max_lr": 0.1},
    "lr_reduce_on_plateau": {},
    "lr_step": {"step_size": 2},
    "nan_guard": {},
    "predictions": {},
    "progress": {},
    "tb": {"path": "runs"},
    "unfreeze": {"starting_weights": select_all(), "unfreeze": []},
}
SCHEDULERS: dict[str, type[lr_scheduler.LRScheduler]] = {
    "lr_cosine_annealing": lr_scheduler.CosineAnnealingLR,
    "lr_lambda": lr_scheduler.LambdaLR,
    "lr_multiplicative": lr_scheduler.MultiplicativeLR,
    "lr_one_cycle": lr_scheduler.OneCycleLR,
    "lr_reduce_on_plateau": lr_scheduler.ReduceLROnPlateau,
    "lr_step": lr_scheduler.StepLR,
}


class CallbackSetMine(CallbackSet):
    """Has parameters with the names of fields."""

    def __init__(self, label: str = "a", id: int = 0, **others: Any) -> None:
        self.label, self.id, self.others = label, id, others


@pytest.fixture
def added() -> Iterator[str]:
    torch_callbacks.add("mine", lambda: TorchCallback(CallbackSetMine))
    yield "mine"
    del torch_callbacks._makes["mine"]


def test_keys() -> None:
    assert list(torch_callbacks) == list(torch_callbacks.keys()) == list(REQUIRED)
    assert len(torch_callbacks) == 16
    assert "history" in torch_callbacks
    assert "histry" not in torch_callbacks
    assert torch_callbacks.get("histry") is None


@pytest.mark.parametrize("key", REQUIRED)
def test_every_key_generates(key: str) -> None:
    descriptor = t_clbk(key)
    assert descriptor.id == key
    assert descriptor.label != key
    assert sorted(descriptor.param_set.required) == sorted(REQUIRED[key])
    callback = t_clbk(key, **REQUIRED[key], weight=7).generate()
    assert type(callback) is descriptor.generator
    assert type(callback).__name__ in callbacksets.__all__
    assert callback.weight == 7
    assert t_clbk(key, **REQUIRED[key]).generate().weight == descriptor.generator.weight


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: t_clbk("early_stopping", patience=0), ValueError, "patience to be a whole number of at least 1"),
        (lambda: CallbackSetAdapter([{"early_stopping": {"patience": "five"}}]), TypeError, "but got 'five'"),
        (lambda: t_clbk("early_stopping", patience=3, mode="mni"), ValueError, "mode to be one of.*mean 'min'"),
        (lambda: t_clbk("early_stopping", patience=3).param_set.set_values(patience=-1), ValueError, "but got -1"),
        (lambda: t_clbk("lr_step", step_size=0), ValueError, "step_size to be a whole number of at least 1"),
        (lambda: t_clbk("checkpoint", path="a").param_set.set_values(freq=0), ValueError, "freq to be"),
        (
            lambda: t_clbk("checkpoint", freq=-1),
            ValueError,
            "Expected freq to be a whole number of at least 1 but got -1",
        ),
        (lambda: t_clbk("early_stopping", min_delta=-1), ValueError, "Expected min_delta to be a number of at least 0"),
        (lambda: t_clbk("tb", log_train_loss=3), TypeError, "Expected log_train_loss to be True or False"),
        (lambda: t_clbk("lr_one_cycle", pct_start=2), ValueError, "Expected pct_start to be"),
        (lambda: t_clbk("lr_step", gamma=-1), ValueError, "Expected gamma to be"),
        (lambda: t_clbk("unfreeze", unfreeze=[{"epoch": 0}]), ValueError, r"Expected unfreeze\[0\] to have 'weights'"),
        (lambda: t_clbk("unfreeze", starting_weights="head"), TypeError, "starting_weights to be a selector"),
        (lambda: as_torch_callback("checkpoint", freq=0), ValueError, "Expected freq to be"),
        (lambda: TorchCallback(CallbackSetHistory).param_set.set_values(n=1), TypeError, "no parameter 'n'"),
    ],
)
def test_values_are_refused_when_they_are_given(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("key", REQUIRED)
def test_required_values_may_come_one_after_the_other(key: str) -> None:
    descriptor = t_clbk(key)
    for name, value in REQUIRED[key].items():
        descriptor.param_set.set_values(**{name: value})
    assert descriptor.param_set.values == REQUIRED[key]
    assert descriptor.param_set.missing == []


def test_a_value_that_was_refused_is_not_there() -> None:
    descriptor = t_clbk("early_stopping", patience=3)
    with pytest.raises(ValueError, match="patience"):
        descriptor.param_set.set_values(patience=0)
    assert descriptor.generate().patience == 3
    with pytest.raises(ValueError, match="patience"):
        descriptor.clone().param_set.set_values(patience=0)


def test_the_constructor_of_a_users_callback_runs_for_a_fit_only() -> None:
    made: list[int] = []

    class CallbackSetMine(CallbackSet):
        def __init__(self, n: int) -> None:
            made.append(n)

    descriptor = TorchCallback(CallbackSetMine)
    descriptor.param_set.set_values(n=1)
    assert made == []


def test_an_iterator_is_left_for_the_fit() -> None:
    rows = iter([{"epoch": 2, "weights": select_all()}])
    descriptor = t_clbk("unfreeze", starting_weights=select_all(), unfreeze=rows)
    assert len(descriptor.generate().unfreeze) == 1


@pytest.mark.parametrize("key", SCHEDULERS)
def test_parameters_of_schedulers_are_torchs(key: str) -> None:
    torchs = set(callbacksets.ParamSet.from_callable(SCHEDULERS[key], without=("optimizer",)).ids())
    own = {"monitor"} if key == "lr_reduce_on_plateau" else set()
    assert set(t_clbk(key).param_set.ids()) == torchs | own


def test_values_are_parameters_or_fields() -> None:
    descriptor = t_clbk("early_stopping", patience=5, mode="max", id="stop", label="Stop", weight=3)
    assert descriptor.param_set.values == {"patience": 5, "mode": "max"}
    assert (descriptor.id, descriptor.label, descriptor.weight) == ("stop", "Stop", 3)


def test_a_parameter_goes_before_a_field_of_its_name(added: str) -> None:
    descriptor = t_clbk(added, label="b", id=3, weight=2, anything=1)
    assert descriptor.param_set.values == {"label": "b", "id": 3, "anything": 1}
    assert (descriptor.id, descriptor.label, descriptor.weight) == ("mine", "mine", 2)


def test_every_look_makes_a_new_one() -> None:
    t_clbk("history", id="other").packages.append("torch")
    assert t_clbk("history").id == "history"
    assert torch_callbacks["history"].packages == []


def test_a_number_makes_an_id(added: str) -> None:
    assert t_clbk("history_1").id == "history_1"
    assert t_clbk("history_1").generator is CallbackSetHistory
    assert t_clbk("early_stopping_12", patience=2).id == "early_stopping_12"
    assert t_clbk("history_1", id="x").id == "x"
    torch_callbacks.add("mine_1", lambda: TorchCallback(CallbackSetMine, id="of_its_own"))
    assert t_clbk("mine_1").id == "of_its_own"
    del torch_callbacks._makes["mine_1"]


def test_without_a_key_it_is_the_dictionary() -> None:
    assert t_clbk() is torch_callbacks
    assert t_clbks() is torch_callbacks


@pytest.mark.parametrize(
    ("keys", "ids"),
    [
        ([], {}),
        ("history", {"history": "history"}),
        (("history", "progress"), {"history": "history", "progress": "progress"}),
        (["history", "history_1"], {"history": "history", "history_1": "history"}),
        ({"a": "history", "b": "history_2"}, {"a": "history", "b": "history"}),
    ],
)
def test_several(keys: Any, ids: dict[str, str]) -> None:
    descriptors = t_clbks(keys)
    assert list(descriptors) == list(ids)
    for id, key in ids.items():
        assert descriptors[id].id == id
        assert descriptors[id].generator is t_clbk(key).generator


def test_users_add_their_own(added: str) -> None:
    assert t_clbk(added).generator is CallbackSetMine
    assert list(torch_callbacks) == sorted([*REQUIRED, added])
    torch_callbacks.add(added, lambda: TorchCallback(CallbackSetHistory))
    assert t_clbk(added).generator is CallbackSetHistory


def test_table() -> None:
    callbacks = DictionaryTorchCallbacks()
    callbacks.add("b", lambda: torch_callback("b", on_end=print_nothing, on_begin=print_nothing, packages=["x", "y"]))
    callbacks.add("a", lambda: TorchCallback(CallbackSetMine, label="Long Label", weight=-0.5))
    assert repr(callbacks) == (
        "key  label       weight  packages  stages\n"
        "a    Long Label  -0.5    -         -\n"
        "b    B           0       x, y      on_begin, on_end"
    )
    lines = repr(torch_callbacks).splitlines()
    assert [line.split()[0] for line in lines] == ["key", *REQUIRED]
    assert lines[1].split()[:3] == ["checkpoint", "Checkpoint", "inf"]


@pytest.mark.slow
def test_the_module_prints_the_table(tmp_path: Path) -> None:
    source = Path(callbacksets.__file__).parents[1]
    printed = subprocess.run(
        [sys.executable, "-m", "callbacksets"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(source)},
    )
    assert printed.stdout == f"{torch_callbacks!r}\n"


def print_nothing(self: Any) -> None: ...


def test_as_torch_callback() -> None:
    descriptor = t_clbk("history")
    assert as_torch_callback(descriptor) is descriptor
    assert as_torch_callback("history_1").id == "history_1"
    assert as_torch_callback(CallbackSetMine).generator is CallbackSetMine
    assert as_torch_callback(CallbackSetMine).id == "mine"


def test_as_torch_callback_with_values() -> None:
    assert as_torch_callback("checkpoint", freq=2).param_set.values == {"freq": 2}
    mine = as_torch_callback(CallbackSetMine, id="a", weight=3, other=1)
    assert (mine.id, mine.weight, mine.param_set.values) == ("a", 3, {"other": 1})
    assert as_torch_callback("history_1", id="b").id == "b"


def test_as_torch_callback_leaves_the_descriptor_as_it_was() -> None:
    rows: list[Any] = []
    descriptor = t_clbk("unfreeze", starting_weights=select_all(), unfreeze=rows)
    changed = as_torch_callback(descriptor, id="a", label="A")
    assert (changed.id, changed.label, descriptor.id) == ("a", "A", "unfreeze")
    assert changed.param_set.values["unfreeze"] is rows
    deep = as_torch_callback(descriptor, clone=True)
    assert deep is not descriptor
    assert deep.param_set.values["unfreeze"] is not rows


def test_values_for_each_of_several() -> None:
    descriptors = t_clbks(["progress", "progress_1"], digits=3)
    assert [one.param_set.values for one in descriptors.values()] == [{"digits": 3}] * 2
    [(id, renamed)] = t_clbks({"bar": "progress"}, digits=1, weight=2).items()
    assert (id, renamed.id, renamed.weight, renamed.param_set.values) == ("bar", "bar", 2, {"digits": 1})


def test_as_torch_callbacks() -> None:
    descriptor = t_clbk("history")
    for one in (descriptor, "history", CallbackSetHistory):
        assert list(map(repr, as_torch_callbacks(one))) == [repr(descriptor)]
    assert as_torch_callbacks(None) == as_torch_callbacks([]) == []
    several = as_torch_callbacks([descriptor, "progress", CallbackSetMine])
    assert several[0] is descriptor
    assert [one.id for one in several] == ["history", "progress", "mine"]
    assert [one.id for one in as_torch_callbacks({"a": descriptor, "b": "progress"})] == ["a", "b"]
    assert descriptor.id == "history"


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: t_clbk("histroy"), KeyError, "There is no callback 'histroy'. Did you mean 'history'? There are 'checkp"),
    (lambda: t_clbk("histroy_1"), KeyError, "There is no callback 'histroy_1'. Did you mean 'history'?"),
    (lambda: t_clbk(""), ValueError, "Expected key to be a non-empty string but got ''."),
    (lambda: t_clbk(3), TypeError, "Expected key to be a string but got 3."),
    (
        lambda: t_clbk("early_stopping", patince=1),
        TypeError,
        "Callback 'early_stopping' has no parameter 'patince'. Did you mean 'patience'? Its parameters are 'patience'",
    ),
    (
        lambda: t_clbk("history", lable="x"),
        TypeError,
        "Did you mean 'label'? Its parameters are none; you can also set 'id', 'label', 'weight'.",
    ),
    (lambda: t_clbk("lr_step", step_sise=1), TypeError, "Did you mean 'step_size'?"),
    (lambda: t_clbk("history", weight="1"), TypeError, "Expected weight to be a number but got '1'."),
    (lambda: t_clbk("history", id=""), ValueError, "Expected id to be a non-empty string but got ''."),
    (lambda: t_clbk("early_stopping").generate(), TypeError, "Callback 'early_stopping' cannot be made without 'pati"),
    (lambda: t_clbk("early_stopping", patience=0).generate(), ValueError, "Expected patience to be a whole number"),
    (
        lambda: t_clbks(["history", "history"]),
        ValueError,
        "'history' is given twice. Number the keys, as 'history_1' and 'history_2', or map ids to keys",
    ),
    (lambda: t_clbks(["history", 3]), TypeError, "Expected keys to be a non-empty string or several"),
    (lambda: t_clbks(["progress", "history"], digits=3), TypeError, "Callback 'history' has no parameter 'digits'."),
    (lambda: t_clbks(digits=3), TypeError, "Expected keys to be a non-empty string or several but got None."),
    (lambda: as_torch_callback("history", clone=1), TypeError, "Expected clone to be True or False but got 1."),
    (lambda: as_torch_callback(CallbackSetHistory, n=1), TypeError, "Callback 'history' has no parameter 'n'."),
    (lambda: t_clbks({"a": "histroy"}), KeyError, "Did you mean 'history'?"),
    (lambda: t_clbks({3: "history"}), TypeError, "Expected id to be a string but got 3."),
    (lambda: torch_callbacks["nothing like it"], KeyError, "There is no callback 'nothing like it'. There are"),
    (lambda: torch_callbacks.add(3, print), TypeError, "Expected key to be a string but got 3."),
    (
        lambda: torch_callbacks.add("x", CallbackSetMine),
        TypeError,
        "Expected make to be a function that makes a TorchCallback but got <class",
    ),
    (lambda: torch_callbacks.add("x", t_clbk("history")), TypeError, "Expected make to be a function that makes a"),
    (
        lambda: wrongly_added()["x"],
        TypeError,
        "Expected the function added as 'x' to make a TorchCallback but it returned",
    ),
    (
        lambda: as_torch_callback(CallbackSetMine()),
        TypeError,
        "Give its class, CallbackSetMine, or give the instance to",
    ),
    (lambda: as_torch_callback(3), TypeError, "Expected x to be a TorchCallback, a CallbackSet class or a dictionary"),
    (lambda: as_torch_callback(int), TypeError, "but got <class 'int'>."),
    (lambda: as_torch_callback(["history"]), TypeError, "but got ['history']."),
    (lambda: as_torch_callbacks(["history", None]), TypeError, "but got None."),
    (lambda: as_torch_callbacks(3), TypeError, "but got 3."),
]


def wrongly_added() -> DictionaryTorchCallbacks:
    callbacks = DictionaryTorchCallbacks()
    callbacks.add("x", lambda: CallbackSetMine())  # type: ignore[arg-type, return-value]
    return callbacks


@pytest.mark.parametrize(("do", "error", "message"), REFUSED, ids=[message[:50] for *_, message in REFUSED])
def test_refuses(do: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        do()
    assert re.search(re.escape(message), str(raised.value.args[0]))


def test_the_key_may_be_given_by_name_and_values_need_one() -> None:
    assert t_clbk(key="history").id == "history"
    with pytest.raises(TypeError, match="Expected key to be a string but got None"):
        t_clbk(patience=3)
