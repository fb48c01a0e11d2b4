"""Two ranks: they stop together, see the same scores and gradients, and no one waits for a rank that is gone."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import RELEASE, on_ranks, script, written

pytestmark = [
    pytest.mark.xdist_group("ranks"),  # they share what `run` has done
    pytest.mark.skipif(
        sys.platform == "win32", reason="gloo between processes, as the script sets it up, is for POSIX"
    ),
]

# One pair of processes fits all of these
TOGETHER = (
    "terminate.batch_end.0",
    "terminate.epoch_end.1",
    "terminate.begin.1",
    "endless.batch_end.0",
    "endless.batch_end.1",
    "itself",
    "unsynced",
    "synced",
    "written",
)
SPAWN = pytest.param("ddp_spawn", marks=RELEASE)


@dataclass
class Outcome:
    returncode: int
    stdout: str
    stderr: str
    folder: Path
    rows: list[list[dict[str, Any]]]

    def at(self, stage: str, *fields: str) -> list[list[tuple[Any, ...]]]:
        """By rank, what was seen at a stage."""
        return [[tuple(row[field] for field in fields) for row in rows if row["stage"] == stage] for rows in self.rows]


Run = Callable[[str, str], Outcome]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    done: dict[tuple[str, str], Outcome] = {}

    def once(scenario: str, strategy: str) -> Outcome:
        if (scenario, strategy) not in done:
            scenarios = TOGETHER if strategy == "ddp" and scenario in TOGETHER else (scenario,)
            folder = tmp_path_factory.mktemp("ranks") / strategy
            start = on_ranks if strategy == "ddp" else script
            result = start("ranks", folder, strategy, str(folder), *scenarios)
            for each in scenarios:
                rows = written(folder / each)
                assert len(rows) == 2, result.stderr
                done[each, strategy] = Outcome(result.returncode, result.stdout, result.stderr, folder / each, rows)
        return done[scenario, strategy]

    return once


@pytest.mark.parametrize("strategy", ["ddp", SPAWN])
@pytest.mark.parametrize("scenario", ["terminate.batch_end.0", "terminate.epoch_end.1"])
def test_one_rank_stops_both_after_the_same_epoch(run: Run, scenario: str, strategy: str) -> None:
    outcome = run(scenario, strategy)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.at("epoch_end", "epoch") == [[(1,), (2,)]] * 2
    assert outcome.at("exit", "epoch", "terminate") == [[(2, True)]] * 2
    stages, others = ([row["stage"] for row in rows] for rows in outcome.rows)
    assert stages == others
    one, other = outcome.at("report", "states", "weights")
    assert one == other


def test_one_rank_stops_both_in_begin(run: Run) -> None:
    outcome = run("terminate.begin.1", "ddp")
    assert outcome.returncode == 0, outcome.stderr
    assert [[row["stage"] for row in rows] for rows in outcome.rows] == [["begin", "end", "exit", "report"]] * 2


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_one_rank_stops_both_after_a_validation_of_an_endless_epoch(run: Run, rank: int) -> None:
    outcome = run(f"endless.batch_end.{rank}", "ddp")
    assert outcome.returncode == 0, outcome.stderr
    assert [len(rows) for rows in outcome.at("batch_end")] == [4, 4]  # it was asked in the third
    assert outcome.at("valid_end", "terminate") == [[(False,), (rank == 0,)], [(False,), (rank == 1,)]]
    for stage in ("epoch_end", "end", "exit"):
        assert outcome.at(stage, "terminate") == [[(True,)]] * 2


@pytest.mark.parametrize("scenario", ["terminate.batch_end.0", "itself"])
def test_the_output_is_the_networks_and_gradients_are_synced(run: Run, scenario: str) -> None:
    outcome = run(scenario, "ddp")
    assert outcome.returncode == 0, outcome.stderr
    for stage in ("after_backward", "batch_end", "batch_valid_end"):
        shapes = outcome.at(stage, "shape")
        assert shapes[0] == shapes[1] == [([2, 1],)] * len(shapes[0])
        outputs = outcome.at(stage, "y_hat")
        assert all(one != other for one, other in zip(*outputs, strict=True))  # of each rank's own data
    for rows in outcome.at("after_backward", "y_hat", "expected"):
        for y_hat, expected in rows:
            assert y_hat == pytest.approx(expected)
    one, other = outcome.at("after_backward", "grad")
    assert one == other
    assert all(any(value for part in grad for value in part) for (grad,) in one)
    assert len(one) == 2 * len(outcome.at("epoch_end")[0])


@pytest.mark.parametrize("strategy", ["ddp", SPAWN])
def test_scores_that_are_not_synced_do_not_split_the_ranks(run: Run, strategy: str) -> None:
    outcome = run("unsynced", strategy)
    assert outcome.returncode == 0, outcome.stderr
    seen = outcome.at("epoch_end", "epoch", "train", "valid")
    expected = [
        (epoch, {"rank": 0.0}, {"score": float((epoch - 2) ** 2), "metric": 0.5}) for epoch in (1, 2, 3, 4)
    ]  # rank zero's
    assert seen == [expected, expected]
    lrs = outcome.at("epoch_end", "lr")
    assert lrs[0] == lrs[1]
    assert len({lr for (lr,) in lrs[0]}) > 1  # the plateau schedule has acted
    check_reports(outcome, best=2)


def test_scores_that_are_synced_agree(run: Run) -> None:
    outcome = run("synced", "ddp")
    assert outcome.returncode == 0, outcome.stderr
    seen = outcome.at("epoch_end", "epoch", "train", "valid")
    expected = [
        (epoch, {"rank": 0.5}, {"score": ((epoch - 2) ** 2 - 10 * (epoch - 1)) / 2, "metric": 0.5})
        for epoch in range(1, 10)
    ]
    assert seen == [expected, expected]
    check_reports(outcome, best=7)


def check_reports(outcome: Outcome, best: int) -> None:
    """Both ranks end with the same states, and the weights of the best epoch."""
    (one,), (other,) = outcome.at("report", "states", "weights")
    assert one == other
    states, weights = one
    assert states["early_stopping"]["best_epochs"] == best
    assert states["early_stopping"]["stagnation"] == 2
    assert weights == outcome.at("epoch_end", "weights")[0][best - 1][0]


def test_only_rank_zero_prints_and_writes(run: Run) -> None:
    outcome = run("written", "ddp")
    assert outcome.returncode == 0, outcome.stderr
    lines = [line.split(":")[0] for line in outcome.stdout.splitlines() if line.startswith(("Epoch", "Trained"))]
    assert lines[:3] == ["Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]
    assert len(lines) == 4
    assert lines[3].startswith("Trained 3 epochs in ")
    assert sorted(path.name for path in (outcome.folder / "checkpoints").iterdir()) == ["epoch2.ckpt", "epoch3.ckpt"]
    assert len(list((outcome.folder / "tb").rglob("events.*"))) == 1


@pytest.mark.parametrize("strategy", ["ddp", SPAWN])
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_an_exception_on_one_rank_ends_the_run_says_on_which_and_every_exit_runs(
    run: Run, rank: int, strategy: str
) -> None:
    outcome = run(f"raise.batch_end.{rank}", strategy)
    assert outcome.returncode != 0
    assert f"in callback 'act' (Act), on_batch_end, epoch 2, step 1, rank {rank} of 2" in outcome.stderr
    assert "ZeroDivisionError: boom" in outcome.stderr
    assert outcome.at("epoch_end", "epoch") == [[(1,)]] * 2
    # of the failure of a spawned process Lightning tells no callback
    for failed in (rank, 1 - rank):
        assert len(outcome.at("exit")[failed]) == len(outcome.at("report")[failed]) == 1
