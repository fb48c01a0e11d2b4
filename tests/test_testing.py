"""The test kit: it passes what is sound, finds what is broken, and says what to do."""

import ast
import inspect
import logging
import random
import re
import subprocess
import sys
import textwrap
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import SkipTest

import lightning as L
import numpy as np
import pytest
import torch
from packaging.version import Version
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from callbacksets import (
    CallbackSet,
    CallbackSetCheckpoint,
    CallbackSetEarlyStopping,
    CallbackSetGradNorm,
    CallbackSetHistory,
    CallbackSetLRMonitor,
    CallbackSetLRScheduler,
    CallbackSetLRSchedulerReduceOnPlateau,
    CallbackSetNanGuard,
    CallbackSetPredictions,
    CallbackSetProgress,
    CallbackSetTB,
    CallbackSetUnfreeze,
    callback_set,
    select_all,
    select_name,
    t_clbk,
)
from callbacksets.base import STAGES
from callbacksets.testing import CHECKS, StageRecorder, check_callback_set, make_context
from callbacksets.testing.compare import difference
from tests import zoo
from tests.helpers import Tiny, fit, ones

Make = Callable[[], CallbackSet]


def half(epoch: int) -> float:
    return 0.5


PREDEFINED: dict[str, Make] = {
    "checkpoint": lambda: CallbackSetCheckpoint("checkpoints", freq=1),
    "early_stopping": lambda: CallbackSetEarlyStopping(2, restore_best_weights=True),
    "early_stopping, plain": lambda: CallbackSetEarlyStopping(9, monitor="loss"),
    "grad_norm": CallbackSetGradNorm,
    "history": CallbackSetHistory,
    "lr_monitor": CallbackSetLRMonitor,
    "nan_guard": CallbackSetNanGuard,
    "predictions": CallbackSetPredictions,
    "progress": CallbackSetProgress,
    "lr_cosine_annealing": t_clbk("lr_cosine_annealing", T_max=4).generate,
    "lr_lambda": t_clbk("lr_lambda", lr_lambda=half).generate,
    "lr_multiplicative": t_clbk("lr_multiplicative", lr_lambda=half).generate,
    "lr_one_cycle": t_clbk("lr_one_cycle", max_lr=0.1).generate,
    "lr_reduce_on_plateau": t_clbk("lr_reduce_on_plateau", patience=0).generate,
    "lr_step": t_clbk("lr_step", step_size=1).generate,
    "tb": lambda: CallbackSetTB("events", log_train_loss=True),
    "unfreeze": lambda: CallbackSetUnfreeze(
        select_name("0.weight"),
        [{"epoch": 2, "weights": select_name("2.weight")}, {"epoch": 4, "weights": select_all()}],
    ),
    "unfreeze, by batch": lambda: CallbackSetUnfreeze(select_name("2.bias"), [{"batch": 7, "weights": select_all()}]),
}


def test_all_predefined_are_here() -> None:
    assert {name.split(",")[0] for name in PREDEFINED} == set(t_clbk())


@pytest.mark.parametrize("make", PREDEFINED.values(), ids=PREDEFINED)
def test_predefined(make: Make) -> None:
    check_callback_set(make)


@pytest.mark.parametrize("check", CHECKS)
def test_one_test_for_each_check(check: str) -> None:
    check_callback_set(CallbackSetHistory, checks=check)


# --- the zoo ---------------------------------------------------------------------------------------------------------


def failed(make: Make, **arguments: Any) -> list[str]:
    """The checks that a callback fails."""
    try:
        check_callback_set(make, **arguments)
    except AssertionError as error:
        return re.findall(r"^- (\w+):", str(error), flags=re.MULTILINE)
    return []


@pytest.mark.parametrize("broken", zoo.ZOO, ids=lambda broken: broken.__name__)
def test_broken(broken: type[CallbackSet]) -> None:
    if broken is zoo.CallbackSetCountsInEpoch and Version(L.__version__) < Version("2.5"):
        pytest.skip("resumed inside an epoch, Lightning 2.4 validates at once, so that nothing is compared there")
    check, message = zoo.ZOO[broken]
    with pytest.raises(AssertionError, match=rf"(?s)^{broken.__name__} fails '{check}'\.\n- {check}: .*{message}"):
        check_callback_set(broken)
    zoo.KEPT.clear()


