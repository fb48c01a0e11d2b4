import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as torch_schedulers

from callbacksets import (
    CallbackSet,
    CallbackSetAdapter,
    CallbackSetCheckpoint,
    CallbackSetLRScheduler,
    CallbackSetLRSchedulerOneCycle,
    CallbackSetLRSchedulerReduceOnPlateau,
    latest_checkpoint,
)
from tests.helpers import Act, Endless, Tiny, fit, ones, quiet

EPOCHS, BATCHES = 6, 3
SCORES = [1.0, 0.5, 0.625, float("nan"), 0.75, 0.375]


class Halving(torch_schedulers.LRScheduler):
    """A schedule of one's own, with a function among its attributes."""

    def __init__(self, optimizer: torch.optim.Optimizer, last_epoch: int = -1) -> None:
        self.factor = lambda epoch: 0.5**epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * self.factor(self.last_epoch) for lr in self.base_lrs]


class Decay:
    """A callable with a state, which torch saves."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, epoch: int) -> float:
        self.calls += 1
        return 1 / (1 + self.calls)


class Module(Tiny):
    """Two parameter groups, and a validation score that is given."""

    def __init__(self, optimizer: str = "adam", scores: list[float] = SCORES) -> None:
        super().__init__(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))
        self.optimizer = optimizer
        self.scores = scores

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.scores[self.current_epoch], batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        first, last = self.network
        groups = [{"params": first.parameters()}, {"params": last.parameters(), "lr": 0.02}]
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        return torch.optim.Adam(groups, lr=0.1)


def groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


class Recorder(Act):
    """The parameter groups as they are before every batch and at the end."""

    def __init__(self) -> None:
        self.groups: list[Any] = []
        super().__init__(on_batch_begin=self.look, on_end=self.look)

    def look(self, ctx: Any) -> None:
        self.groups.append(groups(ctx.optimizer))


def by_torch(make: Callable[..., Any], optimizer: str, step_on_epoch: bool) -> tuple[list[Any], dict[str, Any]]:
    """What torch's scheduler does in a plain loop: the parameter groups before every batch, and its final state."""
    optimizer = Module(optimizer).configure_optimizers()
    scheduler = make(optimizer)
    seen = []
    for epoch in range(EPOCHS):
        for _ in range(BATCHES):
            seen.append(groups(optimizer))
            optimizer.step()
            if not step_on_epoch:
                scheduler.step()
        if isinstance(scheduler, torch_schedulers.ReduceLROnPlateau):
            scheduler.step(SCORES[epoch])
        elif step_on_epoch:
            scheduler.step()
    return [*seen, groups(optimizer)], scheduler.state_dict()


def case(name: str, scheduler: Any, step_on_epoch: bool = True, **kwargs: Any) -> Any:
    return pytest.param(
        lambda: CallbackSetLRScheduler(scheduler, step_on_epoch, **kwargs),
        lambda optimizer: scheduler(optimizer, **kwargs),
        step_on_epoch,
        id=name,
    )


