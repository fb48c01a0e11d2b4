"""What has accumulated when a checkpoint is saved inside an epoch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import Metric

from callbacksets import CallbackSetAdapter
from callbacksets.fit.accumulated import collect
from tests.helpers import Act, Tiny, fit, ones, quiet


class Masks(Metric):
    """Keeps tuples, as the mean average precision of torchmetrics keeps its masks."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("masks", [])

    def _apply(self, fn: Any, exclude_state: Any = ()) -> Any:
        return super()._apply(fn, exclude_state=["masks"])

    def update(self) -> None:
        self.masks.append(((2, 3), b"mask"))

    def compute(self) -> torch.Tensor:
        return torch.tensor(float(len(self.masks)))


class Detects(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.masks = Masks()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.masks.update()
        self.log("train_masks", self.masks, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_metric_that_keeps_tuples_is_saved_and_goes_on(tmp_path: Path) -> None:
    def save(ctx: Any) -> None:
        if ctx.global_step == 2:
            ctx.trainer.save_checkpoint(tmp_path / "inside.ckpt")

    whole = fit({"save": Act(on_batch_end=save), "history": "history"}, Detects(), ones(4))
    resumed = CallbackSetAdapter(["history"])
    quiet(max_epochs=1, callbacks=[resumed]).fit(Detects(), ones(4), ckpt_path=tmp_path / "inside.ckpt")
    assert resumed.states["history"] == whole.states["history"]
    assert resumed.states["history"]["train.masks"] == [4.0]


def test_gradients_are_kept_as_copies() -> None:
    def look(ctx: Any) -> None:
        kept = collect(ctx.trainer, ctx.learner, in_epoch=True)["gradients"]
        gradient = ctx.learner.network.weight.grad
        assert torch.equal(kept["network.weight"], gradient)
        assert kept["network.weight"].data_ptr() != gradient.data_ptr()
        seen.append(True)

    seen: list[bool] = []
    fit(Act(on_batch_end=lambda ctx: ctx.global_step == 1 and look(ctx)), None, ones(4), accumulate_grad_batches=2)
    assert seen == [True]
