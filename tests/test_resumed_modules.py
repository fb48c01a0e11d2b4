"""What modules do in hooks of their own, and what lives longer than an epoch, goes on exactly in a resumed run."""

import copy
import random
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from packaging.version import Version
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MaxMetric, MeanSquaredError

from callbacksets import CallbackSet, CallbackSetAdapter, latest_checkpoint, read_states, t_clbk
from tests.exact import Saves, chosen, same, samples
from tests.helpers import RELEASE, Act, Batches, quiet, sampled

pytestmark = pytest.mark.filterwarnings("ignore")  # of odd modules


class Regression(L.LightningModule):
    """A linear regression."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.mse_loss(self.network(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=4)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.network(batch[0]), batch[1]), batch_size=8)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)

    def loaders(self) -> list[Any]:
        return [DataLoader(samples(), 4, shuffle=True), DataLoader(samples(), 8)]


def run(
    make: Callable[[], Any],
    ckpt: Path | None = None,
    saves: Saves | None = None,
    sets: dict[str, Any] = {},
    natives: Iterable[Callable[[], L.Callback]] = (),
    **kwargs: Any,
) -> tuple[dict[str, Any], list[str]]:
    """What a run comes to, and what it warns of."""
    torch.manual_seed(0)
    module = make()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1 if ckpt is None else 99)  # a resumed process has drawn other numbers
    adapter = CallbackSetAdapter({"history": "history", **sets, "own": saves.own() if saves else CallbackSet()})
    callbacks = [adapter] if saves is None else [saves.native("before"), adapter, saves.native("behind")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kwargs = {"max_epochs": 3, "num_sanity_val_steps": 0} | kwargs
        trainer = quiet(callbacks=[*(native() for native in natives), *callbacks], **kwargs)
        trainer.fit(module, *module.loaders(), ckpt_path=ckpt)
    values = {"weights": [value.tolist() for value in module.state_dict().values()]}
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    values |= adapter.states | {"metrics": metrics, "steps": trainer.global_step}
    return values, [str(one.message) for one in caught]


def resumed(make: Callable[[], Any], folder: Path, moments: Iterable[str], **kwargs: Any) -> dict[str, list[str]]:
    """The moments at which a resumed run differs from the uninterrupted one, and what it warns of."""
    whole, _ = run(make, **kwargs)
    saves = Saves(folder)
    saving, _ = run(make, saves=saves, **kwargs)
    assert same(whole, saving), "saving changes the run that saves"
    picked = [name for name in chosen(saves.names) if any(moment in name for moment in moments)]
    assert len(picked) >= 3
    told = {}
    for name in picked:
        values, warned = run(make, folder / name, **kwargs)
        if not same(values, whole):
            told[name] = warned
    return told


# --- hooks of the module ----------------------------------------------------------------------------------------------


class StepsItself(Regression):
    """Steps its schedule at the end of an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss

    def on_train_epoch_end(self) -> None:
        schedule: Any = self.lr_schedulers()
        schedule.step()

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class Averages(Regression):
    """Averages its weights after each batch, weighted by the loss that Lightning gives the hook."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(1, 4))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.average.mul_(0.9).add_(
            (0.1 * outputs["loss"] + batch_idx + batch[0].mean()) * self.network.weight.detach()
        )


class CountsValidations(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("n", torch.zeros(()))

    def on_validation_end(self) -> None:
        self.n += 1  # type: ignore[misc]


ENDS = {
    StepsItself: ["own on_epoch_end", "own on_valid_end", "train_epoch_end"],
    Averages: ["own on_batch_end", "train_batch_end", "own on_valid_end"],
    CountsValidations: ["own on_valid_end", "validation_end", "own on_epoch_end"],
}


@pytest.mark.slow
@pytest.mark.parametrize("make", ENDS, ids=[make.__name__ for make in ENDS])
@pytest.mark.parametrize("window", sampled([1, 2], 2, RELEASE))
def test_the_modules_hook_behind_that_of_the_callback_that_saves(
    make: type[Regression], window: int, tmp_path: Path
) -> None:
    if make is StepsItself and window > 1:
        pytest.skip("such a module accumulates by itself")
    assert resumed(make, tmp_path, ENDS[make], accumulate_grad_batches=window) == {}


def test_the_callback_checkpoint_and_a_module_that_steps_its_schedule_itself(tmp_path: Path) -> None:
    whole, _ = run(StepsItself, sets={"checkpoint": t_clbk("checkpoint", path=tmp_path / "a", freq=1)})
    run(StepsItself, sets={"checkpoint": t_clbk("checkpoint", path=tmp_path / "b", freq=1)}, max_epochs=2)
    rest, _ = run(StepsItself, latest_checkpoint(tmp_path / "b"))
    assert same(rest["weights"], whole["weights"])


def test_the_hook_of_a_batch_of_none_gets_what_lightning_gives_it(tmp_path: Path) -> None:
    class Sees(Regression):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append((outputs is None, batch is None, batch_idx))

        def loaders(self) -> list[Any]:
            [whole, _] = super().loaders()
            return [Batches([None if i == 1 else batch for i, batch in enumerate(whole)])]

    saved = [Saves(tmp_path), None]
    rows = []
    for saves in saved:
        seen: list[Any] = []
        run(Sees, saves=saves, max_epochs=1)
        rows.append(seen)
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4


def test_within_a_stage_another_trainer_calls_the_hook_itself(tmp_path: Path) -> None:
    def save(ctx: Any) -> None:
        ctx.trainer.save_checkpoint(tmp_path / "x")
        quiet().validate(ctx.learner, DataLoader(samples(), 8), verbose=False)

    values, _ = run(CountsValidations, sets={"save": Act(on_valid_end=save)}, max_epochs=1)
    assert values["weights"][0] == 2  # that of the fit and the other, each once


@pytest.mark.slow
def test_the_module_and_its_copies_are_left_as_they_were() -> None:
    def look(ctx: Any) -> None:
        module = copy.deepcopy(ctx.learner)
        module.on_validation_end()
        assert "on_validation_end" in vars(ctx.learner)
        counted.extend([module.n.item(), ctx.learner.n.item()])

    counted: list[float] = []
    module = CountsValidations()
    adapter = CallbackSetAdapter(Act(on_epoch_end=look))
    quiet(max_epochs=1, num_sanity_val_steps=0, callbacks=[adapter]).fit(module, *module.loaders())
    assert counted == [2.0, 1.0]
    assert "on_validation_end" not in vars(module)


@pytest.mark.skipif(Version(L.__version__) < Version("2.5"), reason="it announces the epoch again")
def test_a_start_of_the_epoch_that_is_not_announced_again_is_warned_of(tmp_path: Path) -> None:
    class SetsAtStart(Regression):
        factor = 0.0

        def on_train_epoch_start(self) -> None:
            self.factor = self.current_epoch

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * self.factor

    told = resumed(SetsAtStart, tmp_path, ["own on_batch_end"])
    assert told
    for warned in told.values():
        [one] = [text for text in warned if "on_train_epoch_start" in text]
        assert "so Lightning does not call on_train_epoch_start() of SetsAtStart again" in one


@pytest.mark.slow
def test_the_window_of_gradients_that_a_lightning_callback_sets(tmp_path: Path) -> None:
    natives = [lambda: GradientAccumulationScheduler({0: 2, 1: 3, 2: 2})]
    assert resumed(Regression, tmp_path, ["own on_batch_end", "own on_epoch_begin"], natives=natives) == {}


# --- metrics ----------------------------------------------------------------------------------------------------------


class KeepsTheBest(Regression):
    """Has a metric that lives over all epochs, and one of training that it logs and resets itself."""

    def __init__(self) -> None:
        super().__init__()
        self.best, self.mse, self.valid = MaxMetric(), MeanSquaredError(), MeanSquaredError()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.mse.update(self.network(batch[0]), batch[1])
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.valid.update(self.network(batch[0]), batch[1])
        self.log("val_mse", self.valid, on_step=False, on_epoch=True, batch_size=8)

    def on_validation_epoch_end(self) -> None:
        self.best.update(self.valid.compute())
        self.log("val_best", self.best.compute())

    def on_train_epoch_end(self) -> None:
        self.log("train_mse", self.mse.compute())
        self.mse.reset()


@pytest.mark.slow
@pytest.mark.parametrize("often", sampled([{"val_check_interval": 2}, {}], 2, RELEASE))
def test_metrics_that_lightning_does_not_know(often: dict[str, Any], tmp_path: Path) -> None:
    moments = ["own on_valid_end", "own on_batch_valid_end", "validation_end", "own on_epoch_end", "own on_batch_end"]
    assert resumed(KeepsTheBest, tmp_path, moments, **often) == {}


def test_metrics_that_lightning_does_not_know_at_the_end_of_an_epoch_without_validation(tmp_path: Path) -> None:
    class FallsOff(KeepsTheBest):
        def on_validation_epoch_end(self) -> None:
            self.best.update(-float(self.current_epoch))
            self.log("val_best", self.best.compute())

    how: dict[str, Any] = {"check_val_every_n_epoch": 2, "max_epochs": 4}
    whole, _ = run(FallsOff, **how)
    run(FallsOff, saves=(saves := Saves(tmp_path)), **how)
    [third] = [name for name in saves.names if name.startswith("own on_before_valid 12.")]
    rest, _ = run(FallsOff, tmp_path / third, **how)
    assert rest["history"]["valid.best"] == whole["history"]["valid.best"] == [None, -1.0, None, -1.0]


@pytest.mark.slow
def test_what_is_logged_before_the_first_batch(tmp_path: Path) -> None:
    class LogsAtStart(Regression):
        def on_train_epoch_start(self) -> None:
            self.log("train_start", float(self.current_epoch))

    moments = ["own on_after_backward", "own on_batch_begin", "own on_batch_end"]
    assert resumed(LogsAtStart, tmp_path, moments) == {}


# --- the batch --------------------------------------------------------------------------------------------------------


class Scales(Regression):
    """Changes the batch in place, as Lightning's documentation does."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        batch[0] = batch[0] * 2
        return batch


