"""Trains in processes that are interrupted at random moments and started again: do they end as if nothing had happened?

`python -m tests.scripts.interrupted FOLDER INTERRUPTS [SEED]`. An interrupt is SIGKILL, SIGTERM or SIGINT, at a random
time or while a checkpoint is written, to one rank or to two, or an exception on all ranks; with worker processes or
without. A run gets up to three, and is then left to end. It prints a line for each run, and ends with 1 if one of them
was not as it should be.
"""

import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory, latest_checkpoint, read_states, t_clbk
from callbacksets.callbacks.checkpoint_files import Reached, complete
from tests.exact import samples
from tests.helpers import Tiny, quiet

EPOCHS, BATCHES, KEEP, SECONDS = 4, 12, 2, 0.05
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LIMIT = 120  # seconds until a process that should have ended counts as hanging
FORK = get_context("fork")


class Module(Tiny):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Sequential(nn.Linear(4, 16), nn.Dropout(), nn.Linear(16, 1)))

    def loss(self, batch: Any) -> torch.Tensor:
        return nn.functional.mse_loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class CallbackSetTell(CallbackSet):
    def __init__(self, told: Connection) -> None:
        self.told = told

    def on_begin(self) -> None:
        self.told.send((0, 0, time.monotonic()))

    def on_batch_end(self) -> None:
        self.told.send((self.ctx.epoch, self.ctx.step, time.monotonic()))


class CallbackSetFail(CallbackSet):
    def __init__(self, stage: str, step: int) -> None:
        self.step = step
        setattr(self, stage, self.fail)

    def fail(self) -> None:
        if self.ctx.global_step >= self.step:
            raise ZeroDivisionError("boom")


