"""Descriptors of schedulers."""

import functools
import re
from typing import Any

import pytest
import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from callbacksets import CallbackSetHistory, as_lr_scheduler
from tests.helpers import Act, fit, ones


def warmup(opt: Optimizer, epochs: int, factor: float = 0.5) -> LRScheduler:
    return lr_scheduler.LinearLR(opt, start_factor=factor, total_iters=epochs)


@pytest.mark.parametrize(
    ("scheduler", "id", "label", "required"),
    [
        (lr_scheduler.StepLR, "lr_step", "Step LR Scheduler", ["step_size"]),
        (lr_scheduler.ExponentialLR, "lr_exponential", "Exponential LR Scheduler", ["gamma"]),
        (
            lr_scheduler.CosineAnnealingWarmRestarts,
            "lr_cosine_annealing_warm_restarts",
            "Cosine Annealing Warm Restarts LR Scheduler",
            ["T_0"],
        ),
        (warmup, "lr_warmup", "Warmup LR Scheduler", ["epochs"]),
        (lambda optimizer: warmup(optimizer, 2), "lr_custom", "Custom LR Scheduler", []),
        (functools.partial(lr_scheduler.StepLR, step_size=2), "lr_custom", "Custom LR Scheduler", []),
    ],
)
def test_describes(scheduler: Any, id: str, label: str, required: list[str]) -> None:
    descriptor = as_lr_scheduler(scheduler, step_on_epoch=True)
    assert (descriptor.id, descriptor.label, descriptor.param_set.required) == (id, label, required)
    assert not {"optimizer", "opt", "scheduler", "step_on_epoch"} & set(descriptor.param_set.ids())


def test_parameters_are_those_of_the_scheduler() -> None:
    param_set = as_lr_scheduler(warmup, step_on_epoch=True).param_set
    assert param_set.ids() == ["epochs", "factor"]
    assert param_set.defaults == {"factor": 0.5}
    with pytest.raises(TypeError, match=r"no parameter 'epoch'. Did you mean 'epochs'\? The parameters are 'epochs'"):
        param_set.set_values(epoch=3)


@pytest.mark.parametrize(
    ("step_on_epoch", "rates"), [(True, [0.005, 0.005, 0.0075, 0.0075]), (False, [0.005, 0.0075, 0.01, 0.01])]
)
def test_schedules(step_on_epoch: bool, rates: list[float]) -> None:
    descriptor = as_lr_scheduler(warmup, step_on_epoch)
    descriptor.param_set.set_values(epochs=2)
    seen: list[float] = []
    look = Act(on_after_backward=lambda ctx: seen.append(ctx.optimizer.param_groups[0]["lr"]))
    adapter = fit([descriptor, look], None, ones(2), max_epochs=2)
    torch.testing.assert_close(seen, rates)
    assert "lr_warmup" in adapter.states


def test_help_shows_torchs_page(capsys: pytest.CaptureFixture[str]) -> None:
    as_lr_scheduler(lr_scheduler.StepLR, True).help()
    assert "Decays the learning rate of each parameter group by gamma" in capsys.readouterr().out


@pytest.mark.parametrize(
    "scheduler",
    [
        "StepLR",
        3,
        torch.optim.SGD,
        CallbackSetHistory,
        lr_scheduler.StepLR(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1), 2),
    ],
)
def test_refuses_what_is_no_scheduler(scheduler: Any) -> None:
    message = "scheduler class of torch, or a function that makes a scheduler from the optimizer, but got"
    with pytest.raises(TypeError, match=re.escape(f"{message} {scheduler!r}.")):
        as_lr_scheduler(scheduler, step_on_epoch=True)


def test_refuses_when_to_step() -> None:
    with pytest.raises(TypeError, match="Expected step_on_epoch to be True or False but got 'epoch'"):
        as_lr_scheduler(lr_scheduler.StepLR, step_on_epoch="epoch")  # type: ignore[arg-type]
