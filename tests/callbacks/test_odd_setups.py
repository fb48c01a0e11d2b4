"""What trains without the package trains beside every predefined callback, and the numbers are right.

A table of set-ups and callbacks. Each cell compares the weights with those of a run without the callback, unless the
callback means to change them, and the numbers of the callback with numbers that the module has computed by hand.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, ModelPruning, StochasticWeightAveraging
from packaging.version import Version
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from callbacksets import CallbackSet, CallbackSetAdapter, latest_checkpoint, select_all, t_clbk
from tests.helpers import Batches, quiet

LR = 0.05
EPOCHS = 3


# --- modules that know by hand what callbacks should find -------------------------------------------------------------


def first(value: Any) -> Any:
    """The first tensor of a structure."""
    while not isinstance(value, Tensor):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value


class Module(L.LightningModule):
    """Trains a network and notes all numbers, without Lightning's or our means."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = nn.Linear(2, 1) if network is None else network
        self.epochs: dict[int, dict[str, list[Any]]] = {}
        self.validations: list[dict[str, Any]] = []
        self.calls = 0

    @property
    def now(self) -> dict[str, list[Any]]:
        return self.epochs.setdefault(self.current_epoch + 1, {"loss": [], "norm": [], "rate": [], "valid": []})

    def loss(self, batch: Any) -> tuple[Tensor, Tensor, int]:
        x, y = batch
        out, y = self.network(x), first(y)
        value = (out.abs().mean() - 0.1 * y.to(out.abs().dtype).mean()).pow(2)
        return value, out, len(y) if y.dim() else 1

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch is None:
            return None
        value, _, n = self.loss(batch)
        self.calls += 1
        self.now["loss"].append((value.item(), n))
        self.log("train_loss", value, on_step=False, on_epoch=True, batch_size=n)
        return value

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        numbers = [one.grad.to_dense().abs().double().flatten() for one in parameters if one.grad is not None]
        self.now["norm"].append(torch.cat(numbers).norm().item())
        self.now["rate"].append((self.calls, optimizer.param_groups[0]["lr"]))

    def on_validation_epoch_start(self) -> None:
        self.validations.append({"epoch": self.current_epoch + 1, "loaders": {}, "logged": False})
        if not self.trainer.sanity_checking:
            self.now["valid"].append(self.validations[-1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch is None:
            return
        value, out, n = self.loss(batch)
        seen = self.validations[-1]
        seen["loaders"].setdefault(dataloader_idx, []).append((value.item(), n, out.clone(), first(batch[1]).clone()))
        seen["weights"] = {name: one.clone() for name, one in self.network.state_dict().items()}
        self.log_valid(value, n)

    def log_valid(self, value: Tensor, n: int) -> None:
        self.validations[-1]["logged"] = True
        self.log("val_loss", value, batch_size=n)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=LR)


class OtherInSanity(Module):
    def log_valid(self, value: Tensor, n: int) -> None:
        if self.trainer.sanity_checking:
            self.log("val_other_loss", value, batch_size=n)
        else:
            super().log_valid(value, n)


class SilentInSanity(Module):
    def log_valid(self, value: Tensor, n: int) -> None:
        if not self.trainer.sanity_checking:
            super().log_valid(value, n)


class MoreAtTimes(Module):
    def log_valid(self, value: Tensor, n: int) -> None:
        super().log_valid(value, n)
        if self.current_epoch % 2:
            self.log("val_extra", value, batch_size=n)


class LogsAtTimes(Module):
    def log_valid(self, value: Tensor, n: int) -> None:
        if self.current_epoch != 1:
            super().log_valid(value, n)


class Growing(Module):
    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.more = nn.Parameter(torch.ones(2))
            self.trainer.optimizers[0].add_param_group({"params": [self.more]})

    def loss(self, batch: Any) -> tuple[Tensor, Tensor, int]:
        value, out, n = super().loss(batch)
        return value + (self.more.pow(2).sum() if hasattr(self, "more") else 0), out, n


class Empty(Module):
    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(0, 3))

    def loss(self, batch: Any) -> tuple[Tensor, Tensor, int]:
        value, out, n = super().loss(batch)
        return value + self.nothing.sum(), out, n