MOMENTS = ["own on_batch_begin", "own on_after_backward", "own on_batch_end"]


@pytest.mark.slow
def test_a_batch_that_is_changed_in_place(tmp_path: Path) -> None:
    def scale(ctx: Any) -> None:
        ctx.batch[0].mul_(2)

    assert resumed(Scales, tmp_path / "hook", MOMENTS) == {}
    assert resumed(Regression, tmp_path / "stage", MOMENTS, sets={"scale": Act(on_batch_begin=scale)}) == {}


@dataclass
class Pair:
    x: torch.Tensor
    y: torch.Tensor

    def __getitem__(self, i: int) -> torch.Tensor:
        return (self.x, self.y)[i]

    def to(self, *args: Any, **kwargs: Any) -> "Pair":
        return self


class Noisy(Dataset[Any]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        x, y = samples()[index]
        return x + torch.rand(()), y


class OfPairs(Regression):
    """Its batches have a type that `torch.load` does not read by default."""

    data: Any = staticmethod(samples)

    def loaders(self) -> list[Any]:
        def pair(rows: Any) -> Pair:
            return Pair(*map(torch.stack, zip(*rows, strict=True)))

        return [DataLoader(self.data(), 4, shuffle=True, collate_fn=pair)]


class OfNoisyPairs(OfPairs):
    data = Noisy


@pytest.mark.slow
def test_a_batch_of_a_type_that_is_not_kept(tmp_path: Path) -> None:
    assert resumed(OfPairs, tmp_path / "plain", MOMENTS) == {}
    told = resumed(OfNoisyPairs, tmp_path / "noisy", MOMENTS)
    assert told
    assert all("own on_batch_end" not in moment for moment in told)
    for moment, warned in told.items():
        [one] = [text for text in warned if "could not keep the batch under way" in text]
        assert "drew other random numbers" in one, moment


# --- steps of several optimizers --------------------------------------------------------------------------------------


class OfTwo(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.parameters(), 0.05), torch.optim.SGD(self.parameters(), 0.05)]


