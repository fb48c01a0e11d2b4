"""Two ranks that draw: one whole fit, and one that is resumed from each kind of checkpoint."""

import json
import os
import random
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint, LambdaCallback, ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, DistributedSampler

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetCheckpoint, latest_checkpoint
from tests.fit.test_random_state import BATCHES, EPOCHS, Augmented, Dropping, Seen
from tests.helpers import Act, quiet
from tests.scripts import run


class SeenByRank(Seen):
    """Keeps what its own rank has seen of this fit: a checkpoint has the states of rank zero."""

    state_dict = CallbackSet.state_dict
    load_state_dict = CallbackSet.load_state_dict


PER_RANK = BATCHES // 2  # batches of an epoch


class Interruption(Exception):
    pass


def interrupt(hook: str, batches: int) -> L.Callback:
    def look(trainer: L.Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == batches and not trainer.sanity_checking:
            raise Interruption

    return LambdaCallback(**{hook: look})  # type: ignore[arg-type]


def train(
    rank: int, *natives: L.Callback, ckpt: Path | None = None, own: Any = (), workers: int = 0, stateful: bool = False
) -> dict[str, Any]:
    """What a rank has seen and drawn, and where it has come to."""
    number = rank + (1 if ckpt is None else 99)  # a resumed process has drawn other numbers
    module, seen, drawn = Dropping(), SeenByRank(), list[float]()
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
    last = Act(on_end=lambda ctx: drawn.extend([random.random(), float(np.random.rand()), torch.rand(1).item()]))
    adapter = CallbackSetAdapter({"seen": seen, "history": "history", "last": last} | dict(own))
    trainer = quiet(
        callbacks=[adapter, *natives],
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_epochs=EPOCHS,
        enable_checkpointing=any(isinstance(native, Checkpoint) for native in natives),
    )
    train_loader: Any = DataLoader(Augmented(), batch_size=4, shuffle=True, num_workers=workers)
    if stateful:
        from torchdata.stateful_dataloader import StatefulDataLoader

        sampler: Any = DistributedSampler(Augmented(), num_replicas=2, rank=rank, shuffle=True)
        train_loader = StatefulDataLoader(Augmented(), batch_size=4, sampler=sampler, num_workers=workers)
    valid_loader = DataLoader(Augmented(), batch_size=4, num_workers=workers)
    with suppress(Interruption):
        trainer.fit(module, train_loader, valid_loader, ckpt_path=ckpt)
    weights = [parameter.tolist() for parameter in module.parameters()]
    return {"seen": seen.rows, "history": adapter.states["history"], "weights": weights, "drawn": drawn}


def resumed(kind: str, rank: int, folder: Path, **kwargs: Any) -> dict[str, Any]:
    """A run that was interrupted after two of its epochs, or in the third, and resumed."""
    place = folder / kind.replace(" ", "_")
    keep: Any = {"dirpath": place, "filename": "{step}", "save_top_k": -1}
    at_epoch = interrupt("on_train_epoch_start", 2 * PER_RANK)
    in_epoch = interrupt("on_train_batch_start", 2 * PER_RANK + 1)
    natives, own, name = {
        "epoch end": ([ModelCheckpoint(**keep, save_on_train_epoch_end=True), at_epoch], {}, "step=4.ckpt"),
        "validation end": ([ModelCheckpoint(**keep, save_on_train_epoch_end=False), at_epoch], {}, "step=4.ckpt"),
        "save last": ([ModelCheckpoint(**keep, save_last=True), at_epoch], {}, "last.ckpt"),
        "own": ([at_epoch], {"own": CallbackSetCheckpoint(place, freq=1)}, ""),
        "on exception": ([OnExceptionCheckpoint(place), in_epoch], {}, "on_exception.ckpt"),
        "inside": (
            [ModelCheckpoint(**keep, every_n_train_steps=5), interrupt("on_train_batch_start", 6)],
            {},
            "step=5.ckpt",
        ),
        "inside, plain": (
            [ModelCheckpoint(**keep, every_n_train_steps=5), interrupt("on_train_batch_start", 6)],
            {},
            "step=5.ckpt",
        ),
    }[kind.removesuffix(" with workers")]
    train(rank, *natives, own=own, **kwargs)
    ckpt = latest_checkpoint(place) if own else place / name
    return train(rank, ckpt=ckpt, own={"own": CallbackSetCheckpoint(place, freq=1)} if own else {}, **kwargs)


def main(folder: Path, *kinds: str) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    rank = int(os.environ.get("LOCAL_RANK", 0))
    ways: dict[str, dict[str, Any]] = {"plain": {}, "with workers": {"workers": 2}, "inside": {"stateful": True}}

    def way(kind: str) -> str:
        return "inside" if kind == "inside" else "with workers" if kind.endswith("with workers") else "plain"

    whole = {name: train(rank, **ways[name]) for name in {way(kind): None for kind in kinds}}
    parts = {kind: resumed(kind, rank, folder, **ways[way(kind)]) for kind in kinds}
    told = {kind: {"whole": whole[way(kind)], "parts": parts[kind]} for kind in kinds}
    (folder / f"{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    run(main, Path(sys.argv[1]), *sys.argv[2:])