class Writes(TorchCheckpointIO):
    """Writes checkpoints in pieces, and interrupts its own process in the middle of one."""

    def __init__(self, signum: int, save: int) -> None:
        super().__init__()
        self.signum, self.saves_left = signum, save

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getvalue()
        with Path(path).open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            self.saves_left -= 1
            if self.saves_left == 0:
                os.kill(os.getpid(), self.signum)
            file.write(content[len(content) // 2 :])


@dataclass
class Case:
    folder: Path
    ranks: int
    workers: int
    told: list[Any] = field(default_factory=list)

    def train(self, rank: int, port: int, told: Connection, how: tuple[Any, ...]) -> None:
        torch.set_num_threads(1)
        log = os.open(self.folder.parent / f"{self.folder.name}.{rank}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        kwargs: dict[str, Any] = {}
        if self.ranks > 1:  # as torchrun starts it
            for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.ranks, "GROUP_RANK": 0}.items():
                os.environ[name] = str(value)
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "run"}
            os.environ["LOCAL_WORLD_SIZE"] = str(self.ranks)
            kwargs = {"strategy": DDPStrategy(process_group_backend="gloo"), "devices": self.ranks}
        plugins = [Writes(*how[1:])] if how[:1] == ("writes",) and rank == 0 else []
        fails = [CallbackSetFail(*how[1:])] if how[:1] == ("fails",) else []
        module = Module()
        torch.manual_seed(rank)
        checkpoint = t_clbk(
            "checkpoint", path=self.folder, freq=1, keep=KEEP, every_minutes=SECONDS / 60, on_interrupt=True
        )
        sets = [CallbackSetHistory(), checkpoint, *fails, *([CallbackSetTell(told)] if rank == 0 else [])]
        trainer = quiet(max_epochs=EPOCHS, callbacks=[CallbackSetAdapter(sets)], plugins=plugins, **kwargs)
        data = samples(4 * BATCHES * self.ranks)
        train, valid = DataLoader(data, 4, shuffle=True, num_workers=self.workers), DataLoader(data, 16)
        trainer.fit(module, train, valid, ckpt_path=latest_checkpoint(self.folder))

    def start(self, *how: Any) -> tuple[list[Any], Connection]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        hears, tells = FORK.Pipe(duplex=False)
        processes = [FORK.Process(target=self.train, args=(rank, port, tells, how)) for rank in range(self.ranks)]
        for process in processes:
            process.start()
        tells.close()
        return processes, hears

    def end(self) -> tuple[Any, Any]:
        newest = latest_checkpoint(self.folder)
        assert newest is not None
        loaded = torch.load(newest, weights_only=True)
        return loaded["state_dict"], read_states(loaded)["history"]

    def interrupt(self, dice: random.Random, seconds: float) -> Iterator[str]:
        """Interrupt the run once; gives what went wrong."""
        signum = dice.choice(SIGNALS)
        how: tuple[Any, ...] = ("writes", signum, dice.randint(1, 8)) if dice.random() < 0.4 else ()
        if dice.random() < 0.2:
            stage = dice.choice(("on_batch_begin", "on_batch_end", "on_before_valid", "on_valid_end", "on_epoch_end"))
            how = ("fails", stage, dice.randint(1, EPOCHS * BATCHES))
        processes, hears = self.start(*how)
        if not how:
            hears.poll(LIMIT)
            wait([process.sentinel for process in processes], dice.uniform(-0.1, 1) * seconds)
            victims = dice.choice((processes, processes[:1], processes[-1:]))
        else:
            wait([process.sentinel for process in processes], LIMIT)
            victims = []  # it has failed, or sent the signal to itself
        for process in victims:
            if process.is_alive():
                os.kill(process.pid, signum)
        if signum == signal.SIGKILL:  # the agent ends the others
            wait([process.sentinel for process in processes], 1)
            for process in processes:
                process.kill()
        for process in processes:
            process.join(LIMIT)
            if process.is_alive():
                yield f"rank {processes.index(process)} hangs after {signum!r}"
                process.kill()
                process.join()
        codes = [process.exitcode for process in processes]
        # a rank without a signal ends as after SIGTERM; before training, signals do what they do in any process
        known = {1} if how[:1] == ("fails",) else set()
        known |= {0, -signum, 128 + signum, 128 + signal.SIGTERM, 1 if signum == signal.SIGINT else 0}
        if signum != signal.SIGKILL and not set(codes) <= known:
            yield f"exit codes {codes} after {signum!r}"
        told: list[Any] = []
        with suppress(EOFError, OSError):
            while hears.poll():
                told.append(hears.recv())
        yield from self.look(signum, [one for one in told if one[0]])

    def look(self, signum: int, told: list[Any]) -> Iterator[str]:
        """What is wrong in the folder."""
        found = complete(self.folder)
        names = sorted(entry.name for entry in self.folder.iterdir()) if self.folder.exists() else []
        if len(names) > KEEP + 1:
            yield f"{len(names)} files: {names}"
        for path in found.values():
            try:
                torch.load(path, weights_only=True)
            except Exception as error:
                yield f"{path.name} cannot be read: {error}"
        if not told:
            return
        newest = max(found, default=Reached(0))
        times = {Reached(epoch - 1, step): at for epoch, step, at in told}
        times |= {Reached(epoch): at for epoch, step, at in told if step == BATCHES}
        last = max(times)
        gap = max([later[2] - one[2] for one, later in pairwise(told)], default=0.0)
        saved = times.get(newest, told[0][2])
        if signum == signal.SIGKILL and times[last] - saved > SECONDS + 2 * gap:
            yield f"lost {times[last] - saved:.3f} seconds of training, from {newest} to {last}"


def main(folder: str, interrupts: str, seed: str = "0") -> None:
    torch.set_num_threads(1)
    dice, left, failures = random.Random(int(seed)), int(interrupts), 0
    whole: dict[tuple[int, int], tuple[Any, float]] = {}
    for ranks, workers in ((1, 0), (1, 2), (2, 0), (2, 2)):
        case = Case(Path(folder) / f"whole-{ranks}-{workers}", ranks, workers)
        case.folder.mkdir(parents=True)
        processes, hears = case.start()
        hears.recv()
        begun = time.monotonic()
        for process in processes:
            process.join(LIMIT)
        whole[ranks, workers] = case.end(), time.monotonic() - begun
    number = 0
    while left > 0:
        number += 1
        ranks, workers = list(whole)[number % 4]
        (weights, history), seconds = whole[ranks, workers]
        case = Case(Path(folder) / f"run-{number}", ranks, workers)
        wrong: list[str] = []
        for _ in range(min(left, dice.randint(1, 3))):
            wrong += case.interrupt(dice, seconds)
            left -= 1
        processes, _ = case.start()
        for process in processes:
            process.join(LIMIT)
        codes = [process.exitcode for process in processes]
        if codes != [0] * ranks:
            wrong.append(f"ends with exit codes {codes}")
        else:
            ended, found = case.end()
            if found != history or not all(torch.equal(value, ended[name]) for name, value in weights.items()):
                wrong.append("does not end as the run that nothing interrupts")
        failures += bool(wrong)
        print(f"{number}: {ranks} ranks, {workers} workers, {left} left:", "; ".join(wrong) or "exact", flush=True)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
