"""Saved at any moment and resumed, a run ends as the one that nothing interrupts: see `tests/exact.py`.

Where it does not, a warning says so, and the reason is one of those in docs/how-to/resume.md. All moments instead of
every eighth:

    CALLBACKSETS_MOMENTS=1 pytest tests/test_resumed_exactly.py
"""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from callbacksets import CallbackSet
from tests.exact import IN_STEP, LOADERS, TRAINERS, Saves, Setup, check, chosen, differences, run
from tests.helpers import RELEASE, sampled

EVERY = int(os.environ.get("CALLBACKSETS_MOMENTS", "8"))
USUAL = ["shuffled", "two batches a step", "validates twice"]
SETUPS = {name: Setup(loader=name) for name in LOADERS} | TRAINERS

pytestmark = pytest.mark.filterwarnings("ignore")  # of odd Trainers and data


def marks(name: str) -> Any:
    if name in USUAL[:2]:
        return ()
    return RELEASE if "with workers" in name else pytest.mark.slow


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in SETUPS])
def test_saved_at_any_moment(name: str, tmp_path: Path) -> None:
    if "torchdata" in name:
        pytest.importorskip("torchdata.stateful_dataloader")
    results = check(replace(SETUPS[name], moments=EVERY), tmp_path)
    assert len(results) >= 8
    told: Counter[str] = Counter()
    for moment, (differs, warned) in results.items():
        assert bool(differs) == bool(warned), (moment, differs, warned)  # never in silence, and no false alarm
        if differs:
            _, hook, _batch = moment.split(" ")
            assert hook in (*IN_STEP, "on_after_backward"), (moment, differs)
            told[hook] += 1
    is_inexact = name in ("dropout", "two batches a step", "three batches a step")
    assert not told or is_inexact, told


class Failure(Exception):
    pass


class FailsAtOnce(Saves):
    """Fails when training begins, before the adapter or in a callback, and saves that."""

    def __init__(self, folder: Path, who: str) -> None:
        super().__init__(folder)
        self.who = who

    def fail(self, *args: Any) -> None:
        raise Failure

    def native(self, who: str) -> L.Callback:
        callback = L.Callback()
        if who == "before":
            callback.on_exception = lambda trainer, *args: trainer.save_checkpoint(self.folder / "again")  # type: ignore[method-assign]
            if self.who == "before":
                callback.on_train_start = self.fail  # type: ignore[method-assign]
        return callback

    def own(self) -> CallbackSet:
        callback = CallbackSet()
        if self.who == "own":
            callback.on_begin = self.fail  # type: ignore[attr-defined]
        return callback


@pytest.mark.parametrize("who", ["before", pytest.param("own", marks=pytest.mark.slow)])
@pytest.mark.parametrize("loader", sampled(["shuffled", "torchdata, shuffled", "goes on"], 3))
def test_saved_once_more_before_the_resumed_run_has_gone_on(loader: str, who: str, tmp_path: Path) -> None:
    if "torchdata" in loader:
        pytest.importorskip("torchdata.stateful_dataloader")
    setup, (first, second) = Setup(loader=loader), (tmp_path / "first", tmp_path / "second")
    whole, saves = run(setup), Saves(first)
    second.mkdir()
    run(setup, saves=saves)
    starts = ("own on_batch_end 6.", "behind on_before_optimizer_step 8.", "before on_validation_start 8.")
    for start in (*starts, "own on_epoch_end 8."):
        name = next(name for name in saves.names if name.startswith(start))
        with pytest.raises(Failure):
            run(setup, first / name, FailsAtOnce(second, who))
        assert differences(whole, run(setup, second / "again")) == [], start


@pytest.mark.parametrize("name", sampled(USUAL, 3))
def test_resumed_twice_in_a_row(name: str, tmp_path: Path) -> None:
    """A run that was resumed inside an epoch is saved again before that epoch ends."""
    setup = SETUPS[name]
    whole = run(setup)
    first, second = Saves(tmp_path), Saves(tmp_path / "again")
    second.folder.mkdir()
    run(setup, saves=first)
    start = next(one for one in first.names if one.startswith("behind on_train_batch_end 6."))
    run(setup, tmp_path / start, saves=second)
    for moment in [one for one in chosen(second.names) if not is_in_step(one)][:: 2 * EVERY]:
        assert not differences(whole, run(setup, second.folder / moment)), moment


def is_in_step(moment: str) -> bool:
    return moment.split(" ")[1] in IN_STEP


def test_what_is_kept_is_small(tmp_path: Path) -> None:
    """Kilobytes, but for the gradients of an open window, and the batch under way."""
    sizes: dict[str, Any] = {}
    for random_state in (True, False):
        saves = Saves(tmp_path / str(random_state))
        saves.folder.mkdir()
        run(Setup(), saves=saves, adapter={"random_state": random_state})
        moment = next(one for one in saves.names if one.startswith("behind on_train_batch_end 6."))
        sizes[random_state] = (saves.folder / moment).stat().st_size
    assert sizes[True] - sizes[False] < 60_000
