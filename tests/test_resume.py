"""Interrupted and resumed, a run ends as one that was never interrupted: every kind of checkpoint, every callback."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint, LambdaCallback, ModelCheckpoint, OnExceptionCheckpoint
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassAccuracy

from callbacksets import (
    CallbackSet,
    CallbackSetAdapter,
    CallbackSetCheckpoint,
    CallbackSetEarlyStopping,
    CallbackSetHistory,
    SupervisedModule,
    latest_checkpoint,
    select_all,
    select_invert,
    select_name,
    t_clbk,
)
from tests.helpers import Act, StageLog, Tiny, ones, quiet, sampled
from tests.helpers import fit as tiny_fit

EPOCHS, BATCHES = 6, 4

pytestmark = [
    # the resumed fits here do without the callbacks that wrote the checkpoint
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    # OnExceptionCheckpoint looks for its checkpoint at every fit
    pytest.mark.filterwarnings(r"ignore:`.fit\(ckpt_path=None\)` was called without a model"),
    pytest.mark.filterwarnings(r"ignore:.*is set, but there is no last checkpoint available"),
]


class CallbackSetLossEma(CallbackSet):
    def __init__(self, alpha: float = 0.1) -> None:
        self.alpha, self.ema = alpha, None

    def on_batch_end(self) -> None:
        loss = self.ctx.last_loss
        self.ema = loss if self.ema is None else self.alpha * loss + (1 - self.alpha) * self.ema

    def state_dict(self) -> dict[str, Any]:
        return {"ema": self.ema}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ema = state_dict["ema"]


class CallbackSetSteps(CallbackSet):
    """What `ctx` counts and shows in the batches and at the ends of epochs."""

    def __init__(self) -> None:
        self.seen: list[list[Any]] = []

    def on_epoch_begin(self) -> None:
        self.seen.append(self.ctx.epoch)

    def on_batch_end(self) -> None:
        self.seen.append([self.ctx.epoch, self.ctx.step, self.ctx.global_step])

    def on_epoch_end(self) -> None:
        ctx = self.ctx
        self.seen.append([ctx.epoch, ctx.global_step, ctx.last_loss, dict(ctx.last_scores_valid or {})])

    def state_dict(self) -> list[Any]:
        return list(self.seen)

    def load_state_dict(self, state_dict: list[Any]) -> None:
        self.seen = list(state_dict)


CALLBACKS: dict[str, Callable[[], CallbackSet]] = {
    "history": CallbackSetHistory,
    "early_stopping": partial(CallbackSetEarlyStopping, 2, restore_best_weights=True, monitor="loss"),
    "early_stopping_plain": partial(CallbackSetEarlyStopping, 4),
    "loss_ema": CallbackSetLossEma,
    "steps": CallbackSetSteps,
    "progress": lambda: t_clbk("progress").generate(),
    "lr_step": lambda: t_clbk("lr_step", step_size=2, gamma=0.5).generate(),
    "lr_cosine_annealing": lambda: t_clbk("lr_cosine_annealing", T_max=EPOCHS).generate(),
    "lr_lambda": lambda: t_clbk("lr_lambda", lr_lambda=lambda epoch: 0.9**epoch).generate(),
    "lr_multiplicative": lambda: t_clbk("lr_multiplicative", lr_lambda=lambda epoch: 0.9).generate(),
    "lr_one_cycle": lambda: t_clbk("lr_one_cycle", max_lr=0.1).generate(),
    "lr_reduce_on_plateau": lambda: t_clbk("lr_reduce_on_plateau", patience=0, factor=0.5).generate(),
    "unfreeze": lambda: t_clbk(
        "unfreeze",
        starting_weights=select_invert(select_name("0.weight")),
        unfreeze=[{"epoch": 4, "weights": select_name("0.weight")}],
    ).generate(),
    "unfreeze_batch": lambda: t_clbk(
        "unfreeze", starting_weights=select_name("3.weight"), unfreeze=[{"batch": 11, "weights": select_all()}]
    ).generate(),
    "tb": lambda: t_clbk("tb", path="events", log_train_loss=True).generate(),
}
TOGETHER = ["history", "early_stopping", "loss_ema", "steps", "lr_one_cycle", "unfreeze", "tb"]


@dataclass
class Outcome:
    """What a run, in one or two fits, came to."""

    weights: list[torch.Tensor] = field(default_factory=list)
    states: dict[str, Any] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)


class Rates(L.Callback):
    """The learning rate of every optimizer step."""

    def __init__(self, rates: dict[int, float]) -> None:
        self.rates = rates

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        self.rates[trainer.global_step] = optimizer.param_groups[0]["lr"]


class InterruptedFit(Exception):
    pass


class Interrupt(L.Callback):
    """Ends the fit when a hook is called with a number of optimizer steps behind it."""

    def __init__(self, hook: str, steps: int) -> None:
        setattr(self, hook, partial(self.look, steps))

    def look(self, steps: int, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step >= steps:
            raise InterruptedFit


class StatefulLoader:
    """A loader that goes on where it was, as a mid-epoch resume needs it."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.given = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        self.given %= len(self)
        for batch in islice(self.loader, self.given, None):
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.given = state_dict["given"]


