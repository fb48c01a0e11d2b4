"""A resumed run draws what the uninterrupted one would have drawn: shuffled data, dropout, augmentation."""

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint, LambdaCallback, ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader, Dataset

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetCheckpoint, latest_checkpoint
from callbacksets.fit.lightning import Tap
from tests.helpers import RELEASE, Tiny, quiet

EPOCHS, BATCHES = 4, 4

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings(r"ignore:`.fit\(ckpt_path=None\)` was called without a model"),
    pytest.mark.filterwarnings(r"ignore:.*is set, but there is no last checkpoint available"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # by torchdata
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork"),
]


class Augmented(Dataset[torch.Tensor]):
    """Adds noise from all three libraries to what it gives."""

    def __len__(self) -> int:
        return BATCHES * 4

    def __getitem__(self, index: int) -> torch.Tensor:
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return torch.tensor([float(index), noise])


class Dropping(Tiny):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1)))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Seen(CallbackSet):
    """What a run draws: the batches in their order, and the losses."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def on_begin(self) -> None:
        torch.rand(3)  # what callbacks draw when they begin is no part of a resumed run

    def on_batch_end(self) -> None:
        self.rows.append([self.ctx.global_step, self.ctx.batch.tolist(), self.ctx.last_loss])

    def state_dict(self) -> Any:
        return list(self.rows)

    def load_state_dict(self, state_dict: Any) -> None:
        self.rows = list(state_dict)


class CallbackSetDraws(CallbackSet):
    """Draws as each epoch begins, before the order of its data is drawn."""

    def on_epoch_begin(self) -> None:
        torch.rand(1)


class InterruptedFit(Exception):
    pass


def interrupt(hook: str, batches: int) -> L.Callback:
    def look(trainer: L.Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == batches and not trainer.sanity_checking:
            raise InterruptedFit

    return LambdaCallback(**{hook: look})  # type: ignore[arg-type]


def seed() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def train(
    ckpt: Any = None,
    *natives: L.Callback,
    workers: int = 0,
    own: tuple[CallbackSet, ...] = (),
    loader: Any = DataLoader,
    resumed_with: int = 99,
    adapter: dict[str, Any] = {},
    **kwargs: Any,
) -> Any:
    seed()
    loaders = (
        loader(Augmented(), batch_size=4, shuffle=True, num_workers=workers),
        DataLoader(Augmented(), batch_size=8, num_workers=workers),
    )
    module = Dropping()
    torch.manual_seed(1 if ckpt is None else resumed_with)  # a resumed process has drawn other numbers
    bridge = CallbackSetAdapter({"seen": Seen()} | {f"own{i}": one for i, one in enumerate(own)}, **adapter)
    saves = any(isinstance(native, Checkpoint) for native in natives)
    trainer = quiet(**({"max_epochs": EPOCHS} | kwargs), callbacks=[bridge, *natives], enable_checkpointing=saves)
    with suppress(InterruptedFit):
        trainer.fit(module, *loaders, ckpt_path=ckpt)
    return bridge.states["seen"], [parameter.tolist() for parameter in module.parameters()]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=RELEASE)])
@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize(
    "kind",
    [
        "epoch end",
        "validation end",  # once more, which draws numbers
        "save last",
        "own",
        "on exception",
    ],
)
def test_resumed_is_uninterrupted(kind: str, sanity: int, workers: int, tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {"workers": workers, "num_sanity_val_steps": sanity}
    keep: Any = {"dirpath": tmp_path, "filename": "{epoch}", "save_top_k": -1}
    natives, own, name = {
        "epoch end": ([ModelCheckpoint(**keep, save_on_train_epoch_end=True)], (), "epoch=1.ckpt"),
        "validation end": ([ModelCheckpoint(**keep, save_on_train_epoch_end=False)], (), "epoch=1.ckpt"),
        "save last": ([ModelCheckpoint(**keep, save_last=True)], (), "last.ckpt"),
        "own": ([], (CallbackSetCheckpoint(tmp_path / "own", freq=1),), ""),
        "on exception": ([OnExceptionCheckpoint(tmp_path)], (), "on_exception.ckpt"),
    }[kind]
    whole = train(**kwargs)
    hook = "on_train_batch_start" if kind == "on exception" else "on_train_epoch_start"
    batches = 2 * BATCHES + (kind == "on exception")
    train(None, *natives, interrupt(hook, batches), own=own, **kwargs)
    ckpt = latest_checkpoint(tmp_path / "own") if kind == "own" else tmp_path / name
    parts = train(ckpt, own=own, **kwargs)
    assert parts == whole


def stateful_parts(tmp_path: Path, workers: int, step: int = 6) -> tuple[Any, Any]:
    """A whole run, and one resumed after a step, by default the second of the second epoch."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    kwargs: dict[str, Any] = {"workers": workers, "loader": stateful, "own": (CallbackSetDraws(),)}
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
    train(None, save, interrupt("on_train_batch_start", step + 1), **kwargs)
    return train(**kwargs), train(tmp_path / f"step={step}.ckpt", **kwargs)


@pytest.mark.parametrize("step", [2, 6])
def test_inside_an_epoch_a_stateful_loader_goes_on_exactly(step: int, tmp_path: Path) -> None:
    whole, parts = stateful_parts(tmp_path, workers=0, step=step)
    assert parts == whole


