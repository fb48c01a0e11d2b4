"""The data of an interrupted epoch: what is read again, what is left out, and which generators are kept."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from callbacksets import CallbackSetAdapter
from callbacksets.fit.random_state import generators
from tests.helpers import Act, StageLog, Tiny, ones, quiet


class Counted(Dataset[torch.Tensor]):
    """Counts the samples that are read."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> torch.Tensor:
        self.reads.append(index)
        return torch.tensor([float(index), 1.0])


def train(loader: Any, path: Path, *, at: int, ckpt: Path | None = None, **kwargs: Any) -> list[Any]:
    """The batches that were trained; a checkpoint is saved at the end of one of them."""
    log = StageLog("global_step", "batch", stages=("on_batch_end",))
    save = Act(on_batch_end=lambda ctx: ctx.global_step == at and ctx.trainer.save_checkpoint(path))
    torch.manual_seed(1 if ckpt is None else 99)
    trainer = quiet(callbacks=[CallbackSetAdapter([log, save])], **({"max_epochs": 1} | kwargs))
    trainer.fit(Tiny(), loader, ckpt_path=ckpt)
    return [(step, batch.tolist()) for step, batch in log.at("batch_end")]


def test_only_the_order_of_what_was_trained_is_drawn_again(tmp_path: Path) -> None:
    data = Counted(300)
    whole = train(DataLoader(data, 2, shuffle=True), tmp_path / "a.ckpt", at=140)
    data.reads.clear()
    rest = train(DataLoader(data, 2, shuffle=True), tmp_path / "b.ckpt", at=-1, ckpt=tmp_path / "a.ckpt")
    assert rest == whole[140:]
    assert len(data.reads) == 20


def test_leaving_out_a_few_batches_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(ones(4), tmp_path / "a.ckpt", at=2)
    capfd.readouterr()
    train(ones(4), tmp_path / "b.ckpt", at=-1, ckpt=tmp_path / "a.ckpt")
    assert "Leaving out" not in capfd.readouterr().err


class Shrinks:
    """Has fewer batches when it is read again."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Any]:
        return iter(ones(self.n).batches)


def test_an_epoch_with_too_few_batches_is_warned_of(tmp_path: Path) -> None:
    train(Shrinks(4), tmp_path / "a.ckpt", at=2)
    with pytest.warns(UserWarning, match="inside of which the run was resumed had only 3 of 4 batches"):
        rest = train(Shrinks(3), tmp_path / "b.ckpt", at=-1, ckpt=tmp_path / "a.ckpt")
    assert [step for step, _ in rest] == [3]


def endless() -> Iterator[torch.Tensor]:
    while True:
        yield torch.ones(2, 2)


def test_an_iterator_in_place_of_a_loader_is_warned_of_after_the_first_epoch(tmp_path: Path) -> None:
    length: dict[str, Any] = {"limit_train_batches": 3, "max_epochs": 2}
    train(endless(), tmp_path / "a.ckpt", at=2, **length)
    train(endless(), tmp_path / "b.ckpt", at=5, ckpt=tmp_path / "a.ckpt", **length)
    with pytest.warns(UserWarning, match="A training loader is an iterator, which starts from its beginning"):
        train(endless(), tmp_path / "c.ckpt", at=-1, ckpt=tmp_path / "b.ckpt", **length)


def test_an_epoch_that_somebody_stops_is_not(tmp_path: Path) -> None:
    train(ones(4), tmp_path / "a.ckpt", at=2, max_epochs=-1, max_steps=4)
    rest = train(ones(4), tmp_path / "b.ckpt", at=-1, ckpt=tmp_path / "a.ckpt", max_epochs=-1, max_steps=3)
    assert [step for step, _ in rest] == [3]


class Holds(Dataset[Any]):
    def __init__(self) -> None:
        self.numpy, self.legacy, self.python = np.random.default_rng(1), np.random.RandomState(2), random.Random(3)
        self.many = [object()] * 100_000
        self.itself = self

    def __len__(self) -> int:
        return 4


def test_generators_are_found_in_loaders_samplers_and_data_sets() -> None:
    data, own, drawn = Holds(), torch.Generator(), torch.Generator()
    sampler = WeightedRandomSampler([0.1] * 4, 4, generator=drawn)
    trainer: Any = type("_", (), {"val_dataloaders": None})()
    trainer.train_dataloader = {"a": DataLoader(data, generator=own, sampler=sampler), "b": ones(1)}
    found = generators(trainer)
    assert {id(one) for one in found} == {id(one) for one in (own, drawn, data.numpy, data.legacy, data.python)}
    assert [id(one) for one in generators(trainer)] == [id(one) for one in found]
