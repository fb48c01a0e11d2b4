"""Runs that are saved at every moment, and resumed: do they end as the run that nothing interrupts?

A `Setup` is a loader and a Trainer. One run of it saves a checkpoint at each moment: in each Lightning hook, by a
callback before the adapter and by one behind it, and in each stage of a callback of one's own, in the first, a middle
and the last batch of an epoch. Each of these checkpoints is resumed, and compared in all that a run comes to.
"""

import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchmetrics import MeanSquaredError

from callbacksets import CallbackSet, CallbackSetAdapter, t_clbk
from callbacksets.base import STAGES
from tests.helpers import quiet
from tests.random_runs import HOOKS

EPOCHS, BATCHES = 3, 4
OWN = tuple(stage for stage in STAGES if stage not in ("on_begin", "on_exit"))
IN_STEP = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")


# --- data -------------------------------------------------------------------------------------------------------------


def samples(n: int = 4 * BATCHES) -> TensorDataset:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    return TensorDataset(x, x.sum(1, keepdim=True))


class Noisy(Dataset[Any]):
    """Adds noise from all three libraries to what it gives."""

    def __init__(self) -> None:
        self.samples = samples()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        x, y = self.samples[index]
        return x + 0.1 * (random.random() + np.random.rand() + torch.rand(()).item()), y


class WithGenerators(Noisy):
    """Has random numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.numpy, self.python = np.random.default_rng(3), random.Random(4)

    def __getitem__(self, index: int) -> Any:
        x, y = self.samples[index]
        return x + 0.1 * float(self.numpy.random() + self.python.random()), y


class Stream(IterableDataset[Any]):
    """Gives its samples in another order each time, each worker its share of them."""

    def __init__(self, length: int | None = None) -> None:
        self.length = length
        if length is not None:
            self.__class__ = SizedStream

    def __iter__(self) -> Iterator[Any]:
        data = samples()
        order = torch.randperm(len(data)).tolist()
        told = torch.utils.data.get_worker_info()
        yield from (data[i] for i in (order if told is None else order[told.id :: told.num_workers]))


class SizedStream(Stream):
    def __len__(self) -> int:
        return self.length or 0


class DrawsInIter:
    """A loader of one's own that draws its order in `iter`."""

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[Any]:
        return iter([samples()[part] for part in torch.randperm(4 * BATCHES).view(BATCHES, 4)])


class DrawsInNext(DrawsInIter):
    """Another one that draws with its first batch."""

    def __iter__(self) -> Iterator[Any]:
        for part in torch.randperm(4 * BATCHES).view(BATCHES, 4):
            yield samples()[part]


class GoesOn(DrawsInNext):
    """One with a state: its order depends on the epoch, which it counts."""

    def __init__(self) -> None:
        self.epoch, self.position = 0, 0

    def __iter__(self) -> Iterator[Any]:
        if self.position == BATCHES:
            self.epoch, self.position = self.epoch + 1, 0
        order = torch.randperm(4 * BATCHES, generator=torch.Generator().manual_seed(self.epoch)).view(BATCHES, 4)
        while self.position < BATCHES:
            self.position += 1
            yield samples()[order[self.position - 1]]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.epoch, self.position = state_dict["epoch"], state_dict["position"]


class LikeLitdata(DataLoader[Any]):
    """One that takes back its flag `restore` at the end of its iterator, a generator, which Lightning never reads."""

    def __init__(self) -> None:
        super().__init__(Ordered(), batch_size=4)
        self.restore, self.position = False, 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if not self.restore:
            self.dataset.epoch, self.position = self.dataset.epoch + 1, 0  # type: ignore[attr-defined]
        self.dataset.start = self.position  # type: ignore[attr-defined]
        for batch in super().__iter__():
            self.position += len(batch[0])
            yield batch
        self.restore = False

    def __len__(self) -> int:
        return BATCHES

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.dataset.epoch, "position": self.position}  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.dataset.epoch, self.position = state_dict["epoch"], state_dict["position"]  # type: ignore[attr-defined]
        self.restore = 0 < self.position < 4 * BATCHES