def test_the_middle_of_an_epoch_is_compared_where_the_loader_goes_on_there() -> None:
    def training() -> tuple[L.LightningModule, Any, Any]:
        return Tiny(), ones(3), ones(1)

    check_callback_set(zoo.CallbackSetCountsInEpoch, checks="resume", training=training)


def test_every_check_has_a_broken_callback() -> None:
    assert {check for check, _ in zoo.ZOO.values()} == set(CHECKS)


@pytest.mark.parametrize(
    "sound",
    [
        CallbackSet,
        StageRecorder,
        zoo.CallbackSetLastLoss,
        zoo.CallbackSetLosses,
        zoo.CallbackSetRefuses,
        zoo.CallbackSetByTheClock,
        zoo.CallbackSetLoadsInBegin,
        zoo.CallbackSetStops,
    ],
)
def test_sound(sound: type[CallbackSet]) -> None:
    check_callback_set(sound)


def test_sound_wherever_its_class_was_made() -> None:
    class CallbackSetLocal(zoo.CallbackSetLosses): ...

    check_callback_set(CallbackSetLocal)
    check_callback_set(callback_set("CallbackSetMade", on_batch_end=lambda self: None))


def test_what_cannot_be_compared_is_skipped_with_a_reason() -> None:
    assert failed(zoo.CallbackSetCountsSessions) == ["resume"]
    check_callback_set(zoo.CallbackSetCountsSessions, skip={"resume": "it counts sessions"})


def test_all_failures_are_told_at_once() -> None:
    class CallbackSetLocal(zoo.CallbackSetValidates, zoo.CallbackSetLive): ...

    assert failed(CallbackSetLocal) == ["no_validation", "no_aliasing"]


@pytest.mark.parametrize("check", [None, "resume"])
def test_a_callback_that_fails_in_an_ordinary_fit(check: str | None) -> None:
    class CallbackSetBroken(CallbackSet):
        def on_batch_end(self) -> None:
            self.ctx.no_such_field  # noqa: B018

    message = (
        r"fails '\w+'\.\n.*\n  But: It fails in an ordinary fit. AttributeError: ctx has no.*on_batch_end, epoch 1"
    )
    with pytest.raises(AssertionError, match=message) as caught:
        check_callback_set(CallbackSetBroken, checks=check)
    assert isinstance(caught.value.__cause__.__cause__, AttributeError)


def test_a_callback_that_cannot_be_made() -> None:
    def make() -> CallbackSet:
        return type("X", (CallbackSet,), {"on_epoch_ned": print})()

    with pytest.raises(AssertionError, match=r"(?s)The callback fails 'stages'.*Did you mean 'on_epoch_end'"):
        check_callback_set(make)


# --- mutations of the predefined callbacks ---------------------------------------------------------------------------


