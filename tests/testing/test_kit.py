"""The kit: what it is asked, what it says, and what it leaves behind."""

import logging
import random
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any
from unittest import SkipTest

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from callbacksets import CallbackSet, CallbackSetCheckpoint, CallbackSetHistory, SupervisedModule, callback_set
from callbacksets.testing import CHECKS, check_callback_set
from callbacksets.testing.training import small_classifier
from tests.helpers import Tiny, ones, sampled
from tests.testing.helpers import failed
from tests.zoo import fits, states, training

pytest_plugins = ["pytester"]


@pytest.mark.parametrize("check", sampled(CHECKS, 3))
def test_one_test_for_each_check(check: str) -> None:
    check_callback_set(CallbackSetHistory, checks=check)


def test_the_middle_of_an_epoch_is_compared_with_any_loader() -> None:
    def training() -> tuple[L.LightningModule, Any, Any]:
        return Tiny(), ones(3), ones(1)

    with pytest.raises(AssertionError, match=r"(?s)fails 'resume'.*written after batch 1 of epoch 1"):
        check_callback_set(states.CallbackSetCountsInEpoch, checks="resume", training=training)


@pytest.mark.slow
def test_sound_wherever_its_class_was_made() -> None:
    class CallbackSetLocal(states.CallbackSetLosses): ...

    for local in (CallbackSetLocal, callback_set("CallbackSetMade", on_batch_end=lambda self: None)):
        check_callback_set(local, checks=["clone", "pickles", "weights_only", "round_trip"])


@pytest.mark.slow
@pytest.mark.release
def test_what_cannot_be_compared_is_skipped_with_a_reason() -> None:
    assert failed(states.CallbackSetCountsSessions) == ["start_over", "resume"]
    check_callback_set(states.CallbackSetCountsSessions, ["resume", "round_trip"], {"resume": "it counts sessions"})


@pytest.mark.slow
@pytest.mark.release
def test_all_failures_are_told_at_once() -> None:
    class CallbackSetLocal(fits.CallbackSetValidates, states.CallbackSetLive): ...

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


def test_the_checks_are_told() -> None:
    assert all(what and "\n" not in what for what in CHECKS.values())
    with pytest.raises(TypeError):
        CHECKS["more"] = ""  # type: ignore[index]


@pytest.mark.slow
def test_skipping() -> None:
    made: list[int] = []

    def make() -> CallbackSet:
        made.append(1)
        return states.CallbackSetForgets()

    with pytest.raises(SkipTest, match=r"^it forgets$"):
        check_callback_set(make, checks="round_trip", skip={"round_trip": "it forgets"})
    assert not made
    check_callback_set(make, skip=dict.fromkeys(("round_trip", "resume"), "it forgets"))


def test_pytest_takes_a_skip_for_one_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import pytest\n"
        "from callbacksets import CallbackSetHistory\n"
        "from callbacksets.testing import CHECKS, check_callback_set\n"
        "@pytest.mark.parametrize('check', CHECKS)\n"
        "def test_it(check):\n"
        "    check_callback_set(CallbackSetHistory, checks=check, skip=dict.fromkeys(CHECKS, 'no time today'))\n"
    )
    result = pytester.runpytest_inprocess("-rs", "-p", "no:cacheprovider", "-p", "no:xdist")
    result.assert_outcomes(skipped=len(CHECKS))
    result.stdout.fnmatch_lines("*no time today*")


def test_training_of_ones_own() -> None:
    seen: list[Any] = []

    class CallbackSetLooks(CallbackSet):
        def on_batch_end(self) -> None:
            seen.append((type(self.ctx.learner), self.ctx.batch.shape))

    def training() -> tuple[L.LightningModule, Any, Any]:
        return Tiny(), ones(3), ones(1)

    check_callback_set(CallbackSetLooks, checks=["fits_are_independent", "resume"], training=training)
    assert set(seen) == {(Tiny, (2, 2))}