class Ordered(IterableDataset[Any]):
    """Its order depends on the epoch. It adds noise."""

    def __init__(self) -> None:
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[Any]:
        data, order = samples(), torch.randperm(16, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        yield from ((data[i][0] + torch.rand(()), data[i][1]) for i in order[self.start :])


def stateful(**kwargs: Any) -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(samples(), 4, **kwargs)


def plain(data: Any = None, **kwargs: Any) -> Any:
    return DataLoader(samples() if data is None else data, **{"batch_size": 4} | kwargs)


LOADERS: dict[str, Callable[[], Any]] = {
    "in order": plain,
    "shuffled": partial(plain, shuffle=True),
    "noisy": lambda: plain(Noisy(), shuffle=True),
    "own generators": lambda: plain(WithGenerators(), shuffle=True, generator=torch.Generator().manual_seed(5)),
    "weighted": lambda: plain(sampler=WeightedRandomSampler(torch.arange(1.0, 17.0), 16)),
    "with replacement": lambda: plain(sampler=RandomSampler(samples(), replacement=True)),
    "batch sampler": lambda: plain(
        batch_size=1, batch_sampler=BatchSampler(RandomSampler(samples()), 4, drop_last=False)
    ),
    "samples, not batches": lambda: plain(
        batch_size=None, sampler=BatchSampler(SequentialSampler(samples()), 4, False)
    ),
    "iterable": lambda: plain(Stream()),
    "iterable with length": lambda: plain(Stream(16)),
    "draws in iter": DrawsInIter,
    "draws in next": DrawsInNext,
    "dict": lambda: {"a": plain(shuffle=True), "b": DataLoader(samples(8), 4, shuffle=True)},
    "shortest": lambda: CombinedLoader([plain(shuffle=True), DataLoader(samples(24), 4, shuffle=True)], "min_size"),
    "longest": lambda: CombinedLoader([plain(shuffle=True), DataLoader(samples(8), 4, shuffle=True)], "max_size"),
    "goes on": GoesOn,
    "like litdata": LikeLitdata,
    "torchdata": stateful,
    "torchdata, shuffled": partial(stateful, shuffle=True),
    "workers": lambda: plain(Noisy(), shuffle=True, num_workers=2),
    "persistent workers": partial(plain, shuffle=True, num_workers=1, persistent_workers=True),
    "iterable with workers": lambda: plain(Stream(), num_workers=2),
    "torchdata with workers": partial(stateful, shuffle=True, num_workers=2),
}
STATEFUL = [name for name in LOADERS if name.startswith(("torchdata", "goes on", "like"))]


@dataclass(frozen=True)
class Setup:
    """What is trained, and how."""

    loader: str = "shuffled"
    trainer: dict[str, Any] = field(default_factory=dict)
    dropout: float = 0.0
    plateau: bool = False
    valid: Callable[[], Any] | None = None
    moments: int = 1  # every how many of the moments


TRAINERS: dict[str, Setup] = {
    "two batches a step": Setup(trainer={"accumulate_grad_batches": 2}),
    "three batches a step": Setup(trainer={"accumulate_grad_batches": 3}),
    "validates twice": Setup(trainer={"val_check_interval": 2}),
    "validates every third batch": Setup(trainer={"val_check_interval": 3, "check_val_every_n_epoch": None}),
    "validates every second epoch": Setup(trainer={"check_val_every_n_epoch": 2}),
    "does not validate": Setup(trainer={"limit_val_batches": 0}),
    "limited": Setup(trainer={"limit_train_batches": 3, "limit_val_batches": 1}),
    "counts steps": Setup(trainer={"max_epochs": -1, "max_steps": 10}),
    "counts both": Setup(trainer={"max_epochs": 3, "max_steps": 11}),
    "bf16-mixed": Setup(trainer={"precision": "bf16-mixed"}),
    "reloads": Setup(trainer={"reload_dataloaders_every_n_epochs": 2}),
    "overfits": Setup(trainer={"overfit_batches": 3}),
    "plateau": Setup(plateau=True),
    "dropout": Setup(dropout=0.5),
    "sanity check": Setup(trainer={"num_sanity_val_steps": 2}),
    "validates with workers": Setup(valid=partial(plain, shuffle=True, num_workers=1)),
    "validates with persistent workers": Setup(
        valid=partial(plain, shuffle=True, num_workers=1, persistent_workers=True)
    ),
    "validates with a generator": Setup(valid=lambda: plain(Noisy(), generator=torch.Generator().manual_seed(1))),
}


# --- a run ------------------------------------------------------------------------------------------------------------


class Module(L.LightningModule):
    """Logs numbers under every `reduce_fx`, a number per step too, and a torchmetrics object."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.setup_of_run = setup
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(setup.dropout), nn.Linear(8, 1))
        self.mse, self.val_mse = MeanSquaredError(), MeanSquaredError()
        self.seen = 0.0

    def train_dataloader(self) -> Any:
        return LOADERS[self.setup_of_run.loader]()

    def val_dataloader(self) -> Any:
        return self.setup_of_run.valid() if self.setup_of_run.valid else DataLoader(Noisy(), 8, shuffle=True)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch[0], list) else [batch]
        losses = []
        for part in parts:
            if part is not None:
                y_hat = self.network(part[0])
                losses.append(nn.functional.mse_loss(y_hat, part[1]))
                self.mse(y_hat.detach().float(), part[1].float())
        loss = sum(losses) / len(losses)
        assert isinstance(loss, torch.Tensor)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=4)
        self.log("loss_per_step", loss, on_step=True, on_epoch=True, batch_size=4)
        for fx in ("sum", "max", "min"):
            self.log(f"train_{fx}", loss.detach(), on_step=False, on_epoch=True, reduce_fx=fx)
        self.log("train_mse", self.mse, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        y_hat = self.network(batch[0])
        self.val_mse(y_hat.float(), batch[1].float())
        self.log("val_loss", nn.functional.mse_loss(y_hat, batch[1]))
        self.log("val_mse", self.val_mse)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 0.05)
        if self.setup_of_run.plateau:
            schedule: Any = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)}


class CallbackSetSums(CallbackSet):
    """Adds up losses and data, counts stages, and draws at the start of each epoch."""

    def __init__(self) -> None:
        self.loss = self.data = self.drawn = 0.0
        self.counts = dict.fromkeys(("on_epoch_begin", "on_batch_end", "on_valid_end", "on_epoch_end"), 0)

    def on_epoch_begin(self) -> None:
        self.drawn += torch.rand(()).item()
        self.counts["on_epoch_begin"] += 1

    def on_batch_end(self) -> None:
        self.loss += self.ctx.last_loss
        self.data += sum(part.sum().item() for part in tree_tensors(self.ctx.batch))
        self.counts["on_batch_end"] += 1

    def on_valid_end(self) -> None:
        self.counts["on_valid_end"] += 1

    def on_epoch_end(self) -> None:
        self.counts["on_epoch_end"] += 1

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "data": self.data, "drawn": self.drawn, "counts": dict(self.counts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


def tree_tensors(batch: Any) -> list[torch.Tensor]:
    return [one for one in torch.utils._pytree.tree_leaves(batch) if isinstance(one, torch.Tensor)]


class Metrics(L.Callback):
    """Keeps what Lightning's callbacks see at each epoch's end, and draws in one of Lightning's hooks."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        torch.rand(7)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.rows[trainer.current_epoch] = {name: value.item() for name, value in trainer.callback_metrics.items()}


@dataclass
class Saves:
    """Saves a checkpoint at each moment of a run."""

    folder: Path
    names: list[str] = field(default_factory=list)

    def save(self, who: str, hook: str, trainer: L.Trainer) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if not trainer.sanity_checking:
            name = f"{who} {hook} {progress.total.ready}.{len(self.names)}"
            self.names.append(name)
            trainer.save_checkpoint(self.folder / name, weights_only=False)

    def native(self, who: str) -> L.Callback:
        def save(hook: str, trainer: L.Trainer, *args: Any) -> None:
            self.save(who, hook, trainer)

        callback = L.Callback()
        for hook in HOOKS:
            setattr(callback, hook, partial(save, hook))
        return callback

    def own(self) -> CallbackSet:
        callback = CallbackSet()
        for stage in OWN:
            setattr(callback, stage, partial(self._save_own, callback, stage))
        return callback

    def _save_own(self, callback: CallbackSet, stage: str) -> None:
        self.save("own", stage, callback.ctx.trainer)


@dataclass
class Outcome:
    """What a run has come to."""

    values: dict[str, Any]
    metrics: dict[int, dict[str, float]]
    warnings: list[str]


def run(setup: Setup, ckpt: Path | None = None, saves: Saves | None = None, adapter: dict[str, Any] = {}) -> Outcome:
    number = 1 if ckpt is None else 99  # a resumed process has drawn other numbers
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(number)
    module = Module(setup)
    torch.manual_seed(number)
    stopper = t_clbk("early_stopping", patience=9, monitor="loss")
    sets = {"sums": CallbackSetSums(), "own": saves.own() if saves else CallbackSet(), "more": CallbackSetSums()}
    sets |= {"history": "history", **({} if setup.trainer.get("limit_val_batches") == 0 else {"stop": stopper})}
    bridge, metrics = CallbackSetAdapter(sets, **adapter), Metrics()
    natives = [saves.native("before"), bridge, saves.native("behind")] if saves else [bridge]
    kwargs = {"max_epochs": EPOCHS, "num_sanity_val_steps": 0} | setup.trainer
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = quiet(callbacks=[metrics, *natives], **kwargs)
        trainer.fit(module, ckpt_path=ckpt)
    told = [str(one.message) for one in caught]
    values = {"weights": [one.tolist() for one in module.state_dict().values()]}
    values["optimizer"] = torch.utils._pytree.tree_map(
        lambda one: one.tolist() if isinstance(one, torch.Tensor) else one, trainer.optimizers[0].state_dict()
    )
    [config] = trainer.lr_scheduler_configs
    values["schedule"] = config.scheduler.state_dict()
    values |= bridge.states | {"drawn": [random.random(), float(np.random.rand()), torch.rand(2).tolist()]}
    return Outcome(values, metrics.rows, told)


OURS = ("The checkpoint was saved inside a step", "The checkpoint has no gradients", "The epoch inside of which")


def differences(whole: Outcome, resumed: Outcome) -> list[str]:
    """In what a resumed run differs from the uninterrupted one."""
    differs = [name for name in whole.values if not same(resumed.values.get(name), whole.values[name])]
    for epoch, row in resumed.metrics.items():
        names = {
            name for name in (*row, *whole.metrics[epoch]) if not same(row.get(name), whole.metrics[epoch].get(name))
        }
        differs += [f"callback_metrics of epoch {epoch + 1}: {', '.join(sorted(names))}"] if names else []
    return differs


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)


def told_by_us(resumed: Outcome) -> list[str]:
    return [one for one in resumed.warnings if one.startswith(OURS)]


def check(setup: Setup, folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """For each moment, in what its resumed run differs, and of what it was warned."""
    whole = run(setup)
    saves = Saves(folder)
    saving = run(setup, saves=saves)
    assert not (differs := differences(whole, saving)), f"saving changes the run that saves: {differs}"
    results = {}
    for name in chosen(saves.names)[:: setup.moments]:
        resumed = run(setup, folder / name)
        results[name] = (differences(whole, resumed), told_by_us(resumed))
    return results


def chosen(names: list[str]) -> list[str]:
    """Of each hook, the moments in the second epoch, and the very first and last."""
    by_hook: dict[str, list[str]] = {}
    for name in names:
        by_hook.setdefault(name.rsplit(" ", 1)[0], []).append(name)
    picked = []
    for of_hook in by_hook.values():
        n = len(of_hook)
        places = sorted({0, n // 3, n // 2, 2 * n // 3 - 1, n - 1})
        picked += [of_hook[place] for place in places if place >= 0]
    return picked
