"""Two ranks that each hold half of every parameter: checkpoints hold the whole, and resuming divides it again."""

from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from callbacksets import read_states
from callbacksets.fit.shards import divided, put_together
from tests.helpers import on_ranks, written

fsdp = pytest.importorskip("torch.distributed.fsdp", reason="a torch without torch.distributed")
if not hasattr(fsdp, "fully_shard"):
    pytest.skip("a torch before 2.6 has fully_shard elsewhere", allow_module_level=True)


@dataclass(frozen=True)
class Frozen:
    value: int


def test_what_is_no_part_stays_as_it_is() -> None:
    tensor = torch.ones(2)
    versioned = nn.Linear(1, 1).state_dict()
    state = {
        "epochs": [1, 2],
        "weights": {"w": tensor},
        "none": None,
        "range": range(3),
        "last": deque([1, 2], maxlen=2),
        "frozen": Frozen(1),
        "counts": Counter("aab"),
        "bytes": b"abc",
        "state": versioned,
        "looks like one": SimpleNamespace(full_tensor=None),
    }
    together = put_together(state, keep=False)
    assert together == state
    assert together["weights"]["w"] is tensor
    assert together["last"].maxlen == 2
    assert together["state"]._metadata == versioned._metadata
    assert divided({"w": tensor, "n": 1}, like={"w": torch.zeros(2)})["w"] is tensor


def fit(folder: Path, *options: str, fails: bool = False) -> Path:
    """A folder for each fit, in which each rank has written what it saw."""
    done = on_ranks("sharded", folder, str(folder), *options, ranks=1 if "--alone" in options else 2)
    assert (done.returncode != 0) == fails, (done.returncode, done.stderr)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("shards") / "whole")


@pytest.mark.xdist_group("shards")
def test_a_checkpoint_has_the_whole_and_resuming_divides_it(whole: Path) -> None:
    rows = written(whole / "first")
    best = check_ranks(*rows)
    assert best != rows[0][-2]["weights"]  # of the last epoch

    saved = read_states(whole / "first" / "checkpoints" / "epoch2.ckpt")["early_stopping"]["best_weights"]
    assert {type(tensor) for tensor in saved.values()} == {torch.Tensor}
    assert [tensor.flatten().tolist() for tensor in saved.values()] == best

    rows = written(whole / "resumed")
    assert check_ranks(*rows) == best  # of the first run, as none was better
    assert [row["epoch"] for row in rows[0] if row["stage"] == "epoch_end"] == [3]


@pytest.mark.slow
def test_a_single_rank_saves_whole_tensors_as_well(tmp_path: Path) -> None:
    folder = fit(tmp_path / "alone", "--alone") / "first"
    (rows,) = written(folder)
    saved = read_states(folder / "checkpoints" / "epoch2.ckpt")["early_stopping"]["best_weights"]
    assert {type(tensor) for tensor in saved.values()} == {torch.Tensor}
    assert [tensor.flatten().tolist() for tensor in saved.values()] == rows[-1]["weights"]


@pytest.mark.xdist_group("shards")
def test_after_a_failure_each_rank_restores_its_part(whole: Path, tmp_path: Path) -> None:
    failed = written(fit(tmp_path / "failed", "--fail", fails=True) / "first")
    for own, expected in zip(failed, written(whole / "first"), strict=True):
        assert own[-1]["stage"] == "exit"
        assert own[-1]["held"] == expected[-1]["held"]


def check_ranks(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> Any:
    """They see the same gradients, scores and whole weights; gives the last, of which each holds but a part."""
    assert [row | {"held": None} for row in one] == [row | {"held": None} for row in other]
    assert [row["stage"] for row in one[-4:]] == ["after_backward", "after_backward", "epoch_end", "exit"]
    assert all(row["y_hat"] == [2, 1] for row in one if row["stage"] == "after_backward")
    last, held = one[-1]["weights"], zip(one[-1]["held"], other[-1]["held"], strict=True)
    assert [first + second for first, second in held] == last
    return last