def loaders(shuffle: bool, stateful: bool = False) -> tuple[Any, DataLoader[Any]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCHES * 8 + 24, 5, generator=generator)
    y = (x[:, 0] + 0.8 * torch.randn(len(x), generator=generator) > 0).long()
    data, valid = TensorDataset(x[24:], y[24:]), TensorDataset(x[:24], y[:24])
    # shuffles by the epoch, which Lightning tells it, also after a resume
    sampler = DistributedSampler(data, num_replicas=1, rank=0, shuffle=True, seed=3) if shuffle else None
    train = DataLoader(data, batch_size=8, sampler=sampler)
    return StatefulLoader(train) if stateful else train, DataLoader(valid, batch_size=16)


def fit(
    callbacks: list[str],
    outcome: Outcome,
    *natives: L.Callback,
    ckpt: Path | str | None = None,
    shuffle: bool = False,
    stateful: bool = False,
    own: dict[str, CallbackSet] | None = None,
    ahead: tuple[L.Callback, ...] = (),
    **kwargs: Any,
) -> tuple[L.Trainer, CallbackSetAdapter]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    module = SupervisedModule(
        network,
        nn.CrossEntropyLoss(),
        partial(torch.optim.AdamW, lr=0.05),
        measures_valid={"acc": MulticlassAccuracy(2)},
    )
    adapter = CallbackSetAdapter({id: CALLBACKS[id]() for id in callbacks} | (own or {}))
    saves = any(isinstance(native, Checkpoint) for native in natives)
    kwargs = {"max_epochs": EPOCHS, "enable_checkpointing": saves} | kwargs
    trainer = quiet(callbacks=[Rates(outcome.rates), *ahead, adapter, *natives], **kwargs)
    with suppress(InterruptedFit):
        trainer.fit(module, *loaders(shuffle, stateful), ckpt_path=ckpt)
    outcome.weights = [parameter.detach().clone() for parameter in network.state_dict().values()]
    # what takes another time, or another folder, in every run
    outcome.states = {id: state for id, state in adapter.states.items() if id not in ("progress", "checkpoint")}
    return trainer, adapter


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def assert_same(parts: Outcome, whole: Outcome) -> None:
    assert parts.rates == whole.rates
    assert same(parts.states, whole.states), (parts.states, whole.states)
    assert same(parts.weights, whole.weights)


def checkpoint(folder: Path, kind: str) -> tuple[list[L.Callback], str]:
    """Callbacks of Lightning that write a checkpoint after two epochs and interrupt the fit, and its name."""
    save = partial(ModelCheckpoint, dirpath=folder, filename="{epoch}", save_top_k=-1)
    after_two = Interrupt("on_train_epoch_start", 2 * BATCHES)
    return {
        "epoch end": ([save(save_on_train_epoch_end=True), after_two], "epoch=1.ckpt"),
        "validation end": ([save(save_on_train_epoch_end=False, monitor="val_loss"), after_two], "epoch=1.ckpt"),
        "save last": ([save(save_last=True), after_two], "last.ckpt"),
        "on exception": (
            [OnExceptionCheckpoint(folder), Interrupt("on_train_batch_start", 2 * BATCHES)],
            "on_exception.ckpt",
        ),
    }[kind]


