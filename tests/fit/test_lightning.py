"""Lightning's private parts that need more than a fit to be tested."""

import copy
import pickle
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacksets import CallbackSetAdapter, CallbackSetHistory
from callbacksets.fit.lightning import Tap, is_a, set_progress, tap
from callbacksets.fit.position import Continuation, Point
from tests.helpers import Act, Tiny, fit, ones, quiet


class Owner:
    def __init__(self) -> None:
        self.calls: list[int] = []

    def method(self, value: int) -> int:
        self.calls.append(value)
        return value


def doubled(method: Any, value: int) -> int:
    return 2 * int(method(value))


def test_a_tap_goes_and_what_was_there_before_is_back() -> None:
    owner = Owner()
    with ExitStack() as taps:
        tap(taps, owner, "method", doubled)
        tap(taps, owner, "method", doubled)
        assert owner.method(1) == 4
    assert "method" not in vars(owner)
    own = owner.method = lambda value: 7  # type: ignore[method-assign,assignment]
    with ExitStack() as taps:
        tap(taps, owner, "method", doubled)
        assert owner.method(1) == 14
    assert owner.method is own


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_has_its_own_method(copied: Any) -> None:
    owner = Owner()
    with ExitStack() as taps:
        tap(taps, owner, "method", doubled)
        other = copied(owner)
        assert isinstance(vars(owner)["method"], Tap)
        assert other.method(3) == 3
        assert (owner.calls, other.calls) == ([], [3])


def test_a_class_is_known_by_its_name() -> None:
    assert is_a(Owner(), "Owner")
    assert not is_a(Owner(), "Other")


def counts(ready: int, started: int, processed: int, completed: int) -> dict[str, int]:
    return {"ready": ready, "started": started, "processed": processed, "completed": completed}


@pytest.mark.parametrize("point", [Point.EPOCH, Point.BATCH, Point.VALIDATION])
def test_progress_is_written_where_the_run_goes_on(point: Point) -> None:
    epochs = counts(1, 1, 1, 1) if point is Point.EPOCH else counts(2, 2, 1, 1)

    def both(one: dict[str, int]) -> dict[str, Any]:
        return {"total": dict(one), "current": dict(one), "is_last_batch": True}

    loops: dict[str, Any] = {
        "state_dict": {},
        "epoch_progress": {"total": counts(2, 2, 1, 1), "current": counts(2, 2, 1, 1)},
        "epoch_loop.batch_progress": both(counts(7, 7, 6, 6)),
        "epoch_loop.val_loop.batch_progress": both(counts(3, 3, 2, 2)),
        "epoch_loop.optim_progress": {"step": {"total": {"ready": 7, "completed": 6}}},
    }
    set_progress(loops, Continuation(point, epochs=1, batch=2, batches=6))
    assert loops["epoch_progress"] == {"total": epochs, "current": epochs}
    progress = loops["epoch_loop.batch_progress"]
    assert (progress["current"], progress["total"]) == (counts(2, 2, 2, 2), counts(6, 6, 6, 6))
    assert progress["is_last_batch"] is (point is Point.EPOCH)
    assert loops["epoch_loop.optim_progress"]["step"]["total"] == {"ready": 6, "completed": 6}
    validation = loops["epoch_loop.val_loop.batch_progress"]["current"]
    assert validation == (counts(0, 0, 0, 0) if point is Point.VALIDATION else counts(3, 3, 2, 2))


class LogsOtherwise(Tiny):
    def log(self, name: str, value: Any, **kwargs: Any) -> None:
        super().log(name, value, prog_bar=name == "train_loss", **kwargs)


def test_a_module_may_log_with_other_arguments_when_it_goes_on_inside_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "inside.ckpt"
    save = Act(on_batch_end=lambda ctx: ctx.global_step == 2 and ctx.trainer.save_checkpoint(path))
    torch.manual_seed(0)
    whole = fit([CallbackSetHistory(), save], Tiny(), ones(4), max_epochs=2)
    adapter = CallbackSetAdapter([CallbackSetHistory(), Act()])
    trainer = quiet(max_epochs=2, callbacks=[adapter])
    trainer.fit(LogsOtherwise(), ones(4), ckpt_path=path)
    assert adapter.states["history"] == whole.states["history"]
    assert "train_loss" in trainer.progress_bar_metrics