SCHEDULES = [
    case("step", torch_schedulers.StepLR, step_size=2, gamma=0.3),
    case("step-per-batch", torch_schedulers.StepLR, step_on_epoch=False, step_size=2),
    case("multi-step", torch_schedulers.MultiStepLR, milestones=[1, 4]),
    case("cosine-annealing", torch_schedulers.CosineAnnealingLR, T_max=4, eta_min=0.001),
    case("warm-restarts", torch_schedulers.CosineAnnealingWarmRestarts, T_0=2),
    case("lambda", torch_schedulers.LambdaLR, lr_lambda=lambda epoch: 0.9**epoch),
    case("lambdas", torch_schedulers.LambdaLR, lr_lambda=[lambda epoch: 0.9**epoch, lambda epoch: 1 / (1 + epoch)]),
    case("multiplicative", torch_schedulers.MultiplicativeLR, lr_lambda=lambda epoch: 0.8),
    case("custom", Halving),
    pytest.param(
        lambda: CallbackSetLRScheduler(lambda optimizer: torch_schedulers.LambdaLR(optimizer, Decay())),
        lambda optimizer: torch_schedulers.LambdaLR(optimizer, Decay()),
        True,
        id="callable-with-a-state",
    ),
    pytest.param(
        lambda: CallbackSetLRScheduler(
            lambda optimizer: torch_schedulers.SequentialLR(
                optimizer,
                [torch_schedulers.LinearLR(optimizer, total_iters=2), torch_schedulers.ExponentialLR(optimizer, 0.5)],
                milestones=[2],
            )
        ),
        lambda optimizer: torch_schedulers.SequentialLR(
            optimizer,
            [torch_schedulers.LinearLR(optimizer, total_iters=2), torch_schedulers.ExponentialLR(optimizer, 0.5)],
            milestones=[2],
        ),
        True,
        id="sequential",
    ),
    pytest.param(
        lambda: CallbackSetLRSchedulerOneCycle(max_lr=[0.4, 0.2]),
        lambda optimizer: torch_schedulers.OneCycleLR(optimizer, max_lr=[0.4, 0.2], total_steps=EPOCHS * BATCHES),
        False,
        id="one-cycle",
    ),
    pytest.param(
        lambda: CallbackSetLRSchedulerOneCycle(max_lr=0.4, total_steps=30, three_phase=True, pct_start=0.4),
        lambda optimizer: torch_schedulers.OneCycleLR(
            optimizer, max_lr=0.4, total_steps=30, three_phase=True, pct_start=0.4
        ),
        False,
        id="longer-cycle",
    ),
    pytest.param(
        lambda: CallbackSetLRSchedulerReduceOnPlateau(patience=0, factor=0.5),
        lambda optimizer: torch_schedulers.ReduceLROnPlateau(optimizer, patience=0, factor=0.5),
        True,
        id="plateau",
    ),
    pytest.param(
        lambda: CallbackSetLRSchedulerReduceOnPlateau("val_loss", patience=0, mode="max", min_lr=[0.01, 0.005]),
        lambda optimizer: torch_schedulers.ReduceLROnPlateau(optimizer, patience=0, mode="max", min_lr=[0.01, 0.005]),
        True,
        id="plateau-max",
    ),
]


def test_a_run_longer_than_its_cycle_keeps_the_last_rate() -> None:
    rates: list[float] = []
    look = Act(on_batch_end=lambda ctx: rates.append(ctx.optimizer.param_groups[0]["lr"]))
    look.weight = 1
    with pytest.warns(UserWarning, match=r"longer than the cycle of OneCycleLR \(4 batches\)") as warned:
        fit([CallbackSetLRSchedulerOneCycle(max_lr=0.1, total_steps=4), look], None, Endless(7))
    assert len(rates) == 7
    assert rates[4:] == [rates[3]] * 3
    assert len([one for one in warned if "OneCycleLR" in str(one.message)]) == 1


@pytest.mark.parametrize("given", [{"epochs": 9}, {"steps_per_epoch": 7}, {"epochs": 1, "steps_per_epoch": 1}])
def test_one_cycle_is_as_long_as_the_run_whatever_else_is_given(
    given: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    own = CallbackSetLRSchedulerOneCycle(max_lr=0.1, **given)
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit([own], None, ones(3), max_epochs=2)
    assert own.scheduler.total_steps == 6
    assert "its cycle has the 6 batches of the run" in caplog.text
    longer = CallbackSetLRSchedulerOneCycle(max_lr=0.1, total_steps=8, **given)
    fit([longer], None, ones(3), max_epochs=2)
    assert longer.scheduler.total_steps == 8


def test_plateau_takes_none_for_its_mode() -> None:
    assert "mode" not in CallbackSetLRSchedulerReduceOnPlateau(mode=None).scheduler_args


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("make", "torch_make", "step_on_epoch"), SCHEDULES)
def test_equals_torch(make: Any, torch_make: Any, step_on_epoch: bool, optimizer: str) -> None:
    recorder = Recorder()
    callbacks = {"recorder": recorder, "lr": make()}
    adapter = fit(callbacks, Module(optimizer), ones(BATCHES), ones(1), max_epochs=EPOCHS)
    expected, state = by_torch(torch_make, optimizer, step_on_epoch)
    assert recorder.groups == expected
    ours = adapter.states["lr"]
    assert {name: value for name, value in ours.items() if name != "measure"} == {
        name: value for name, value in state.items() if not callable(value)
    }


