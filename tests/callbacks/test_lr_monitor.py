from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

from callbacksets import CallbackSetAdapter, CallbackSetHistory, t_clbk
from tests.helpers import Act, StageLog, Tiny, fit, ones, quiet


def test_is_the_rate_of_the_last_step_of_each_epoch() -> None:
    seen: list[float] = []
    look = Act(on_after_backward=lambda ctx: seen.append(ctx.optimizer.param_groups[0]["lr"]))
    adapter = fit([t_clbk("lr_one_cycle", max_lr=0.5), look, CallbackSetHistory(), t_clbk("lr_monitor")], max_epochs=3)
    assert adapter.states["history"]["train.lr"] == seen[1::2]


def test_a_scheduler_of_the_module_that_steps_with_every_batch() -> None:
    class Scheduled(Tiny):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            schedule = {"scheduler": ExponentialLR(optimizer, 0.5), "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    adapter = fit([t_clbk("lr_monitor"), CallbackSetHistory()], Scheduled(), ones(2), max_epochs=2)
    assert adapter.states["history"]["train.lr"] == [0.5, 0.125]


class Groups(Tiny):
    """Groups with the given names, None for no name, and a rate that is a tensor."""

    def __init__(self, *names: str | None, tensor: bool = False) -> None:
        super().__init__(nn.Sequential(*(nn.Linear(2, 2) for _ in names)))
        self.names, self.tensor = names, tensor

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": list(layer.parameters()), "lr": float(number + 1)} | ({"name": name} if name else {})
            for number, (name, layer) in enumerate(zip(self.names, self.network, strict=True))
        ]
        lr = torch.tensor(0.1) if self.tensor else 0.1
        return torch.optim.SGD([*({**group, "lr": lr} if self.tensor else group for group in groups)], lr=lr)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([None], {"lr": 1}),
        (["only"], {"lr": 1}),
        (["head", "body"], {"lr.head": 1, "lr.body": 2}),
        (["head", None], {"lr.head": 1, "lr.1": 2}),
        (["same", "same", "other"], {"lr.0": 1, "lr.1": 2, "lr.other": 3}),
    ],
)
def test_groups_have_a_score_each(names: list[Any], expected: dict[str, float]) -> None:
    log = StageLog("last_scores_train", stages=("on_end",))
    fit([t_clbk("lr_monitor"), log], Groups(*names))
    scores = dict(log.rows[0][1])
    scores.pop("loss")
    assert scores == expected


def test_several_optimizers() -> None:
    class Two(Tiny):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=lr) for lr in (0.1, 0.2)]

    log = StageLog("last_scores_train", stages=("on_end",))
    fit([t_clbk("lr_monitor"), log], Two())
    assert log.rows == [("end", {"lr.0": 0.1, "lr.1": 0.2})]


def test_a_rate_that_is_a_tensor_is_that_of_the_step() -> None:
    def write(ctx: Any) -> None:
        ctx.optimizer.param_groups[0]["lr"].fill_(9.0)

    log = StageLog("last_scores_train", stages=("on_end",))
    fit([t_clbk("lr_monitor"), Act(on_batch_end=write), log], Groups(None, tensor=True), ones(1))
    assert log.rows[0][1]["lr"] == pytest.approx(0.1)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_resumed_after_the_last_step_of_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "valid.ckpt"

    def callbacks(**save: Any) -> dict[str, Any]:
        one_cycle = t_clbk("lr_one_cycle", max_lr=0.5)
        return {"lr_monitor": t_clbk("lr_monitor"), "cycle": one_cycle, "h": t_clbk("history"), "save": Act(**save)}

    save = {"on_valid_end": lambda ctx: ctx.epoch == 2 and ctx.trainer.save_checkpoint(path)}
    whole = fit(callbacks(**save), Tiny(), ones(2), ones(1), max_epochs=3)
    again = CallbackSetAdapter(callbacks())
    quiet(max_epochs=3, callbacks=[again]).fit(Tiny(), ones(2), ones(1), ckpt_path=path)
    assert again.states["h"]["train.lr"] == whole.states["h"]["train.lr"]
