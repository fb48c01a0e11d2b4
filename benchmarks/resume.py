"""What a resume costs: from the start to the first batch that was not trained.

An epoch has 2,000 shuffled batches of 16 samples, of which 1,800 were trained. A sample costs some ten microseconds of
computing, as an image that is decoded costs more. Within a Trainer, the time is that from `fit()` to the start of the
first batch; that of a new run, which leaves nothing out, stands first. Without a Trainer, it is that from making the
iterator to its first batch. Lightning alone does not leave out the data of a loader without a state: it trains with
data that it has trained with in this epoch.
"""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from benchmarks.fits import Tiny, adapter, clock, quiet, timed
from benchmarks.report import Row, alternating, milliseconds


class Samples(Dataset[torch.Tensor]):
    """Computes each of its samples."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.full((2,), float(i)).sin().cos()


class Starts(L.Callback):
    """Notes when the first batch starts."""

    at = 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        self.at = self.at or clock()


def measure(quick: bool = False) -> list[Row]:
    trained, batches, rounds = (18, 20, 2) if quick else (1_800, 2_000, 9)
    data = Samples(16 * batches)
    loaders: dict[str, Callable[[], Any]] = {"DataLoader": lambda: DataLoader(data, 16, shuffle=True)}
    if has_torchdata := _installed("torchdata"):
        from torchdata.stateful_dataloader import StatefulDataLoader

        loaders["StatefulDataLoader"] = lambda: StatefulDataLoader(data, 16, shuffle=True)
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Callable[[], float]] = {
            "a new run, Lightning alone": lambda: _to_first_batch(loaders["DataLoader"](), [], 1, None)
        }
        for kind, loader in loaders.items():
            for who, sets in (("with the adapter", 1), ("Lightning alone", 0)):
                path = _interrupted(loader(), sets, trained, Path(folder) / f"{kind} {sets}")
                runs[f"resumed, {who}, {kind}"] = _resumed(loader, sets, trained, path)
        runs |= _without_trainer(loaders, trained)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for name in [*runs, *alternating(rounds, list(runs))]:  # once to warm up
            seconds[name].append(runs[name]())
    rows = [Row(name, milliseconds(found[1:])) for name, found in seconds.items()]
    missing = [] if has_torchdata else ["torchdata"]
    missing += [] if _installed("accelerate") else ["accelerate"]
    return [*rows, *(Row(name, "skipped: it is not installed (pip install 'callbacksets[bench]')") for name in missing)]


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _callbacks(sets: int) -> list[L.Callback]:
    return adapter(sets) if sets else []


def _interrupted(loader: Any, sets: int, trained: int, folder: Path) -> Path:
    """The checkpoint of a run that was interrupted inside its first epoch."""
    saves = ModelCheckpoint(folder, filename="last", every_n_train_steps=trained)
    callbacks = [*_callbacks(sets), saves]
    quiet(max_epochs=1, max_steps=trained + 1, callbacks=callbacks, enable_checkpointing=True).fit(Tiny(), loader)
    return folder / "last.ckpt"


def _resumed(loader: Callable[[], Any], sets: int, trained: int, path: Path) -> Callable[[], float]:
    return lambda: _to_first_batch(loader(), _callbacks(sets), trained + 1, path)


def _to_first_batch(loader: Any, callbacks: list[L.Callback], steps: int, path: Path | None) -> float:
    starts = Starts()
    trainer = quiet(max_epochs=1, max_steps=steps, callbacks=[*callbacks, starts])
    begun = clock()
    trainer.fit(Tiny(), loader, ckpt_path=path)
    return starts.at - begun


def _without_trainer(loaders: dict[str, Callable[[], Any]], trained: int) -> dict[str, Callable[[], float]]:
    runs: dict[str, Callable[[], float]] = {}
    plain = loaders["DataLoader"]()

    def read() -> None:
        iterator = iter(plain)
        for _ in range(trained + 1):
            next(iterator)

    runs["no Trainer: reading all that was trained, DataLoader"] = lambda: timed(read)
    if _installed("accelerate"):
        from accelerate import skip_first_batches

        runs["no Trainer: accelerate.skip_first_batches, DataLoader"] = lambda: timed(
            lambda: next(iter(skip_first_batches(plain, trained)))
        )
    if "StatefulDataLoader" in loaders:
        state = _state_after(loaders["StatefulDataLoader"](), trained)

        def load() -> None:
            loader = loaders["StatefulDataLoader"]()
            loader.load_state_dict(state)
            next(iter(loader))

        runs["no Trainer: load_state_dict, StatefulDataLoader"] = lambda: timed(load)
    return runs


def _state_after(loader: Any, trained: int) -> Any:
    iterator = iter(loader)
    for _ in range(trained):
        next(iterator)
    return loader.state_dict()