def without_a_line(function: Callable[..., Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The function less one of its statements, for each of them."""
    source = textwrap.dedent(inspect.getsource(function))
    for line in range(len(ast.parse(source).body[0].body)):
        tree = ast.parse(source)
        definition: Any = tree.body[0]
        removed = definition.body[line]
        definition.body[line] = ast.copy_location(ast.Pass(), removed)
        namespace = dict(inspect.getmodule(function).__dict__)
        exec(compile(ast.fix_missing_locations(tree), "<mutant>", "exec"), namespace)
        yield ast.unparse(removed), namespace[definition.name]


def subclass(make: Make, **members: Any) -> Make:
    """Makes callbacks of a class that differs from the other's."""

    def make_mutant() -> CallbackSet:
        callback = make()
        callback.__class__ = type(type(callback).__name__, (type(callback),), members)
        return callback

    return make_mutant


def starts_over_always(self: CallbackSet) -> None:
    self.start_over()
    if begin := getattr(super(self.__class__, self), "on_begin", None):
        begin()


def live_state(self: CallbackSet) -> Any:
    state = super(self.__class__, self).state_dict()
    live = vars(self).setdefault("live", {})
    live.clear()
    live.update(state or {})
    return live


WITH_STATE = {
    name: make
    for name, make in PREDEFINED.items()
    # what is to be unfrozen follows from the counts, unless a run is resumed with other rows
    if type(make()).load_state_dict is not CallbackSet.load_state_dict and not name.startswith("unfreeze")
}
STATE_CHECKS = ["round_trip", "begin_keeps_state", "no_aliasing", "resume"]
MUTANTS: dict[str, Make] = {}
for name, make in WITH_STATE.items():
    MUTANTS[f"{name}: start over in begin"] = subclass(make, on_begin=starts_over_always)
    if name not in ("checkpoint", "lr_monitor"):  # their state stays what it is
        MUTANTS[f"{name}: a live state"] = subclass(make, state_dict=live_state)
for name, owner in {
    "checkpoint": CallbackSetCheckpoint,
    "early_stopping": CallbackSetEarlyStopping,
    "history": CallbackSetHistory,
    "progress": CallbackSetProgress,
    "lr_step": CallbackSetLRScheduler,
    "lr_reduce_on_plateau": CallbackSetLRSchedulerReduceOnPlateau,
}.items():
    for line, mutant in without_a_line(owner.load_state_dict):
        if line.startswith("if self.ctx is None"):
            continue  # a state that is loaded in the middle of a fit: tests/callbacks/test_lr_scheduler.py
        MUTANTS[f"{name}: without {line}"] = subclass(PREDEFINED[name], load_state_dict=mutant)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_found(mutant: str) -> None:
    assert failed(MUTANTS[mutant], checks=STATE_CHECKS)


@pytest.mark.parametrize("name", WITH_STATE)
def test_no_mutant_is_found_for_being_one(name: str) -> None:
    assert not failed(subclass(WITH_STATE[name]), checks=STATE_CHECKS)


# --- the kit itself --------------------------------------------------------------------------------------------------


def test_the_checks_are_told() -> None:
    assert all(what and "\n" not in what for what in CHECKS.values())
    with pytest.raises(TypeError):
        CHECKS["more"] = ""  # type: ignore[index]


def test_skipping() -> None:
    made: list[int] = []

    def make() -> CallbackSet:
        made.append(1)
        return zoo.CallbackSetForgets()

    with pytest.raises(SkipTest, match=r"^it forgets$"):
        check_callback_set(make, checks="round_trip", skip={"round_trip": "it forgets"})
    assert not made
    check_callback_set(make, skip={"round_trip": "it forgets"})


def test_pytest_takes_a_skip_for_one_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "from callbacksets import CallbackSetHistory\n"
        "from callbacksets.testing import CHECKS, check_callback_set\n"
        "@pytest.mark.parametrize('check', CHECKS)\n"
        "def test_it(check):\n"
        "    check_callback_set(CallbackSetHistory, checks=check, skip=dict.fromkeys(CHECKS, 'no time today'))\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout
    assert f"{len(CHECKS)} skipped" in out
    assert "no time today" in out


def test_pytest_is_not_needed() -> None:
    code = "import callbacksets, sys; assert 'callbacksets.testing' not in sys.modules\n"
    code += "import callbacksets.testing; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_training_of_ones_own() -> None:
    seen: list[Any] = []

    class CallbackSetLooks(CallbackSet):
        def on_batch_end(self) -> None:
            seen.append((type(self.ctx.learner), self.ctx.batch.shape))

    def training() -> tuple[L.LightningModule, Any, Any]:
        return Tiny(), ones(3), ones(1)

    check_callback_set(CallbackSetLooks, checks=["fits_are_independent", "resume"], training=training)
    assert set(seen) == {(Tiny, (2, 2))}


def test_it_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    functions = time.time, time.monotonic, time.perf_counter, time.sleep, time.time_ns
    threads, level, filters = torch.get_num_threads(), logging.getLogger("lightning.pytorch").level, warnings.filters[:]
    torch.manual_seed(1)
    random.seed(1)
    expected = torch.rand(1), random.random()
    torch.manual_seed(1)
    random.seed(1)
    check_callback_set(PREDEFINED["checkpoint"], checks=["resume", "interruption"])
    assert (torch.rand(1), random.random()) == expected
    assert (time.time, time.monotonic, time.perf_counter, time.sleep, time.time_ns) == functions
    assert torch.get_num_threads() == threads
    assert logging.getLogger("lightning.pytorch").level == level
    assert warnings.filters[:] == filters
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1}, {"b": 1}, "at ['a'] nothing instead of 1"),
        ({}, {"b": [1]}, "at ['b'] [1] instead of nothing"),
        (OrderedDict(a=1), {"a": 1}, None),
        (OrderedDict(a=1), {"a": 2}, "at ['a'] 2 instead of 1"),
        ([1, 2], [1], "[1] instead of [1, 2] (1 values instead of 2)"),
        ([1, {"x": (1, 2)}], [1, {"x": (1, 3)}], "at [1]['x'][1] 3 instead of 2"),
        ([1], (1,), "(1,) instead of [1]"),
        (1, 1.0, None),
        (1, True, "True instead of 1"),
        (float("nan"), float("nan"), None),
        (float("nan"), 1.0, "1.0 instead of nan"),
        (None, {}, "{} instead of None"),
        (torch.ones(2), torch.ones(2), None),
        (torch.ones(2), torch.ones(3), "tensor([1., 1., 1.]) instead of tensor([1., 1.])"),
        (torch.ones(1), torch.ones(1).double(), "tensor([1.], dtype=torch.float64) instead of tensor([1.])"),
        (torch.ones(2).numpy(), torch.ones(2).numpy(), None),
        (torch.ones(2).numpy(), torch.zeros(2).numpy(), "array([0., 0.], dtype=float32) instead of array([1., 1.]"),
        (nn.Identity(), nn.Identity(), None),
        ({1, 2}, {2, 1}, None),
        ("a", "b", "'b' instead of 'a'"),
    ],
)
def test_difference(one: Any, other: Any, told: str | None) -> None:
    found = difference(one, other)
    assert (found is None) if told is None else (found is not None and found.startswith(told))