@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adam", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("make", "torch_make", "step_on_epoch"), SCHEDULES)
def test_resumed_equals_uninterrupted(
    make: Any, torch_make: Any, step_on_epoch: bool, optimizer: str, tmp_path: Path
) -> None:
    expected, state = by_torch(torch_make, optimizer, step_on_epoch)

    def stop(ctx: Any) -> None:
        ctx.terminate = ctx.epoch == 4

    recorder = Recorder()
    callbacks = {"recorder": recorder, "lr": make(), "checkpoint": CallbackSetCheckpoint(tmp_path, freq=4)}
    fit({**callbacks, "stop": Act(on_epoch_end=stop)}, Module(optimizer), ones(BATCHES), ones(1), max_epochs=EPOCHS)
    before, recorder.groups = recorder.groups[:-1], []
    adapter = CallbackSetAdapter({**callbacks, "lr": make()})
    trainer = quiet(max_epochs=EPOCHS, callbacks=[adapter])
    trainer.fit(Module(optimizer), ones(BATCHES), ones(1), ckpt_path=latest_checkpoint(tmp_path))
    assert before + recorder.groups == expected
    ours = adapter.states["lr"]
    assert all(ours[name] == value for name, value in state.items() if not callable(value))


@pytest.mark.parametrize("window", [2, 3])
def test_per_batch_under_accumulation_steps_with_every_batch(window: int) -> None:
    recorder = Recorder()
    callbacks = [recorder, CallbackSetLRSchedulerOneCycle(max_lr=0.4)]
    fit(callbacks, Module(), ones(BATCHES), max_epochs=EPOCHS, accumulate_grad_batches=window)
    expected, _ = by_torch(lambda o: torch_schedulers.OneCycleLR(o, max_lr=0.4, total_steps=18), "adam", False)
    assert recorder.groups == expected


def test_an_instance_serves_several_fits() -> None:
    schedule = CallbackSetLRScheduler(torch_schedulers.StepLR, step_size=1)
    first, second = Recorder(), Recorder()
    fit([first, schedule], Module(), max_epochs=3)
    fit([second, schedule], Module(), max_epochs=3)
    assert first.groups == second.groups


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda callback: pickle.loads(pickle.dumps(callback))])
def test_copies_after_a_fit(copied: Callable[[Any], Any]) -> None:
    schedule = CallbackSetLRScheduler(torch_schedulers.StepLR, step_size=1)
    first, second = Recorder(), Recorder()
    fit([first, schedule], Module(), max_epochs=3)
    other = copied(schedule)
    assert other.state_dict() == schedule.state_dict()
    fit([second, other], Module(), max_epochs=3)
    assert first.groups == second.groups
    assert schedule.scheduler.optimizer is not other.scheduler.optimizer


def test_the_schedule_of_the_checkpoint_goes_on(tmp_path: Path) -> None:
    callbacks = {"checkpoint": CallbackSetCheckpoint(tmp_path, freq=1)}
    first = CallbackSetLRScheduler(torch_schedulers.StepLR, step_size=1, gamma=0.5)
    fit({"lr": first, **callbacks}, Module(), max_epochs=1)
    other = CallbackSetLRScheduler(torch_schedulers.StepLR, step_size=7, gamma=0.1)
    recorder = Recorder()
    adapter = CallbackSetAdapter({"recorder": recorder, "lr": other, **callbacks})
    quiet(max_epochs=2, callbacks=[adapter]).fit(Module(), ones(2), ckpt_path=latest_checkpoint(tmp_path))
    assert [look[0]["lr"] for look in recorder.groups] == [0.05, 0.05, 0.025]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize(("stage", "step"), [("on_valid_end", 3), ("on_batch_end", 2)])
@pytest.mark.parametrize("step_on_epoch", [True, False])
def test_resumed_inside_the_first_epoch(stage: str, step: int, step_on_epoch: bool, tmp_path: Path) -> None:
    def save(ctx: Any) -> None:
        if ctx.global_step == step and not ctx.resumed:
            ctx.trainer.save_checkpoint(tmp_path / "inside.ckpt")

    def callbacks(recorder: Recorder) -> dict[str, Any]:
        schedule = CallbackSetLRScheduler(torch_schedulers.StepLR, step_on_epoch, step_size=1, gamma=0.5)
        return {"recorder": recorder, "lr": schedule, "save": Act(**{stage: save})}

    whole, resumed = Recorder(), Recorder()
    fit(callbacks(whole), Module(), ones(3), ones(1), max_epochs=2)
    adapter = CallbackSetAdapter(callbacks(resumed))
    trainer = quiet(max_epochs=2, callbacks=[adapter])
    trainer.fit(Module(), ones(3), ones(1), ckpt_path=tmp_path / "inside.ckpt")
    assert resumed.groups == whole.groups[step:]


