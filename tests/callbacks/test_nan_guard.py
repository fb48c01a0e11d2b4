from pathlib import Path
from typing import Any

import pytest
import torch

from callbacksets import CallbackSetAdapter, CallbackSetCheckpoint, CallbackSetNanGuard, t_clbk
from tests.helpers import StageLog, Tiny, fit, ones


class Losing(Tiny):
    """Its loss is not finite from a batch on."""

    def __init__(self, at: int, value: float = float("nan")) -> None:
        super().__init__()
        self.at, self.value, self.batches = at, value, 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.batches += 1
        return super().training_step(batch, batch_idx) * (self.value if self.batches >= self.at else 1)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_ends_the_run_within_the_batch(value: str) -> None:
    log = StageLog("global_step", stages=("on_batch_end",))
    with pytest.raises(FloatingPointError, match=f"The training loss is {value} in epoch 2, step 1") as raised:
        fit({"guard": t_clbk("nan_guard"), "log": log}, Losing(3, float(value)), ones(2), max_epochs=3)
    assert log.at("batch_end") == [1, 2]
    assert "in callback 'guard' (CallbackSetNanGuard), on_batch_end, epoch 2, step 1" in raised.value.__notes__[0]


def test_a_finite_loss_trains_on() -> None:
    log = StageLog(stages=("on_end",))
    fit([CallbackSetNanGuard(), log], max_epochs=2)
    assert log.rows == ["end"]


@pytest.mark.parametrize(("every", "step"), [(1, 2), (2, 2), (3, 3), (100, 4)])
def test_looks_every_few_batches_and_before_a_validation(every: int, step: int) -> None:
    with pytest.raises(FloatingPointError, match=f"epoch 1, step {step}"):
        fit([CallbackSetNanGuard(every)], Losing(2), ones(4), ones(1))


def test_between_the_looks_the_loss_is_left_alone() -> None:
    read: list[int] = []

    class Stand:
        epoch, step, global_step = 1, 1, 0

        @property
        def last_loss(self) -> float:
            read.append(self.global_step)
            return 0.5

    callback = CallbackSetNanGuard(every=3)
    callback.ctx = Stand()  # type: ignore[assignment]
    for Stand.global_step in range(1, 8):
        callback.on_batch_end()
    assert read == [3, 6]


def test_nothing_of_the_run_so_far_is_lost(tmp_path: Path) -> None:
    callbacks = [
        t_clbk("nan_guard"),
        t_clbk("early_stopping", patience=9, restore_best_weights=True),
        t_clbk("history"),
        CallbackSetCheckpoint(tmp_path, freq=1),
    ]
    module = Losing(5)
    adapter = CallbackSetAdapter(callbacks)
    with pytest.raises(FloatingPointError):
        fit(adapter, module, ones(2), ones(1), max_epochs=9)
    assert adapter.states["history"]["epoch"] == [1, 2]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["epoch1.ckpt", "epoch2.ckpt"]
    assert torch.isfinite(module.network.weight).all()


@pytest.mark.parametrize(("every", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_bad_input(every: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="Expected every to be a whole number of at least 1"):
        CallbackSetNanGuard(every)