ALONE_AND_TOGETHER = [
    *(pytest.param([callback], id=callback, marks=pytest.mark.slow) for callback in CALLBACKS),
    pytest.param(TOGETHER, id="together"),
]
KINDS = ("on exception", "epoch end", "validation end", "save last", "CallbackSetCheckpoint")
CELLS = [
    pytest.param(kind, callbacks, shuffle, id=f"{kind}-{id}", marks=() if len(callbacks) > 1 else pytest.mark.slow)
    for kind in KINDS
    for id, callbacks, shuffle in (
        *((callback, [callback], False) for callback in CALLBACKS),
        *(("together", TOGETHER, False), ("together, shuffled", TOGETHER, True)),
    )
]


@pytest.mark.parametrize(("kind", "callbacks", "shuffle"), CELLS)
def test_resumed_run_ends_as_one_never_interrupted(
    kind: str, callbacks: list[str], shuffle: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole, parts = Outcome(), Outcome()
    fit(callbacks, whole, shuffle=shuffle)
    if kind == "CallbackSetCheckpoint":
        own: dict[str, CallbackSet] = {"checkpoint": CallbackSetCheckpoint("saved", freq=1)}
        trainer, _ = fit(callbacks, parts, Interrupt("on_train_epoch_start", 2 * BATCHES), shuffle=shuffle, own=own)
        saved = latest_checkpoint("saved")
        assert saved is not None
    else:
        own = {}
        natives, name = checkpoint(tmp_path, kind)
        trainer, _ = fit(callbacks, parts, *natives, shuffle=shuffle)
        saved = tmp_path / name
    assert trainer.global_step == 2 * BATCHES
    fit(callbacks, parts, ckpt=saved, shuffle=shuffle, own=own)
    assert_same(parts, whole)


@pytest.mark.parametrize("callbacks", ALONE_AND_TOGETHER)
def test_mid_epoch(callbacks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole, parts = Outcome(), Outcome()
    fit(callbacks, whole, stateful=True)
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=10, save_top_k=-1)
    fit(callbacks, parts, save, Interrupt("on_train_batch_start", 11), stateful=True)
    parts.rates = {step: rate for step, rate in parts.rates.items() if step < 10}
    fit(callbacks, parts, ckpt=tmp_path / "step=10.ckpt", stateful=True)
    assert_same(parts, whole)


class Save(L.Callback):
    """Saves in one of its hooks, when some optimizer steps have been made."""

    def __init__(self, hook: str, steps: int, path: Path) -> None:
        self.steps, self.path = steps, path
        setattr(self, hook, self.save)

    def save(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.steps and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("callbacks", ALONE_AND_TOGETHER)
@pytest.mark.parametrize("hook", sampled(["on_validation_end", "on_train_epoch_end"], 2))
def test_saved_by_a_callback_before_the_adapter(
    hook: str, callbacks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole, parts = Outcome(), Outcome()
    fit(callbacks, whole)
    save = Save(hook, 2 * BATCHES, tmp_path / "two.ckpt")
    fit(callbacks, parts, Interrupt("on_train_epoch_start", 2 * BATCHES), ahead=(save,))
    fit(callbacks, parts, ckpt=tmp_path / "two.ckpt")
    assert_same(parts, whole)


@pytest.mark.parametrize("callbacks", [["steps"], ["loss_ema"], TOGETHER], ids=["steps", "loss_ema", "together"])
def test_saved_in_a_batch_by_a_callback_before_the_adapter(
    callbacks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole, parts = Outcome(), Outcome()
    fit(callbacks, whole, stateful=True)
    save = Save("on_train_batch_end", 10, tmp_path / "ten.ckpt")
    fit(callbacks, parts, Interrupt("on_train_batch_start", 11), ahead=(save,), stateful=True)
    parts.rates = {step: rate for step, rate in parts.rates.items() if step < 10}
    fit(callbacks, parts, ckpt=tmp_path / "ten.ckpt", stateful=True)
    assert_same(parts, whole)


def test_saving_after_an_epoch_that_the_module_cuts_short(tmp_path: Path) -> None:
    class Short(Tiny):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
            return -1 if batch_idx == 1 else None

    log = StageLog("global_step", stages=("on_batch_end", "on_epoch_end"))
    save = LambdaCallback(on_train_epoch_end=lambda trainer, module: trainer.save_checkpoint(tmp_path / "end.ckpt"))
    tiny_fit(log, Short(), ones(3), ones(1), native=(save,))
    assert log.rows == [("batch_end", 1), ("epoch_end", 2)]


@pytest.mark.parametrize("limits", [{}, {"limit_val_batches": 0}, {"check_val_every_n_epoch": 3}], ids=str)
def test_saved_before_the_end_of_an_epoch_without_validation(limits: dict[str, Any], tmp_path: Path) -> None:
    """`before_valid` comes there when Lightning takes the epoch for done, and `epoch_end` is still to come."""

    def callbacks() -> list[Any]:
        save = Act(on_before_valid=lambda ctx: ctx.epoch == 2 and ctx.trainer.save_checkpoint(tmp_path / "two.ckpt"))
        save.weight = 2000
        return ["history", t_clbk("lr_step", step_size=2, gamma=0.1), save]

    valid = (ones(1),) if limits else ()
    whole, parts = Tiny(), Tiny()
    parts.load_state_dict(whole.state_dict())
    adapter = tiny_fit(callbacks(), whole, ones(2), *valid, max_epochs=4, **limits)
    resumed = CallbackSetAdapter(callbacks())
    quiet(callbacks=[resumed], max_epochs=4, **limits).fit(parts, ones(2), *valid, ckpt_path=tmp_path / "two.ckpt")
    assert resumed.states == adapter.states
    assert resumed.states["history"]["epoch"] == [1, 2, 3, 4]
    assert same(list(parts.state_dict().values()), list(whole.state_dict().values()))


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("name", ["step=2.ckpt", "step=4.ckpt", "own"])
def test_a_run_stopped_at_a_validation_trains_no_further(name: str, tmp_path: Path) -> None:
    """Inside its epoch, early stopping stops in `begin` what it had stopped, and goes on with what it had not."""
    log = StageLog("global_step", stages=("on_batch_end",))

    def train(ckpt: Path | None, *natives: L.Callback) -> CallbackSetAdapter:
        own = t_clbk("checkpoint", path=tmp_path / "own", freq=1)
        stops = t_clbk("early_stopping", patience=1, min_delta=1e9)
        adapter = CallbackSetAdapter([log, "history", stops, own], terminate_at="validation")
        limits: dict[str, Any] = {"max_epochs": -1, "max_steps": 100, "val_check_interval": 2}
        trainer = quiet(callbacks=[adapter, *natives], enable_checkpointing=bool(natives), **limits)
        trainer.fit(Tiny(), ones(20), ones(1), ckpt_path=ckpt)
        return adapter

    train(None, ModelCheckpoint(tmp_path, "{step}", save_top_k=-1))
    assert log.rows == [("batch_end", n) for n in (1, 2, 3, 4)]
    log.rows.clear()
    ckpt = latest_checkpoint(tmp_path / "own")
    if name != "own":
        shutil.rmtree(tmp_path / "own")
        ckpt = tmp_path / name
    if name == "step=2.ckpt":
        train(ckpt)
        assert log.rows == [("batch_end", n) for n in (3, 4)]
    else:
        with pytest.warns(UserWarning, match="Early stopping had already ended the resumed run"):
            adapter = train(ckpt)
        assert log.rows == []
        assert str(adapter.stopped_by).startswith("callback 'early_stopping' set ctx.terminate in on_begin")


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_stop_asked_for_before_the_checkpoint_waits_for_the_next_validation(tmp_path: Path) -> None:
    def train(ckpt: Path | None) -> tuple[list[Any], bool]:
        log = StageLog("global_step", stages=("on_batch_end",))
        seen = []
        look = Act(on_begin=lambda ctx: seen.append(ctx.terminate))
        adapter = CallbackSetAdapter({"log": log, "look": look, "stop": stop}, terminate_at="validation")
        limits: dict[str, Any] = {"max_epochs": -1, "max_steps": 100, "val_check_interval": 3}
        quiet(callbacks=[adapter, save], **limits).fit(Tiny(), ones(20), ones(1), ckpt_path=ckpt)
        assert seen == [False]  # in every fit
        return log.rows, adapter.stopped_by is not None

    stop = Act(on_batch_end=lambda ctx: setattr(ctx, "terminate", ctx.terminate or ctx.global_step == 1))
    save = Save("on_train_batch_end", 1, tmp_path / "one.ckpt")
    assert train(None) == ([("batch_end", n) for n in (1, 2, 3)], True)
    assert train(tmp_path / "one.ckpt") == ([("batch_end", n) for n in (2, 3)], True)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_stop_inside_an_epoch_is_that_of_the_fit_it_stopped(tmp_path: Path) -> None:
    """As one at the end of an epoch: who resumes the run wants to go on, unless a callback asks again."""
    log = StageLog("global_step", stages=("on_batch_end",))
    stop = Act(on_valid_end=lambda ctx: ctx.global_step == 2 and setattr(ctx, "terminate", True))
    save = LambdaCallback(on_validation_end=lambda trainer, module: trainer.save_checkpoint(tmp_path / "two.ckpt"))
    limits: dict[str, Any] = {"max_epochs": -1, "max_steps": 6, "val_check_interval": 2, "num_sanity_val_steps": 0}
    for ckpt, native in ((None, [save]), (tmp_path / "two.ckpt", [])):
        adapter = CallbackSetAdapter([log, stop], terminate_at="validation")
        quiet(callbacks=[adapter, *native], **limits).fit(Tiny(), ones(20), ones(1), ckpt_path=ckpt)
    assert log.rows == [("batch_end", n) for n in range(1, 7)]


def test_training_measures_have_their_direction_in_a_resumed_run(tmp_path: Path) -> None:
    class Measured(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.mse = MeanSquaredError()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.mse.update(self.network(batch).detach(), torch.zeros(2, 1))
            self.log("train_mse", self.mse, on_step=False, on_epoch=True)
            return self.loss(batch)

    seen = []
    look = Act(on_epoch_begin=lambda ctx: seen.append((ctx.epoch, ctx.minimize("mse"))))
    save = LambdaCallback(on_train_epoch_end=lambda trainer, module: trainer.save_checkpoint(tmp_path / "one.ckpt"))
    tiny_fit(look, Measured(), native=(save,))
    quiet(callbacks=[CallbackSetAdapter(look)], max_epochs=2).fit(Measured(), ones(2), ckpt_path=tmp_path / "one.ckpt")
    assert seen == [(1, None), (2, True)]


def test_a_validation_whose_end_failed_runs_again(tmp_path: Path) -> None:
    whole, parts = Outcome(), Outcome()
    fit(["history"], whole)
    saves = OnExceptionCheckpoint(tmp_path)
    fit(["history"], parts, saves, ahead=(Interrupt("on_validation_end", 2 * BATCHES),))
    fit(["history"], parts, ckpt=tmp_path / "on_exception.ckpt")
    assert parts.states == whole.states


@pytest.mark.parametrize("kind", ["epoch end", "CallbackSetCheckpoint"])
@pytest.mark.parametrize("kwargs", [{"max_steps": 16}, {"max_steps": 16, "max_epochs": -1}], ids=str)
def test_a_run_that_counts_in_steps(
    kind: str, kwargs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning begins the epoch once more that had ended when the checkpoint was written, without batches."""
    monkeypatch.chdir(tmp_path)
    callbacks = ["history", "steps", "early_stopping_plain", "lr_step", "unfreeze"]
    whole, parts = Outcome(), Outcome()
    fit(callbacks, whole, **kwargs)
    interrupt = Interrupt("on_train_epoch_start", 2 * BATCHES)
    own: dict[str, CallbackSet] = {}
    if kind == "epoch end":
        natives, name = checkpoint(tmp_path, kind)
        fit(callbacks, parts, *natives, **kwargs)
        saved: Any = tmp_path / name
    else:
        own = {"checkpoint": CallbackSetCheckpoint("saved", freq=1)}
        fit(callbacks, parts, interrupt, own=own, **kwargs)
        saved = latest_checkpoint("saved")
    fit(callbacks, parts, ckpt=saved, own=own, **kwargs)
    assert parts.states["history"]["epoch"] == [1, 2, 3, 4]
    assert_same(parts, whole)


# of the run that was cut short, on purpose
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize(
    "limits", [{"valid": False}, {"check_val_every_n_epoch": 2}, {"val_check_interval": 2}, {"max_steps": 7}], ids=str
)
def test_a_run_that_counts_in_steps_goes_on_from_its_own_checkpoint(limits: dict[str, Any], tmp_path: Path) -> None:
    """However it ended: a row for each epoch, and `epoch_end` once, or twice for the one that was cut short."""

    def run(ckpt: Any, **kwargs: Any) -> list[int]:
        ends = StageLog("epoch", stages=("on_epoch_end",))
        own = t_clbk("checkpoint", path=tmp_path / "own", freq=1)
        adapter = CallbackSetAdapter({"history": CallbackSetHistory(), "ends": ends, "checkpoint": own})
        native = ModelCheckpoint(tmp_path / "steps", "{step}", every_n_train_steps=3, save_top_k=-1)
        loaders = (ones(4), ones(1)) if kwargs.pop("valid", True) else (ones(4),)
        trainer = quiet(callbacks=[adapter, native], enable_checkpointing=True, max_epochs=-1, **kwargs)
        trainer.fit(Tiny(), *loaders, ckpt_path=ckpt)
        ended.extend(ends.at("epoch_end"))
        return adapter.states["history"]["epoch"]

    ended: list[int] = []
    run(None, **({"max_steps": 8} | limits))
    epochs = run(latest_checkpoint(tmp_path / "own"), **(limits | {"max_steps": 16}))
    assert epochs == [1, 2, 3, 4]
    assert ended == ([1, 2, 2, 3, 4] if "max_steps" in limits else [1, 2, 3, 4])
    assert latest_checkpoint(tmp_path / "own") == tmp_path / "own" / "epoch4.ckpt"


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_checkpoint_inside_an_epoch_that_a_limit_had_cut_short_is_the_newest(tmp_path: Path) -> None:
    def run(ckpt: Any, steps: int, interrupt: int = 10**9) -> None:
        own = t_clbk("checkpoint", path=tmp_path, freq=1, every_minutes=0, keep=2)
        ends = Act(on_batch_end=lambda ctx: ctx.global_step == interrupt and fails())
        quiet(callbacks=[CallbackSetAdapter({"own": own, "ends": ends})], max_epochs=-1, max_steps=steps).fit(
            Tiny(), ones(6), ckpt_path=ckpt
        )

    def fails() -> None:
        raise InterruptedFit

    run(None, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch1.ckpt"]
    with pytest.raises(InterruptedFit):
        run(latest_checkpoint(tmp_path), 12, interrupt=5)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch1-batch4.ckpt"]
    run(latest_checkpoint(tmp_path), 12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch1.ckpt", "epoch2.ckpt"]


def test_an_end_that_has_failed_is_not_made_up_for_when_a_callback_saves_the_failure(tmp_path: Path) -> None:
    class Fails(L.Callback):
        def on_train_epoch_end(self, *args: Any) -> None:
            raise InterruptedFit

        def on_exception(self, trainer: L.Trainer, *args: Any) -> None:
            trainer.save_checkpoint(tmp_path / "failed.ckpt")

    log = StageLog()
    with pytest.raises(InterruptedFit):
        tiny_fit(log, None, ones(1), ones(1), native=(Fails(),))
    assert log.rows[-2:] == ["valid_end", "exit"]


def test_saving_before_the_adapter_changes_nothing_in_the_run_that_saves(tmp_path: Path) -> None:
    plain, saving = Outcome(), Outcome()
    callbacks = ["history", "early_stopping_plain", "steps"]
    fit(callbacks, plain)
    hooks = ("on_train_batch_start", "on_train_batch_end", "on_validation_start", "on_validation_batch_end")
    hooks += ("on_validation_epoch_end", "on_validation_end", "on_train_epoch_end", "on_train_end")
    fit(callbacks, saving, ahead=tuple(Save(hook, 2 * BATCHES, tmp_path / f"{hook}.ckpt") for hook in hooks))
    assert len(list(tmp_path.iterdir())) == len(hooks) - 1  # after six epochs, training has ended
    assert same(saving.states, plain.states)
    assert same(saving.weights, plain.weights)


def test_last_batch_of_an_epoch(tmp_path: Path) -> None:
    """The validation of this epoch is due, and the resumed run makes it."""
    callbacks = ["history", "loss_ema", "steps"]
    whole, parts = Outcome(), Outcome()
    fit(callbacks, whole)
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=8, save_top_k=-1)
    fit(callbacks, parts, save, Interrupt("on_validation_start", 8))
    fit(callbacks, parts, ckpt=tmp_path / "step=8.ckpt")
    assert_same(parts, whole)


@pytest.mark.parametrize("callback", ["history", "early_stopping_plain", "loss_ema", "steps"])
def test_saved_after_a_finished_fit(callback: str, tmp_path: Path) -> None:
    whole, parts = Outcome(), Outcome()
    fit([callback], whole)
    trainer, _ = fit([callback], parts, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "finished.ckpt")
    fit([callback], parts, ckpt=tmp_path / "finished.ckpt")
    assert_same(parts, whole)


def test_saved_after_exit_is_not_exact(tmp_path: Path) -> None:
    outcome = Outcome()
    trainer, adapter = fit(["early_stopping"], outcome, max_epochs=50)
    best = adapter.states["early_stopping"]["best_weights"]
    assert adapter.states["early_stopping"]["best_epochs"] < trainer.current_epoch < 50
    assert same(outcome.weights, list(best.values()))
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    with (
        pytest.warns(UserWarning, match="written after its fit had ended"),
        pytest.warns(UserWarning, match="had already ended the resumed run"),
    ):
        fit(["early_stopping"], outcome, ckpt=tmp_path / "best.ckpt", max_epochs=50)


def test_a_stopped_run_trains_no_further(tmp_path: Path) -> None:
    outcome = Outcome()
    save = ModelCheckpoint(tmp_path, "{epoch}", save_last=True, save_on_train_epoch_end=True)
    trainer, adapter = fit(["early_stopping", "history"], outcome, save, max_epochs=50)
    assert adapter.stopped_by is not None
    steps, states = trainer.global_step, outcome.states
    with pytest.warns(UserWarning, match="had already ended the resumed run: 'loss' did not improve"):
        trainer, adapter = fit(["early_stopping", "history"], outcome, ckpt=tmp_path / "last.ckpt", max_epochs=50)
    assert trainer.global_step == steps
    assert adapter.stopped_by is not None
    assert same(outcome.states, states)


def test_a_finished_run_returns_its_states(tmp_path: Path) -> None:
    first, again = Outcome(), Outcome()
    save = ModelCheckpoint(tmp_path, "{epoch}", save_last=True, save_on_train_epoch_end=True)
    fit(["history", "early_stopping", "loss_ema", "steps"], first, save)
    trainer, _ = fit(["history", "early_stopping", "loss_ema", "steps"], again, ckpt=tmp_path / "last.ckpt")
    assert trainer.current_epoch == EPOCHS
    assert again.rates == {}
    assert same(again.states, first.states)
    assert same(again.weights, first.weights)


def test_a_validation_under_way_runs_again_whatever_the_resumed_trainer_would_do(tmp_path: Path) -> None:
    path = tmp_path / "inside.ckpt"
    save = Act(on_batch_valid_end=lambda ctx: ctx.global_step == 2 and ctx.trainer.save_checkpoint(path))
    tiny_fit({"log": save}, Tiny(), ones(4), ones(1), val_check_interval=2)
    log = StageLog("global_step", stages=("on_before_valid", "on_valid_end", "on_batch_end"))
    trainer = quiet(max_epochs=1, callbacks=[CallbackSetAdapter({"log": log})])
    trainer.fit(Tiny(), ones(4), ones(1), ckpt_path=path)
    validated = [("before_valid", 2), ("valid_end", 2)]
    assert log.rows == [*validated, ("batch_end", 3), ("batch_end", 4), ("before_valid", 4), ("valid_end", 4)]