def test_plateau_waits_for_validation() -> None:
    recorder = Recorder()
    schedule = CallbackSetLRSchedulerReduceOnPlateau(patience=0)
    module = Module(scores=[1.0] * 6)
    adapter = fit([recorder, schedule], module, ones(1), ones(1), max_epochs=6, check_val_every_n_epoch=2)
    assert [look[0]["lr"] for look in recorder.groups] == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001])
    assert adapter.states["lr_scheduler_reduce_on_plateau"]["last_epoch"] == 3


def test_plateau_takes_its_mode_from_the_measure() -> None:
    from torchmetrics.classification import BinaryAccuracy

    class WithAccuracy(Module):
        def __init__(self) -> None:
            super().__init__()
            self.accuracy = BinaryAccuracy()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.accuracy.update(torch.ones(1), torch.ones(1))
            self.log("val_acc", self.accuracy)

    for sanity in (0, 1):
        schedule = CallbackSetLRSchedulerReduceOnPlateau()
        fit([schedule], WithAccuracy(), ones(1), ones(1), num_sanity_val_steps=sanity)
        assert (schedule.scheduler.mode, schedule.measure, schedule.scheduler.best) == ("max", "acc", 1.0)


def test_plateau_without_validation_says_that_it_does_nothing() -> None:
    with pytest.warns(UserWarning, match="does not change the learning rate"):
        fit([CallbackSetLRSchedulerReduceOnPlateau()], Module())


@pytest.mark.parametrize(
    "schedule", [CallbackSetLRSchedulerOneCycle(max_lr=1), CallbackSetLRSchedulerReduceOnPlateau()]
)
def test_nothing_to_train_needs_no_schedule(schedule: Any) -> None:
    adapter = fit([schedule], Module(), ones(1), ones(1), max_epochs=0)
    assert adapter.states == {}


def test_finished_run_keeps_its_schedule(tmp_path: Path) -> None:
    callbacks = {
        "lr": CallbackSetLRSchedulerOneCycle(max_lr=0.4),
        "checkpoint": CallbackSetCheckpoint(tmp_path, freq=1),
    }
    state = fit(callbacks, Module(), max_epochs=2).states
    adapter = CallbackSetAdapter(callbacks)
    quiet(max_epochs=2, callbacks=[adapter]).fit(Module(), ones(2), ckpt_path=latest_checkpoint(tmp_path))
    assert adapter.states == state


def test_a_scheduler_of_the_module_is_told_of() -> None:
    class Scheduled(Module):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [torch_schedulers.ExponentialLR(optimizer, 0.9)]

    with pytest.warns(
        UserWarning, match=r"also returns .* \('ExponentialLR'\)\. Both it and StepLR will step"
    ) as record:
        fit([CallbackSetLRScheduler(torch_schedulers.StepLR, step_size=1)], Scheduled(), max_epochs=2)
    assert sum("also returns" in str(warning.message) for warning in record) == 1


@pytest.mark.parametrize("weight", [-1, 1])
def test_a_state_loaded_in_begin_applies_whatever_the_order(weight: float) -> None:
    first = CallbackSetLRScheduler(torch_schedulers.StepLR, step_size=2, gamma=0.5)
    state = fit([first], Module(), max_epochs=3).states["lr_scheduler"]
    recorder = Recorder()
    load = Act(on_begin=lambda ctx: ctx.callbacks["lr"].load_state_dict(state))
    load.weight = weight
    again = CallbackSetLRScheduler(torch_schedulers.StepLR, step_size=2, gamma=0.5)
    fit({"load": load, "lr": again, "recorder": recorder}, Module(), ones(1), max_epochs=2)
    assert [look[0]["lr"] for look in recorder.groups] == [0.05, 0.025, 0.025]
    assert again.scheduler.last_epoch == 5


# --- errors ----------------------------------------------------------------------------------------------------------