# --- the recorder ----------------------------------------------------------------------------------------------------


def test_recorder() -> None:
    recorder = StageRecorder("epoch", "step", "last_scores_valid", "y_hat")
    fit(recorder, None, ones(1), ones(1), max_epochs=2)
    assert [row[0] for row in recorder.rows[:11]] == [*STAGES[:10], "on_epoch_begin"]
    assert [values[:2] for values in recorder.at("on_batch_end")] == [(1, 1), (2, 1)]
    first, second = (scores for _, _, scores, _ in recorder.at("on_valid_end"))
    assert first != second
    assert recorder.at("on_begin")[0][3] is None
    assert recorder.at("on_batch_end")[0][3].shape == (2, 1)


def test_recorder_of_some_stages() -> None:
    recorder = StageRecorder(stages=["on_end", "on_exit"])
    assert recorder.stages == ["on_end", "on_exit"]
    fit(recorder)
    assert recorder.rows == [("on_end",), ("on_exit",)]


def test_recorder_keeps_copies() -> None:
    recorder = StageRecorder("seen", "array", "loader_train", stages="on_batch_end")
    recorder.ctx = ctx = make_context(loader_train=(loader := ones(1)))
    ctx.seen, ctx.array = {1}, np.zeros(1)
    recorder.on_batch_end()
    ctx.seen.add(2)
    ctx.array[0] = 7
    assert recorder.rows == [("on_batch_end", {1}, np.zeros(1), loader)]


def test_recorder_of_a_field_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match=r"ctx has no field 'epohc'. Did you mean 'epoch'"):
        fit(StageRecorder("epohc"))


# --- the stand-in ----------------------------------------------------------------------------------------------------


def test_context_has_what_it_was_given() -> None:
    network = nn.Linear(1, 1)
    ctx = make_context(
        epoch=3, network=network, last_scores_valid={"acc": 0.5}, measures_valid={"acc": None}, minimize=lambda name: 7
    )
    assert (ctx.epoch, ctx.network) == (3, network)
    assert ctx.last_scores_valid[0] == ctx.last_scores_valid["acc"] == 0.5
    assert ctx.measures_valid.name(0) == "acc"
    assert ctx.minimize("acc") == 7
    assert ctx.terminate is False
    scored = make_context(last_scores_valid={"acc": 0.5, "loss": 2.0}, measures_valid={"acc": MulticlassAccuracy(2)})
    assert (scored.minimize(), scored.minimize("loss"), scored.minimize("other")) == (False, True, None)
    assert make_context().minimize() is None
    assert make_context(y_hats=(network, 2)).y_hat is network
    assert repr(make_context(epoch=3)) == "make_context(terminate=False, epoch=3)"
    assert make_context(last_scores_valid=None).last_scores_valid is None


def test_context_is_set_as_in_a_fit() -> None:
    batch = [torch.zeros(1), torch.ones(1)]
    ctx: Any = make_context(batch=batch)
    ctx.terminate = True
    ctx.batch = (torch.ones(1), torch.ones(1))
    ctx.last_scores_train = {"loss": 1.0}
    ctx.mine = 5
    assert ctx.terminate is True
    assert ctx.batch is batch
    assert batch[0] == 1
    assert ctx.last_scores_train[0] == 1.0
    assert ctx.mine == 5