@pytest.mark.slow
def test_inside_an_epoch_worker_processes_draw_new_numbers_until_it_ends(tmp_path: Path) -> None:
    """The order goes on. The generators of worker processes are lost with them, unless the data set keeps its own."""
    whole, parts = (rows for rows, _ in stateful_parts(tmp_path, workers=2))
    for one, other in zip(whole, parts, strict=True):
        is_rest_of_epoch = 6 < one[0] <= 2 * BATCHES
        assert [sample[0] for sample in one[1]] == [sample[0] for sample in other[1]]
        assert (one[1] == other[1]) is not is_rest_of_epoch


@pytest.mark.parametrize(("step", "workers"), [(2, 0), (6, 0), (2, 2), (6, 2)])
def test_inside_an_epoch_a_plain_loader_goes_on_exactly(step: int, workers: int, tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {"own": (CallbackSetDraws(),), "workers": workers}
    whole = train(**kwargs)
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
    train(None, save, interrupt("on_train_batch_start", step + 1), **kwargs)
    assert train(tmp_path / f"step={step}.ckpt", **kwargs) == whole


class CallbackSetSaves(CallbackSet):
    """Draws as the first epoch begins, and saves a checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_epoch_begin(self) -> None:
        torch.rand(1)
        if self.ctx.epoch == 1:
            self.ctx.trainer.save_checkpoint(self.path)


def test_saved_by_a_callback_as_the_first_epoch_begins(tmp_path: Path) -> None:
    path, again = tmp_path / "one.ckpt", tmp_path / "again.ckpt"
    whole = train(own=(CallbackSetSaves(path),))
    assert train(path, own=(CallbackSetSaves(again),)) == whole


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start"])
def test_a_resumed_fit_that_fails_at_once_leaves_lightnings_loops_as_they_were(hook: str, tmp_path: Path) -> None:
    def look(trainer: L.Trainer, *args: Any) -> None:
        trainers.append(trainer)
        raise InterruptedFit

    trainers: list[L.Trainer] = []
    path = tmp_path / "one.ckpt"
    train(own=(CallbackSetSaves(path),))
    train(path, LambdaCallback(**{hook: look}), own=(CallbackSetSaves(path),))  # type: ignore[arg-type]
    [trainer] = trainers
    epoch_loop = trainer.fit_loop.epoch_loop
    parts = (trainer.strategy, trainer.fit_loop, epoch_loop, epoch_loop.val_loop)
    assert not [value for part in parts for value in vars(part).values() if isinstance(value, Tap)]


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


@pytest.mark.parametrize(
    "kwargs", [{}, {"num_sanity_val_steps": 0}, {"max_epochs": 0}, {"limit_val_batches": 0}], ids=str
)
def test_a_fit_that_is_not_resumed_draws_what_it_would_draw_without_the_adapter(kwargs: dict[str, Any]) -> None:
    seen = []
    for callbacks in ([], [CallbackSetAdapter(["history"])]):
        seed()
        module = Dropping()
        trainer = quiet(**({"max_epochs": 2} | kwargs), callbacks=callbacks)
        loaders = DataLoader(Augmented(), batch_size=4, shuffle=True), DataLoader(Augmented(), batch_size=8)
        trainer.fit(module, *loaders)
        trainer.validate(module, loaders[1], verbose=False)
        seen.append((drawn(), [parameter.tolist() for parameter in module.parameters()]))
    assert seen[0] == seen[1]


def test_random_state_false_keeps_and_restores_none(tmp_path: Path) -> None:
    whole = train()
    save = LambdaCallback(on_train_epoch_end=lambda trainer, module: trainer.save_checkpoint(tmp_path / "last.ckpt"))
    train(None, save, max_epochs=2, adapter={"random_state": False})
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["CallbackSetAdapter"]
    assert saved["ranks"][0]["random"] is None
    assert train(tmp_path / "last.ckpt") != whole
    train(None, save, max_epochs=2)
    assert train(tmp_path / "last.ckpt", adapter={"random_state": False}) != whole
    assert train(tmp_path / "last.ckpt") == whole


def test_tuners_leave_no_trace(tmp_path: Path) -> None:
    class Tuned(Dropping):
        lr = 0.01

    seen = []
    for callbacks in ([], [CallbackSetAdapter(["history"])]):
        seed()
        trainer = quiet(max_epochs=1, callbacks=callbacks, default_root_dir=tmp_path)
        Tuner(trainer).lr_find(Tuned(), DataLoader(Augmented(), batch_size=4, shuffle=True), num_training=3)
        seen.append(drawn())
    assert seen[0] == seen[1]


def test_another_number_of_ranks_warns_and_rank_zero_goes_on(tmp_path: Path) -> None:
    whole = train()
    save = LambdaCallback(on_train_epoch_end=lambda trainer, module: trainer.save_checkpoint(tmp_path / "last.ckpt"))
    train(None, save, max_epochs=2)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    checkpoint["callbacks"]["CallbackSetAdapter"]["ranks"] *= 2
    torch.save(checkpoint, tmp_path / "two.ckpt")
    with pytest.warns(UserWarning, match="has the random states of 2 ranks, but this run has 1"):
        parts = train(tmp_path / "two.ckpt")
    assert parts == whole


def test_after_a_fit_a_checkpoint_keeps_the_numbers_of_its_end(tmp_path: Path) -> None:
    whole = train()
    seed()
    bridge = CallbackSetAdapter({"seen": Seen()})
    trainer = quiet(max_epochs=2, callbacks=[bridge])
    loaders = DataLoader(Augmented(), batch_size=4, shuffle=True), DataLoader(Augmented(), batch_size=8)
    module = Dropping()
    torch.manual_seed(1)
    trainer.fit(module, *loaders)
    drawn()  # by the user, between the fit and the checkpoint
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    assert train(tmp_path / "after.ckpt") == whole