CONSTRUCTED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: CallbackSetLRScheduler(), TypeError, "scheduler"),
    (lambda: CallbackSetLRScheduler("StepLR"), TypeError, "a scheduler class of torch.* but got 'StepLR'"),
    (lambda: CallbackSetLRScheduler(Halving, step_on_epoch=1), TypeError, "step_on_epoch to be True or False"),
    (lambda: CallbackSetLRScheduler(Halving, decay=1), TypeError, "Halving has no argument 'decay'"),
    (
        lambda: CallbackSetLRScheduler(lambda optimizer: None, gamma=1),
        TypeError,
        "has no argument 'gamma'. It has none",
    ),
    (lambda: CallbackSetLRScheduler(torch_schedulers.ReduceLROnPlateau), TypeError, "SchedulerReduceOnPlateau"),
    (lambda: CallbackSetLRSchedulerOneCycle(), TypeError, "OneCycleLR needs 'max_lr'"),
    (lambda: CallbackSetLRSchedulerOneCycle(max_lr=1, epochs=0), ValueError, "epochs to be a whole number of at least"),
    (lambda: CallbackSetLRSchedulerReduceOnPlateau(1), TypeError, "monitor to be a string but got 1"),
    (lambda: CallbackSetLRSchedulerReduceOnPlateau(""), ValueError, "monitor to be a non-empty string"),
    (lambda: CallbackSetLRSchedulerReduceOnPlateau(mode="mni"), ValueError, "mode to be one of .*mean 'min'"),
    (lambda: CallbackSetLRSchedulerReduceOnPlateau(patienc=1), TypeError, "no argument 'patienc'.*mean 'patience'"),
]
STEP, COSINE = torch_schedulers.StepLR, torch_schedulers.CosineAnnealingLR
for cls, argument, values in [
    (STEP, "step_size", (1.5, True, 0, -1, float("nan"), None)),
    (STEP, "gamma", ("a", True, -0.1, float("nan"), float("inf"), None)),
    (COSINE, "T_max", (1.5, True, 0, -1, None)),
    (COSINE, "eta_min", ("a", True, -0.1, float("nan"), None)),
    (COSINE, "last_epoch", (0.5, True, -2)),
    (torch_schedulers.LambdaLR, "lr_lambda", (0.5, None, [0.5])),
    (torch_schedulers.MultiplicativeLR, "lr_lambda", (0.5, None, [0.5])),
    (torch_schedulers.OneCycleLR, "max_lr", ("a", True, -1, float("nan"), [0.1, "a"])),
    (torch_schedulers.OneCycleLR, "total_steps", (0, 1.5, True, -1)),
    (torch_schedulers.OneCycleLR, "pct_start", ("a", True, -1, float("nan"))),
    (torch_schedulers.OneCycleLR, "anneal_strategy", ("cosine", 1)),
    (torch_schedulers.OneCycleLR, "cycle_momentum", (1, "yes")),
    (torch_schedulers.OneCycleLR, "three_phase", (1, "yes")),
    (torch_schedulers.OneCycleLR, "base_momentum", ("a", True, -1)),
    (torch_schedulers.OneCycleLR, "max_momentum", ("a", True, -1)),
    (torch_schedulers.OneCycleLR, "div_factor", ("a", True, -1)),
    (torch_schedulers.OneCycleLR, "final_div_factor", ("a", True, -1)),
    (torch_schedulers.ReduceLROnPlateau, "factor", ("a", True, -1, float("nan"))),
    (torch_schedulers.ReduceLROnPlateau, "patience", (1.5, True, -1)),
    (torch_schedulers.ReduceLROnPlateau, "threshold", ("a", True, -1, float("nan"))),
    (torch_schedulers.ReduceLROnPlateau, "threshold_mode", ("relative", 1)),
    (torch_schedulers.ReduceLROnPlateau, "cooldown", (1.5, True, -1)),
    (torch_schedulers.ReduceLROnPlateau, "min_lr", ("a", True, -1, [0, "a"])),
    (torch_schedulers.ReduceLROnPlateau, "eps", ("a", True, -1)),
]:
    required = {STEP: {"step_size": 1}, COSINE: {"T_max": 1}, torch_schedulers.OneCycleLR: {"max_lr": 1}}.get(cls, {})
    made = {
        torch_schedulers.OneCycleLR: CallbackSetLRSchedulerOneCycle,
        torch_schedulers.ReduceLROnPlateau: CallbackSetLRSchedulerReduceOnPlateau,
    }.get(cls, lambda cls=cls, **kwargs: CallbackSetLRScheduler(cls, **kwargs))
    CONSTRUCTED += [
        (
            lambda made=made, kwargs=required | {argument: value}: made(**kwargs),
            (TypeError, ValueError),
            f"Expected {argument} to be",
        )
        for value in values
    ]