@pytest.mark.slow
def test_it_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    functions = time.time, time.monotonic, time.perf_counter, time.sleep, time.time_ns
    threads, level, filters = torch.get_num_threads(), logging.getLogger("lightning.pytorch").level, warnings.filters[:]
    torch.manual_seed(1)
    random.seed(1)
    expected = torch.rand(1), random.random()
    torch.manual_seed(1)
    random.seed(1)
    check_callback_set(lambda: CallbackSetCheckpoint("checkpoints", freq=1), checks=["resume", "interruption"])
    assert (torch.rand(1), random.random()) == expected
    assert (time.time, time.monotonic, time.perf_counter, time.sleep, time.time_ns) == functions
    assert torch.get_num_threads() == threads
    assert logging.getLogger("lightning.pytorch").level == level
    assert warnings.filters[:] == filters
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


# --- what is the callback's fault, and what is not -------------------------------------------------------------------


class CallbackSetLooks(CallbackSet):
    def on_batch_end(self) -> None:
        self.loss = self.ctx.last_loss


def shuffled() -> tuple[L.LightningModule, Any, Any]:
    module, train, valid = small_classifier()
    return module, DataLoader(train.dataset, batch_size=8, shuffle=True), valid


def shuffled_by_its_own() -> tuple[L.LightningModule, Any, Any]:
    module, train, valid = small_classifier()
    generator = torch.Generator().manual_seed(1)
    return module, DataLoader(train.dataset, batch_size=8, shuffle=True, generator=generator), valid


def of_one_module(module: L.LightningModule) -> tuple[L.LightningModule, Any, Any]:
    return module, *small_classifier()[1:]


def broken() -> tuple[L.LightningModule, Any, Any]:
    return SupervisedModule(nn.Linear(3, 2), nn.MSELoss(), partial(torch.optim.SGD, lr=0.1)), *small_classifier()[1:]


@pytest.mark.slow
def test_a_shuffled_loader_goes_on_exactly() -> None:
    check_callback_set(CallbackSetLooks, checks=["resume", "leaves_training_alone"], training=shuffled)
    assert failed(states.CallbackSetDecays, checks="resume", training=shuffled) == ["resume"]


@pytest.mark.slow
def test_a_loader_may_have_a_generator_of_its_own() -> None:
    check_callback_set(CallbackSetLooks, checks=["resume", "leaves_training_alone"], training=shuffled_by_its_own)


@pytest.mark.parametrize("check", ["fits_are_independent", "resume"])
def test_a_module_that_is_not_made_anew_is_at_fault(check: str) -> None:
    training = partial(of_one_module, small_classifier()[0])
    message = rf"(?s)^The check '{check}' cannot run, because training= is at fault. Two fits without.*make new objects"
    with pytest.raises(AssertionError, match=message):
        check_callback_set(CallbackSetLooks, checks=check, training=training)


@pytest.mark.slow
def test_a_callback_that_draws_random_numbers_changes_what_training_draws() -> None:
    class CallbackSetDraws(CallbackSet):
        def on_batch_begin(self) -> None:
            self.noise = torch.rand(1)

    message = "differs from the same fit.*First difference: in on_batch_end of batch 1 of epoch 1, the weights.*random"
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_callback_set(CallbackSetDraws, checks="leaves_training_alone")
    check_callback_set(CallbackSetDraws, checks="resume")


@pytest.mark.slow
@pytest.mark.release
def test_what_is_meant_to_last_may_be_skipped_with_that_reason() -> None:
    reason = "it prunes before validation, so that the scores are of the pruned network"
    check_callback_set(training.CallbackSetPrunesForValidation, skip={"leaves_training_alone": reason})


@pytest.mark.slow
def test_a_wrong_remedy_is_not_given_where_resume_is_asked_for_alone() -> None:
    with pytest.raises(AssertionError, match=r"(?s)^\w+ fails 'resume'.*on_begin resets state\['average'\]"):
        check_callback_set(states.CallbackSetStartsFromCopy, checks="resume")