class TwoOptimizers(Module):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=LR) for part in self.network]


class Finetuned(Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)

    def loss(self, batch: Any) -> tuple[Tensor, Tensor, int]:
        return super().loss((self.backbone(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD((one for one in self.parameters() if one.requires_grad), lr=LR)


class Squeezing(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


class Scratch(nn.Linear):
    """Returns the same tensor in each validation batch."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if torch.is_grad_enabled():
            return out
        self.scratch = getattr(self, "scratch", out.clone())
        return self.scratch.copy_(out)


class Looking(nn.Embedding):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sum(dim=-1).long().clamp(0, 4))


class ComplexLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1 + 1j], [0.5 - 1j]]))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.weight.dtype) @ self.weight).abs()


class Halving(CallbackSet):
    """Validates with half of the weights that it trains."""

    kept: dict[str, Tensor] = {}

    def on_before_valid(self) -> None:
        if self.ctx.validates:
            self.kept = {name: one.detach().clone() for name, one in self.ctx.network.named_parameters()}
            for one in self.ctx.network.parameters():
                one.data.mul_(0.5)

    def on_valid_end(self) -> None:
        for name, value in self.kept.items():
            self.ctx.network.get_parameter(name).data.copy_(value)
        self.kept = {}


# --- loaders ---------------------------------------------------------------------------------------------------------


def pairs(*lengths: int) -> list[Any]:
    return [(torch.full((n, 2), 0.5 + i), torch.arange(n) + float(i)) for i, n in enumerate(lengths)]


class Refilled(Batches):
    """Fills the same tensors again."""

    def __iter__(self) -> Iterator[Any]:
        x, y = (one.clone() for one in self.batches[0])
        for batch in self.batches:
            x.copy_(batch[0])
            y.copy_(batch[1])
            yield x, y


class Forever(Batches):
    """Never ends, and has no length."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from self.batches

    __len__: Any = None


# --- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """A set-up: functions that make the module, the loaders and Lightning's callbacks, and the Trainer's arguments."""

    module: Callable[[], Module] = Module
    train: Callable[[], Any] = lambda: Batches(pairs(2, 2, 3))
    valid: Callable[[], Any] = lambda: Batches(pairs(2, 1, 2))
    native: Callable[[Any], Any] = lambda module: ()
    sets: Callable[[], list[CallbackSet]] = list
    kwargs: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # by key: what the error says
    averages_from: int = 99  # the epoch from which another schedule has taken over
    new: str = "2.4"  # the first Lightning that has it


def of(network: Callable[[], nn.Module]) -> Callable[[], Module]:
    return lambda: Module(network())


def loaders(*lengths: list[int]) -> Callable[[], Any]:
    return lambda: [Batches(pairs(*one)) for one in lengths]


def batched(*batches: Any) -> dict[str, Callable[[], Any]]:
    return {"train": lambda: Batches(list(batches)), "valid": lambda: Batches(list(batches))}


TWO = r"schedules one optimizer, but the module has 2"
AVERAGING = L.pytorch.callbacks
PAIR_OF = [(x, (y, y)) for x, y in pairs(2, 2, 1)]
NAMED = [(x, {"a": y, "b": y}) for x, y in pairs(2, 2, 1)]

SCHEDULERS = [f"lr_{name}" for name in ("cosine_annealing", "lambda", "multiplicative", "one_cycle", "step")]
SCHEDULERS += ["lr_reduce_on_plateau"]

SETUPS: dict[str, Setup] = {
    "plain": Setup(),
    "logs other names in the sanity check": Setup(OtherInSanity),
    "logs nothing in the sanity check": Setup(SilentInSanity),
    "logs another score at times": Setup(MoreAtTimes),
    "logs its score at times": Setup(LogsAtTimes),
    "no sanity check": Setup(kwargs={"num_sanity_val_steps": 0}),
    "several validations an epoch": Setup(train=lambda: Batches(pairs(2, 2, 2, 2)), kwargs={"val_check_interval": 2}),
    "every second epoch": Setup(kwargs={"check_val_every_n_epoch": 2}),
    "one endless epoch": Setup(
        train=lambda: Forever(pairs(2, 2)), kwargs={"max_steps": 6, "max_epochs": -1, "val_check_interval": 2}
    ),
    "no validation": Setup(
        kwargs={"limit_val_batches": 0},
        refused=dict.fromkeys(("early_stopping", "early_stopping_best"), "needs validation, but this fit has none"),
    ),
    "batches of None in training": Setup(train=lambda: Batches([pairs(2)[0], None, *pairs(2, 2), None])),
    "batches of None in validation": Setup(valid=lambda: Batches([None, *pairs(2, 2), None, *pairs(1)])),
    "squeezes a last batch of one": Setup(of(lambda: Squeezing(2, 1)), **batched(*pairs(2, 3, 1))),
    "squeezes classes": Setup(of(lambda: Squeezing(2, 3)), **batched(*pairs(2, 3, 1))),
    "ragged batches": Setup(**batched(*((torch.ones(2, n, 2), torch.full((2, n), float(n))) for n in (1, 3, 2)))),
    "single samples": Setup(**batched(*((torch.full((2,), float(n)), torch.tensor(float(n))) for n in range(3)))),
    "y is a tuple": Setup(**batched(*PAIR_OF)),
    "y is a dict": Setup(**batched(*NAMED)),
    "refilled buffers": Setup(train=lambda: Refilled(pairs(2, 2, 2)), valid=lambda: Refilled(pairs(2, 2, 2))),
    "a network's own buffer": Setup(of(lambda: Scratch(2, 1)), valid=lambda: Batches(pairs(2, 2, 2))),
    "several loaders": Setup(valid=loaders([2, 1], [3])),
    "an empty first loader": Setup(valid=loaders([], [2, 1], [3])),
    "an empty middle loader": Setup(valid=loaders([2, 1], [], [3])),
    "an empty last loader": Setup(valid=loaders([2, 1], [3], [])),
    "sparse gradients": Setup(of(lambda: Looking(5, 1, sparse=True))),
    "empty parameters": Setup(Empty),
    "added parameters": Setup(Growing),
    "a lazy network": Setup(of(lambda: nn.LazyLinear(1))),
    "accumulated gradients": Setup(kwargs={"accumulate_grad_batches": 2}),
    "stochastic weight averaging": Setup(
        native=lambda module: [StochasticWeightAveraging(0.01, swa_epoch_start=2, annealing_epochs=1)], averages_from=2
    ),
    "weight averaging": Setup(native=lambda module: [AVERAGING.WeightAveraging()], new="2.6"),
    "moving average": Setup(native=lambda module: [AVERAGING.EMAWeightAveraging(decay=0.5)], new="2.6"),
    "pruning": Setup(native=lambda module: [ModelPruning("l1_unstructured", [(module.network, "weight")], amount=0.5)]),
    "finetuning": Setup(Finetuned, native=lambda module: [BackboneFinetuning(1, verbose=False)]),
    "validates with other weights": Setup(sets=lambda: [Halving()]),
    "a second optimizer": Setup(TwoOptimizers, refused=dict.fromkeys(SCHEDULERS, TWO)),
    "a dry run": Setup(kwargs={"fast_dev_run": 2}),
    "64-true": Setup(kwargs={"precision": "64-true"}),
    "bf16-mixed": Setup(kwargs={"precision": "bf16-mixed"}),
    "bf16-true": Setup(kwargs={"precision": "bf16-true"}),
    "complex weights": Setup(of(ComplexLinear)),
}
KEYS: dict[str, dict[str, Any]] = {
    "checkpoint": {"freq": 2},
    "early_stopping": {"patience": 99, "monitor": None},
    "early_stopping_best": {"patience": 99, "restore_best_weights": True},
    "grad_norm": {},
    "history": {},
    "lr_cosine_annealing": {"T_max": 10},
    "lr_lambda": {"lr_lambda": lambda epoch: 1 / (1 + epoch)},
    "lr_monitor": {},
    "lr_multiplicative": {"lr_lambda": lambda epoch: 0.5},
    "lr_one_cycle": {"max_lr": 0.1},
    "lr_reduce_on_plateau": {"patience": 0, "factor": 0.5, "threshold": 0.5},
    "lr_step": {"step_size": 2, "gamma": 0.5},
    "nan_guard": {},
    "predictions": {},
    "progress": {},
    "tb": {"log_train_loss": True},
    "unfreeze": {"starting_weights": select_all(), "unfreeze": []},
}
CHANGES_WEIGHTS = [*SCHEDULERS, "early_stopping_best"]


def train(setup: Setup, *ours: CallbackSet) -> Module:
    torch.manual_seed(0)
    module = setup.module()
    sets = [*setup.sets(), *ours]
    callbacks = [*setup.native(module), *([CallbackSetAdapter(sets)] if sets else [])]
    trainer = quiet(callbacks=callbacks, **({"max_epochs": EPOCHS} | setup.kwargs))
    trainer.fit(module, setup.train(), setup.valid())
    return module


@pytest.fixture(autouse=True)
def _silent(caplog: pytest.LogCaptureFixture) -> None:
    """Seven hundred runs need not say what they run on."""
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        caplog.set_level(logging.WARNING, logger=name)


@cache
def bare(name: str) -> Module:
    return train(SETUPS[name])


# --- the numbers by hand ---------------------------------------------------------------------------------------------


def mean(pairs: list[Any]) -> float:
    """The mean over samples of values with their numbers of samples."""
    return sum(value * n for value, n, *_ in pairs) / sum(n for _, n, *_ in pairs)


def rows(module: Module, several: bool) -> list[dict[str, Any]]:
    """The rows of the history."""
    found = []
    for epoch, seen in sorted(module.epochs.items()):
        row = {"epoch": epoch, "train.loss": mean(seen["loss"])}
        for place, batches in seen["valid"][-1]["loaders"].items() if seen["valid"] else ():
            if seen["valid"][-1]["logged"]:
                row[f"valid.loss/dataloader_idx_{place}" if several else "valid.loss"] = mean(batches)
        found.append(row)
    return found


def validations(module: Module) -> list[dict[str, Any]]:
    """The validations that logged a score."""
    return [one for seen in module.epochs.values() for one in seen["valid"] if one["logged"]]


def score(validation: dict[str, Any]) -> float:
    return mean(next(iter(validation["loaders"].values())))


def best(module: Module) -> dict[str, Any]:
    return min(validations(module), key=score)


def effective(state: dict[str, Any]) -> dict[str, Any]:
    """Weights as a forward call applies them, pruned or not."""
    state = dict(state)
    if "weight_orig" in state:
        state["weight"] = state.pop("weight_orig") * state.pop("weight_mask")
    return state


def rate_of(seen: dict[str, list[Any]]) -> float:
    """The learning rate of the last step of an epoch."""
    return seen["rate"][-1][1]


@dataclass(frozen=True)
class Cell:
    """A run with one callback."""

    setup: Setup
    key: str
    module: Module
    callback: Any
    history: dict[str, list[Any]]
    folder: Path
    several: bool  # validation loaders

    @property
    def near(self) -> Callable[[Any], Any]:
        rough = "bf16" in str(self.setup.kwargs)
        return lambda value: pytest.approx(value, rel=2e-2 if rough else 1e-4, abs=1e-3 if rough else 1e-6)

    @property
    def is_dry(self) -> bool:
        return "fast_dev_run" in self.setup.kwargs

    def is_table(self, columns: dict[str, list[Any]]) -> None:
        expected = rows(self.module, self.several)
        assert columns["epoch"] == [row["epoch"] for row in expected]
        for name in {name for row in expected for name in row}:
            for value, row in zip(columns[name], expected, strict=True):
                assert value == (self.near(row[name]) if name in row else None), name

    def rates_are(self, expected: Callable[[int, int], float]) -> None:
        """Compare the rate of each step with what is expected, by epoch and number of batches."""
        for epoch, seen in sorted(self.module.epochs.items()):
            for calls, rate in seen["rate"] if epoch < self.setup.averages_from else ():
                assert rate == self.near(expected(epoch, calls)), (epoch, calls)
        assert self.setup.averages_from > epoch or rate_of(seen) == self.near(0.01)


def schedule(make: Callable[..., Any], steps: int, **kwargs: Any) -> list[float]:
    """The rates of torch's own scheduler."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=LR)
    scheduler, rates = make(optimizer, **kwargs), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def of_epochs(make: Callable[..., Any]) -> Callable[[Cell], None]:
    def check(cell: Cell) -> None:
        rates = schedule(make, EPOCHS, **KEYS[cell.key])
        cell.rates_are(lambda epoch, calls: rates[epoch - 1])

    return check


def check_cycle(cell: Cell) -> None:
    rates = schedule(
        torch.optim.lr_scheduler.OneCycleLR,
        cell.module.calls,
        **cell.callback.scheduler_args,
        total_steps=cell.callback.scheduler.total_steps,
    )
    cell.rates_are(lambda epoch, calls: rates[calls - 1])


def check_plateau(cell: Cell) -> None:
    if cell.setup.averages_from < 99:
        return
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=LR)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **KEYS[cell.key])
    for one in validations(cell.module):
        scheduler.step(score(one))
    assert cell.module.trainer.optimizers[0].param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert cell.callback.scheduler.last_epoch == len(validations(cell.module))


def check_checkpoint(cell: Cell) -> None:
    last = max(cell.module.epochs)
    numbers = [] if cell.is_dry else sorted({*range(2, last + 1, 2), last})
    assert sorted(one.name for one in cell.folder.glob("*")) == [f"epoch{n}.ckpt" for n in numbers]
    if not cell.is_dry and not cell.setup.native(cell.module):
        saved = torch.load(latest_checkpoint(cell.folder), weights_only=True)["state_dict"]
        assert all(torch.equal(value, saved[name]) for name, value in cell.module.state_dict().items())


def check_stopping(cell: Cell) -> None:
    seen = best(cell.module)
    assert cell.callback.best_score == cell.near(score(seen))
    assert cell.callback.best_epochs == seen["epoch"]
    assert cell.callback.best_scores[cell.callback.measure] == cell.callback.best_score


def check_best_weights(cell: Cell) -> None:
    check_stopping(cell)
    now, seen = (effective(state) for state in (cell.module.network.state_dict(), best(cell.module)["weights"]))
    assert now.keys() == seen.keys()
    assert all(torch.equal(now[name], seen[name]) for name in now)


def check_norm(cell: Cell) -> None:
    expected = [sum(seen["norm"]) / len(seen["norm"]) for _, seen in sorted(cell.module.epochs.items())]
    assert cell.history["train.grad_norm"] == cell.near(expected)


def check_rate(cell: Cell) -> None:
    for i, (_, seen) in enumerate(sorted(cell.module.epochs.items())):
        found = [cell.history[name][i] for name in ("train.lr", "train.lr.0") if name in cell.history]
        assert cell.near(rate_of(seen)) in found


def check_predictions(cell: Cell) -> None:
    seen = [one for epoch in cell.module.epochs.values() for one in epoch["valid"]]
    if not seen:
        assert cell.callback.y_hat is None
        return
    found = (
        list(zip(cell.callback.y_hat, cell.callback.y, strict=True))
        if cell.several
        else [(cell.callback.y_hat, cell.callback.y)]
    )
    if cell.several:
        assert len(found) == len(cell.setup.valid())
    for place, kept in enumerate(found):
        for tensors, batches in zip(
            kept, zip(*((o, y) for *_, o, y in seen[-1]["loaders"].get(place, [])), strict=True), strict=False
        ):
            assert torch.equal(
                torch.cat([one.flatten() for one in tensors]), torch.cat([one.flatten() for one in batches])
            )
        samples = sum(n for _, n, *_ in seen[-1]["loaders"].get(place, []))
        lengths = {len(one) if isinstance(one, Tensor) else sum(map(len, one)) for one in kept}
        assert lengths == {samples}


def check_events(cell: Cell) -> None:
    if cell.is_dry:
        assert not list(cell.folder.glob("*"))
        return
    events = EventAccumulator(str(cell.folder)).Reload()
    for name in events.Tags()["scalars"]:
        assert name.startswith(("train.", "valid."))
    expected = [(row["epoch"], row["train.loss"]) for row in rows(cell.module, cell.several)]
    assert [(one.step, one.value) for one in events.Scalars("train.loss")] == [
        (n, cell.near(value)) for n, value in expected
    ]
    if cell.module.automatic_optimization:
        losses = [value for _, seen in sorted(cell.module.epochs.items()) for value, _ in seen["loss"]]
        assert [one.value for one in events.Scalars("train.last_loss")] == cell.near(losses)


def check_trainable(cell: Cell) -> None:
    assert all(one.requires_grad for one in cell.module.network.parameters())


torch_lr = torch.optim.lr_scheduler
CHECKS: dict[str, Callable[[Cell], None]] = {
    "checkpoint": check_checkpoint,
    "early_stopping": check_stopping,
    "early_stopping_best": check_best_weights,
    "grad_norm": check_norm,
    "history": lambda cell: cell.is_table(cell.callback.state_dict()),
    "lr_cosine_annealing": of_epochs(torch_lr.CosineAnnealingLR),
    "lr_lambda": of_epochs(torch_lr.LambdaLR),
    "lr_monitor": check_rate,
    "lr_multiplicative": of_epochs(torch_lr.MultiplicativeLR),
    "lr_one_cycle": check_cycle,
    "lr_reduce_on_plateau": check_plateau,
    "lr_step": of_epochs(torch_lr.StepLR),
    "nan_guard": lambda cell: None,
    "predictions": check_predictions,
    "progress": lambda cell: cell.is_table(cell.callback.columns()),
    "tb": check_events,
    "unfreeze": check_trainable,
}


def test_the_table_has_every_predefined_callback() -> None:
    from callbacksets import torch_callbacks

    assert {key.removesuffix("_best") for key in KEYS} == set(torch_callbacks.keys())
    assert KEYS.keys() == CHECKS.keys()


# --- the runs --------------------------------------------------------------------------------------------------------


ALONE = [*CHANGES_WEIGHTS, "nan_guard"]  # the others run together, but in the plain set-up


def cells() -> list[Any]:
    """All set-ups with all callbacks. Those of one set-up run in one process, where they share a run."""
    return [pytest.param(name, key, marks=pytest.mark.xdist_group(name)) for name in SETUPS for key in KEYS]


def made(name: str, key: str, folder: Path) -> CallbackSet:
    arguments = dict(KEYS[key])
    if key in ("checkpoint", "tb"):
        arguments["path"] = folder / key
    if key == "predictions" and name.startswith("y is"):
        arguments["target"] = lambda batch: first(batch[1])
    return t_clbk(key.removesuffix("_best"), **arguments).generate()


Run = tuple[Module, dict[str, Any], Path]


def ran(name: str, keys: Iterable[str], folder: Path) -> Run:
    callbacks = {key: made(name, key, folder) for key in dict.fromkeys((*keys, "history"))}
    return train(SETUPS[name], *callbacks.values()), callbacks, folder


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    @cache
    def run(name: str) -> Run:
        keys = [key for key in KEYS if key not in (*ALONE, *SETUPS[name].refused)]
        return ran(name, keys, tmp_path_factory.mktemp("together"))

    return run


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Total length of `.*` across ranks is zero")
@pytest.mark.filterwarnings("ignore:.* yielded None. If this was on purpose")
@pytest.mark.filterwarnings("ignore:.*has only none, so it is ignored")
@pytest.mark.filterwarnings("ignore:This fit has no validation")
@pytest.mark.filterwarnings("ignore:StochasticWeightAveraging and restore_best_weights")
@pytest.mark.parametrize(("name", "key"), cells())
def test_it_trains_as_without_the_callback_and_its_numbers_are_right(
    name: str, key: str, tmp_path: Path, together: Callable[[str], Run]
) -> None:
    setup = SETUPS[name]
    if Version(L.__version__) < Version(setup.new):
        pytest.skip(f"new in Lightning {setup.new}")
    if refused := setup.refused.get(key):
        with pytest.raises(RuntimeError, match=refused):
            ran(name, [key], tmp_path)
        return
    is_alone = key in ALONE or name == "plain"
    module, callbacks, folder = ran(name, [key], tmp_path) if is_alone else together(name)
    if key not in CHANGES_WEIGHTS:
        expected = bare(name).state_dict()
        assert module.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[one]) for one, value in module.state_dict().items())
    several = isinstance(setup.valid(), list)
    history = callbacks["history"].state_dict()
    CHECKS[key](Cell(setup, key, module, callbacks[key], history, folder / key, several))