class OfLBFGS(Regression):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), 0.05, max_iter=3)


@pytest.mark.slow
@pytest.mark.parametrize("make", sampled([OfTwo, OfLBFGS], 2, RELEASE))
def test_a_step_that_is_partly_in_the_weights_is_warned_of(make: type[Regression], tmp_path: Path) -> None:
    told = resumed(make, tmp_path, MOMENTS)
    assert told
    for moment, warned in told.items():
        assert "on_after_backward" in moment
        assert any("saved inside a step of several optimizers, or of LBFGS" in text for text in warned)


# --- callbacks --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_score_that_is_not_in_the_first_validation_of_the_resumed_run(tmp_path: Path) -> None:
    class Sometimes(Regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            if self.current_epoch % 2 == 0:
                self.log("val_costly", 1.0, batch_size=8)

    for monitor in ("costly", "val_costly"):
        sets = {"stop": t_clbk("early_stopping", patience=5, monitor=monitor, mode="min")}
        folder = tmp_path / monitor
        assert resumed(Sometimes, folder, ["own on_epoch_end", "own on_batch_end"], sets=sets) == {}


def test_the_best_predictions_of_a_resumed_run_are_better_than_those_before(tmp_path: Path) -> None:
    class Rises(Regression):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.network(batch[0])
            self.log("val_loss", float((3, 1, 2, 0)[self.current_epoch]), batch_size=8)

    def best(epochs: int, ckpt: Path | None = None) -> Any:
        seen: list[Any] = []
        look = Act(on_exit=lambda ctx: seen.append(ctx.callbacks["best"].y_hat))
        save = t_clbk("checkpoint", path=tmp_path, freq=1)
        values, _ = run(
            Rises,
            ckpt,
            sets={"best": t_clbk("predictions", keep="best"), "look": look, "checkpoint": save},
            max_epochs=epochs,
        )
        return seen[0], values.get("best")

    _, state = best(2)
    assert state == {"best_score": 1.0, "measure": "loss"}
    assert best(3, latest_checkpoint(tmp_path)) == (None, state)
    y_hat, state = best(4, latest_checkpoint(tmp_path))
    assert len(y_hat) == 16
    assert state == {"best_score": 0.0, "measure": "loss"}


def test_a_checkpoint_that_is_saved_in_the_last_stage(tmp_path: Path) -> None:
    def save(ctx: Any) -> None:
        ctx.trainer.save_checkpoint(tmp_path / "exit.ckpt")

    whole, _ = run(Regression, max_epochs=4)
    run(Regression, sets={"save": Act(on_exit=save)}, max_epochs=2)
    assert read_states(tmp_path / "exit.ckpt")["history"]["epoch"] == [1, 2]
    rest, _ = run(Regression, tmp_path / "exit.ckpt", max_epochs=4)
    assert same(rest, whole)

    stop = {"stop": t_clbk("early_stopping", patience=1, monitor="loss", mode="max", restore_best_weights=True)}
    last = Act(on_exit=save)
    last.weight = 2000
    run(Regression, sets=stop | {"save": last}, max_epochs=3)
    _, warned = run(Regression, tmp_path / "exit.ckpt", max_epochs=4)
    assert any("on_exit had changed the network" in text for text in warned)