class Odd:
    """Cannot be compared, nor read when it was saved."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("no such thing")

    def __reduce__(self) -> Any:
        return _unreadable, ()


def _unreadable() -> Odd:
    raise LookupError("it is gone")


class CallbackSetOdd(states.CallbackSetLosses):
    def state_dict(self) -> Any:
        return {"odd": _Kept()}


class _Kept(Odd):
    def __deepcopy__(self, memo: Any) -> "_Kept":
        return _Kept()


@pytest.mark.parametrize("check", sampled(CHECKS, 3))
def test_whatever_a_state_holds_a_check_ends_in_a_finding(check: str) -> None:
    assert failed(CallbackSetOdd, checks=check) in ([], [check])


def test_a_state_that_cannot_be_read_again_is_told() -> None:
    with pytest.raises(AssertionError, match=r"with weights_only=False it cannot be read either \(LookupError: it is"):
        check_callback_set(CallbackSetOdd, checks="weights_only")


# --- what stands beside ----------------------------------------------------------------------------------------------


class CallbackSetTeacher(CallbackSet):
    """A module depends on it."""

    def on_begin(self) -> None:
        self.ctx.learner.teacher = float


class CallbackSetFailingTeacher(CallbackSetTeacher):
    """It counts, and forgets."""

    def __init__(self) -> None:
        self.batches = 0

    def on_batch_end(self) -> None:
        self.batches += 1
        self.ctx.optimizer.param_groups[0]["lr"] = 0.1 / self.batches


class Taught(Tiny):
    """Trains only if it has a teacher."""

    teacher: Any = None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.teacher(1)
        return super().training_step(batch, batch_idx)


def taught() -> tuple[L.LightningModule, Any, Any]:
    return Taught(), ones(3), ones(1)


@pytest.mark.slow
def test_a_module_may_need_the_callback_to_train() -> None:
    check_callback_set(CallbackSetTeacher, training=taught)
    assert failed(CallbackSetFailingTeacher, checks=["leaves_training_alone", "resume"], training=taught) == ["resume"]


@pytest.mark.slow
@pytest.mark.release
def test_a_module_may_need_another_callback_to_train() -> None:
    checks = ["leaves_training_alone", "resume", "fits_are_independent", "start_over"]
    with pytest.raises(AssertionError, match=r"'NoneType' object is not callable.*other callbacks, give them.*beside"):
        check_callback_set(CallbackSetLooks, checks=checks, training=taught)
    for beside in (CallbackSetTeacher, [CallbackSetTeacher()], {"it": CallbackSetTeacher}):
        check_callback_set(CallbackSetLooks, checks=checks, training=taught, beside=beside)


class CallbackSetWorst(CallbackSet):
    """Reads another callback."""

    def __init__(self) -> None:
        self.worst: int | None = None

    def on_valid_end(self) -> None:
        kept: Any = self.ctx.callbacks["predictions"]
        self.worst = nn.functional.cross_entropy(kept.y_hat, kept.y, reduction="none").argmax().item()

    def state_dict(self) -> Any:
        return {"worst": self.worst}

    def load_state_dict(self, state_dict: Any) -> None:
        self.worst = state_dict["worst"]


@pytest.mark.slow
def test_a_callback_may_read_another_one() -> None:
    remedy = "may be None"
    reason = {
        "no_validation": f"predictions {remedy}",
        "start_over": "the last sample stays until the first validation",
    }
    check_callback_set(CallbackSetWorst, skip=reason, beside="predictions")


@pytest.mark.slow
def test_of_an_instance_beside_every_fit_has_a_copy() -> None:
    counts = fits.CallbackSetOwns()
    check_callback_set(CallbackSetLooks, checks=["resume", "start_over"], beside=counts)
    assert counts.seen == []


# --- tensors with their graph ----------------------------------------------------------------------------------------


class CallbackSetStateWithGraph(CallbackSet):
    def __init__(self) -> None:
        self.outputs: list[torch.Tensor] = []

    def on_batch_end(self) -> None:
        self.outputs = [self.ctx.y_hat]

    def state_dict(self) -> Any:
        return {"outputs": list(self.outputs)}

    def load_state_dict(self, state_dict: Any) -> None:
        self.outputs = state_dict["outputs"]


@pytest.mark.parametrize("check", ["no_graph", "resume", "clone", "weights_only"])
def test_a_graph_in_a_state_is_told_by_any_check(check: str) -> None:
    message = rf"fails '{check}'(?s:.*)self.outputs\[0\] holds a tensor with the graph .* tensor.detach\(\)"
    with pytest.raises(AssertionError, match=message):
        check_callback_set(CallbackSetStateWithGraph, checks=check)


def test_a_private_helper_may_be_called_like_a_stage() -> None:
    class CallbackSetHelped(CallbackSet):
        def on_batch_begin(self) -> None:
            self._begin()

        def _begin(self) -> None: ...

    check_callback_set(CallbackSetHelped, checks="stages")
