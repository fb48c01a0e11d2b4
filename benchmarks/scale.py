"""Many sets, and several ranks.

Stages per second of wall time, in a fit. Ranks are processes that share the cores of this machine, so of these numbers
the shape of the curve is what counts. Ranks agree on `ctx.terminate` once per epoch, and on the scores once per loop.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.fits import Batches, Tiny, nothings, quiet
from benchmarks.report import Row, microseconds
from callbacksets import CallbackSetAdapter

STAGES = ("on_batch_begin", "on_after_backward", "on_batch_end")


class Calling(Tiny):
    """Runs the stages of its adapter again and again in its first step, and has its ranks agree."""

    def __init__(self, adapter: CallbackSetAdapter, rounds: int) -> None:
        super().__init__()
        self.adapter, self.rounds = adapter, rounds
        self.stages_per_second: list[float] = []
        self.terminate: list[float] = []
        self.scores: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        fit = self.adapter._fit
        assert fit is not None
        stages = [stage for stage in STAGES if fit.dispatch.has(stage)]
        calls = max(1, 1000 // len(fit.sets))
        for _ in range(self.rounds):
            start = time.perf_counter()
            for _ in range(calls):
                for stage in stages:
                    fit.dispatch.run(stage)
            self.stages_per_second.append(calls * len(stages) * len(fit.sets) / (time.perf_counter() - start))
        strategy = self.trainer.strategy
        for _ in range(self.rounds if self.trainer.world_size > 1 else 0):
            start = time.perf_counter()
            strategy.reduce_boolean_decision(False, all=False)
            between = time.perf_counter()
            strategy.broadcast(({"loss": 0.5, "acc": 0.5}, {"train_loss": "loss", "train_acc": "acc"}))
            self.terminate.append(between - start)
            self.scores.append(time.perf_counter() - between)
        return super().training_step(batch, batch_idx)


def measure(quick: bool = False) -> list[Row]:
    rows = [
        Row(f"{n} set{'s' if n > 1 else ''}: stages per second", _count(_fit(n, 2 if quick else 41).stages_per_second))
        for n in (1, 10, 100, 1000)
    ]
    if not hasattr(os, "fork"):
        return [*rows, Row("several ranks", "skipped: this system does not fork")]
    for ranks in (2,) if quick else (1, 2, 4, 8):
        measured = _in_processes(ranks, 2 if quick else 41)
        rows.append(Row(f"10 sets, {ranks} rank{'s' if ranks > 1 else ''}: stages per second and rank", measured[0]))
        if ranks > 1:
            rows.append(Row("  agreeing on terminate, per epoch", measured[1]))
            rows.append(Row("  agreeing on scores, per loop and epoch", measured[2]))
    return rows


def _fit(sets: int, rounds: int, **ranks: object) -> Calling:
    adapter = CallbackSetAdapter(nothings(sets))
    module = Calling(adapter, rounds)
    quiet(max_epochs=1, callbacks=[adapter], **ranks).fit(module, Batches([torch.ones(2, 2)]))
    return module


def _in_processes(ranks: int, rounds: int) -> list[str]:
    """Rows of rank zero; in a new process, as only one that has not yet used several threads can fork."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", str(ranks), str(rounds)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("[")]
    if not lines:
        return [f"failed: {(result.stderr.strip().splitlines() or ['no word'])[-1]}"] * 3
    return list(json.loads(lines[-1]))


def _count(values: list[float]) -> str:
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:,.0f} ({low:,.0f} to {high:,.0f})"


class _Printing(Calling):
    """Rank zero prints: the module that was trained is the child's."""

    def on_train_end(self) -> None:
        if self.trainer.is_global_zero:
            agreed = [microseconds(seconds) if seconds else "" for seconds in (self.terminate, self.scores)]
            print(json.dumps([_count(self.stages_per_second), *agreed]), flush=True)


def _ranks(ranks: int, rounds: int) -> None:
    adapter = CallbackSetAdapter(nothings(10))
    strategy = "auto" if ranks == 1 else "ddp_fork"
    trainer = quiet(max_epochs=1, callbacks=[adapter], devices=ranks, strategy=strategy, use_distributed_sampler=False)
    trainer.fit(_Printing(adapter, rounds), Batches([torch.ones(2, 2)]))


if __name__ == "__main__":
    _ranks(*map(int, sys.argv[1:]))