@pytest.mark.parametrize(("make", "error", "message"), CONSTRUCTED)
def test_bad_argument(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


class TwoOptimizers(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([parameter], lr=0.1) for parameter in self.parameters()]


@pytest.mark.parametrize(
    ("schedule", "module", "kwargs", "message"),
    [
        (CallbackSetLRScheduler(Halving), TwoOptimizers(), {}, "has 2.*ctx.optimizers"),
        (
            CallbackSetLRScheduler(lambda optimizer: None),
            Module(),
            {},
            "to make a learning rate scheduler but got None",
        ),
        (CallbackSetLRSchedulerOneCycle(max_lr=1), Module(), {"max_epochs": -1}, "Give total_steps"),
        (
            CallbackSetLRSchedulerOneCycle(max_lr=1, total_steps=3),
            Module(),
            {"max_epochs": 2},
            "has 3 steps.*4 batches",
        ),
        (CallbackSetLRSchedulerReduceOnPlateau("los"), Module(), {}, "monitor 'los'.*mean 'loss'"),
        (CallbackSetLRSchedulerReduceOnPlateau(factor=1.0), Module(), {}, "Factor should be < 1"),
    ],
)
def test_error_before_training(schedule: Any, module: Any, kwargs: dict[str, Any], message: str) -> None:
    begun: list[int] = []
    callbacks = [schedule, Act(on_epoch_begin=lambda ctx: begun.append(1))]
    with pytest.raises((RuntimeError, TypeError, ValueError), match=message):
        fit(callbacks, module, ones(2), ones(1), **kwargs)
    assert not begun


def test_plateau_error_without_a_sanity_check_comes_after_validation() -> None:
    with pytest.raises(RuntimeError, match="monitor 'los'"):
        fit([CallbackSetLRSchedulerReduceOnPlateau("los")], Module(), ones(1), ones(1), num_sanity_val_steps=0)


def test_plateau_needs_a_direction() -> None:
    class Logs(Module):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_gain", 1.0)

    with pytest.raises(RuntimeError, match=r"whether a lower or a higher 'gain' is better\. Give mode="):
        fit([CallbackSetLRSchedulerReduceOnPlateau()], Logs(), ones(1), ones(1))


def test_plateau_needs_a_score() -> None:
    class Silent(Module):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    with pytest.raises(RuntimeError, match="the module logs none"):
        fit([CallbackSetLRSchedulerReduceOnPlateau()], Silent(), ones(1), ones(1))


def test_endless_data_take_total_steps() -> None:
    schedule = CallbackSetLRSchedulerOneCycle(max_lr=1, total_steps=5, epochs=None)
    fit([schedule], Module(), Endless(), max_steps=5, max_epochs=-1)
    assert schedule.scheduler.last_epoch == 5


def test_resumed_by_another_schedule_is_an_error(tmp_path: Path) -> None:
    checkpoint = CallbackSetCheckpoint(tmp_path, freq=1)
    fit({"lr": CallbackSetLRSchedulerOneCycle(max_lr=1), "checkpoint": checkpoint}, Module(), max_epochs=2)
    last = latest_checkpoint(tmp_path)

    def resume(schedule: Any, **kwargs: Any) -> None:
        trainer = quiet(callbacks=[CallbackSetAdapter({"lr": schedule, "checkpoint": checkpoint})], **kwargs)
        trainer.fit(Module(), ones(2), ckpt_path=last)

    with pytest.raises(RuntimeError, match="has 4 steps, but the cycle of this run has 6"):
        resume(CallbackSetLRSchedulerOneCycle(max_lr=1), max_epochs=3)
    with pytest.raises(RuntimeError, match="has 4 steps, but this run has 6 batches"):
        resume(CallbackSetLRSchedulerOneCycle(max_lr=1, total_steps=4), max_epochs=3)

    other = tmp_path / "other"
    checkpoint = CallbackSetCheckpoint(other, freq=1)
    fit({"lr": CallbackSetLRScheduler(STEP, step_size=1), "checkpoint": checkpoint}, Module())
    last = latest_checkpoint(other)
    with pytest.raises(RuntimeError, match="does not fit the scheduler of this run, CosineAnnealingLR: it lacks 'T_"):
        resume(CallbackSetLRScheduler(COSINE, T_max=1), max_epochs=2)


def test_resumed_plateau_must_go_by_the_same_score(tmp_path: Path) -> None:
    class Both(Module):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log_dict({"val_loss": 1.0, "val_other_loss": 1.0})

    callbacks = {"lr": CallbackSetLRSchedulerReduceOnPlateau(), "checkpoint": CallbackSetCheckpoint(tmp_path, freq=1)}
    fit(callbacks, Both(), ones(1), ones(1))
    trainer = quiet(
        max_epochs=2,
        callbacks=[CallbackSetAdapter({**callbacks, "lr": CallbackSetLRSchedulerReduceOnPlateau("other_loss")})],
    )
    with pytest.raises(RuntimeError, match="monitored 'loss' in the resumed run, but monitors 'other_loss'"):
        trainer.fit(Both(), ones(1), ones(1), ckpt_path=latest_checkpoint(tmp_path))


# --- beside stochastic weight averaging ------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: CallbackSetLRScheduler(torch_schedulers.StepLR, step_size=1, gamma=0.5),
        lambda: CallbackSetLRScheduler(torch_schedulers.StepLR, step_on_epoch=False, step_size=1, gamma=0.9),
        lambda: CallbackSetLRSchedulerOneCycle(max_lr=0.4),
        lambda: CallbackSetLRSchedulerReduceOnPlateau(patience=0, factor=0.5),
    ],
)
def test_stochastic_weight_averaging_takes_over(make: Any, behind: bool) -> None:
    def train(*sets: CallbackSet) -> list[float]:
        recorder = Recorder()
        averaging = L.pytorch.callbacks.StochasticWeightAveraging(0.03, swa_epoch_start=3, annealing_epochs=1)
        adapter = CallbackSetAdapter([recorder, *sets])
        callbacks = [adapter, averaging] if behind else [averaging, adapter]
        trainer = quiet(callbacks=callbacks, max_epochs=5)
        trainer.fit(Module("sgd", scores=[1.0] * 5), ones(2), ones(1))
        return [look[0]["lr"] for look in recorder.groups]

    assert train(make())[6:] == pytest.approx([0.03] * 5)  # from the second epoch of averaging on


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(("make", "torch_make", "step_on_epoch"), [SCHEDULES[i] for i in (0, 5, 7, 12)])
def test_a_group_that_is_added_keeps_its_rate(
    make: Any, torch_make: Any, step_on_epoch: bool, resumed: bool, tmp_path: Path
) -> None:
    def add(ctx: Any) -> None:
        if ctx.epoch == 2:
            ctx.learner.more = nn.Parameter(torch.ones(1))
            ctx.optimizer.add_param_group({"params": [ctx.learner.more], "lr": 0.5})

    def save(ctx: Any) -> None:
        if ctx.epoch == 2:
            ctx.trainer.save_checkpoint(tmp_path / "two.ckpt")

    class Grown(Module):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Parameter(torch.ones(1))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            optimizer = super().configure_optimizers()
            optimizer.add_param_group({"params": [self.more], "lr": 0.5})
            return optimizer

    recorder = Recorder()
    sets = {"recorder": recorder, "lr": make(), "add": Act(on_epoch_begin=add, on_epoch_end=save)}
    fit(sets, Module(), ones(BATCHES), ones(1), max_epochs=EPOCHS)
    expected, _ = by_torch(torch_make, "adam", step_on_epoch)
    if resumed:
        recorder.groups = []
        again = CallbackSetAdapter({**sets, "lr": make(), "add": Act()})
        quiet(max_epochs=EPOCHS, callbacks=[again]).fit(
            Grown(), ones(BATCHES), ones(1), ckpt_path=tmp_path / "two.ckpt"
        )
        expected = expected[2 * BATCHES :]
    assert [look[:2] for look in recorder.groups] == expected
    assert {look[2]["lr"] for look in recorder.groups if len(look) > 2} == {0.5}
