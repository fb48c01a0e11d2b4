"""What `checkpoint` does on signals and exceptions; see also tests/test_interrupted.py, with processes."""

import copy
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory, latest_checkpoint, read_states, t_clbk
from tests.helpers import Act, StageLog, Tiny, ones, quiet

EPOCHS, BATCHES = 3, 4


class WithDropout(Tiny):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Sequential(nn.Linear(2, 8), nn.Dropout(), nn.Linear(8, 1)))


def train(folder: Path, *more: Any, module: Tiny | None = None, native: Any = (), **kwargs: Any) -> tuple[Any, Any]:
    """Train from the newest checkpoint in the folder on; gives the weights and the history."""
    module = WithDropout() if module is None else module
    checkpoint = t_clbk("checkpoint", path=folder, freq=1, keep=1, on_interrupt=True)
    adapter = CallbackSetAdapter([CallbackSetHistory(), checkpoint, *more])
    trainer = quiet(max_epochs=EPOCHS, callbacks=[*native, adapter], **kwargs)
    trainer.fit(module, ones(BATCHES), ones(2), ckpt_path=latest_checkpoint(folder))
    return module.state_dict(), adapter.states["history"]


def same(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    return one[1] == other[1] and all(torch.equal(value, other[0][name]) for name, value in one[0].items())


def at(step: int, do: Callable[[], Any], stage: str = "on_after_backward") -> Act:
    """Does something once in a stage of the step."""

    def act(ctx: Any) -> None:
        if ctx.global_step == step and not done:
            done.append(step)
            do()

    done: list[int] = []
    return Act(**{stage: act})


def send(signum: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in processes in the background
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
    signal.signal(signal.SIGINT, outside)


@pytest.mark.parametrize("stage", ["on_batch_begin", "on_after_backward", "on_batch_valid_end", "on_epoch_end"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_batch(signum: int, stage: str, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", Act())
    step = BATCHES + (4 if stage in ("on_batch_valid_end", "on_epoch_end") else 2)
    with pytest.raises(SIGTERMException) as raised:
        train(tmp_path / "run", at(step, send(signum), stage))
    assert raised.value.code == 128 + signum
    saved = {"on_batch_valid_end": "epoch2-batch4.ckpt", "on_epoch_end": "epoch2.ckpt"}
    assert names(tmp_path / "run") == [saved.get(stage, "epoch2-batch2.ckpt")]
    assert same(train(tmp_path / "run", Act()), whole)
    assert names(tmp_path / "run") == ["epoch3.ckpt"]


def test_an_exception_saves_what_was_trained(tmp_path: Path) -> None:
    def boom() -> None:
        raise ZeroDivisionError("boom")

    whole = train(tmp_path / "whole", Act())
    for stage, name in {"on_batch_begin": "epoch2-batch1.ckpt", "on_batch_end": "epoch2-batch2.ckpt"}.items():
        with pytest.raises(ZeroDivisionError, match="boom"):
            train(tmp_path / stage, at(BATCHES + 2, boom, stage))
        assert names(tmp_path / stage) == [name]
        assert same(train(tmp_path / stage, Act()), whole)


def test_nothing_new_is_not_saved_again(tmp_path: Path) -> None:
    def boom() -> None:
        raise ZeroDivisionError("boom")

    with pytest.raises(ZeroDivisionError, match="boom"):
        train(tmp_path, at(BATCHES + 1, boom))
    assert names(tmp_path) == ["epoch1.ckpt"]
    with pytest.raises(ZeroDivisionError, match="boom"):
        train(tmp_path / "new", at(1, boom))
    assert not (tmp_path / "new").exists()


def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        send(signal.SIGINT)()
        send(signal.SIGINT)()

    log = StageLog("global_step", stages=("on_batch_end", "on_exit"))
    with pytest.raises(SystemExit, match="1"):  # as Lightning ends on Ctrl-C
        train(tmp_path, at(3, twice), log)
    assert log.rows == [("batch_end", 1), ("batch_end", 2), ("exit", 3)]
    assert names(tmp_path) == ["epoch1-batch2.ckpt"]


def test_a_signal_while_it_saves(tmp_path: Path) -> None:
    class Signalled(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            if "batch" not in str(path):
                return super().save_checkpoint(checkpoint, path)
            Path(path).write_text("half of it")
            for _ in range(3):  # the third one interrupts
                send(signal.SIGINT)()
            raise AssertionError

    whole = train(tmp_path / "whole", Act())
    log = StageLog(stages=("on_exit",))
    with (
        pytest.raises(ZeroDivisionError),
        pytest.warns(UserWarning, match="No checkpoint could be saved .*: KeyboardInterrupt: . The newest one"),
    ):
        train(tmp_path / "run", at(BATCHES + 3, lambda: 1 / 0), log, plugins=[Signalled()])
    assert log.rows == ["exit"]
    assert names(tmp_path / "run") == ["epoch1.ckpt"]
    assert same(train(tmp_path / "run", Act(), StageLog()), whole)


def test_a_signal_that_comes_too_late_to_end_training_is_not_lost(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="1"):
        train(tmp_path, at(EPOCHS * BATCHES, send(signal.SIGINT), "on_end"))
    assert names(tmp_path) == ["epoch3.ckpt"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores Ctrl-C from the first one on


def test_the_weights_are_those_from_before_exit(tmp_path: Path) -> None:
    class CallbackSetZero(CallbackSet):
        def on_exit(self) -> None:
            before.append({name: value.clone() for name, value in self.ctx.network.state_dict().items()})
            for parameter in self.ctx.network.parameters():
                nn.init.zeros_(parameter)

    before: list[dict[str, Any]] = []
    with pytest.raises(SIGTERMException):
        train(tmp_path, at(2, send(signal.SIGTERM)), CallbackSetZero(), module=Tiny())
    saved = torch.load(tmp_path / "epoch1-batch2.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[f"network.{name}"], value) for name, value in before[0].items())


@pytest.mark.filterwarnings("ignore")  # with Lightning's own, every fit warns that there is no last checkpoint
def test_beside_lightnings_own(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", Act())
    native = OnExceptionCheckpoint(tmp_path / "native")
    module = WithDropout()
    checkpoint = t_clbk("checkpoint", path=tmp_path / "run", freq=1, on_interrupt=True)
    adapter = CallbackSetAdapter([CallbackSetHistory(), checkpoint, at(BATCHES + 2, lambda: 1 / 0, "on_batch_end")])
    trainer = quiet(max_epochs=EPOCHS, callbacks=[native, adapter], enable_checkpointing=True)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(module, ones(BATCHES), ones(2))
    assert trainer.callbacks == [adapter, native]
    ours, theirs = latest_checkpoint(tmp_path / "run"), tmp_path / "native" / "on_exception.ckpt"
    assert ours is not None
    assert read_states(ours) == read_states(theirs)
    assert same(train(tmp_path / "run", Act()), whole)
    (tmp_path / "again").mkdir()
    shutil.copy(theirs, tmp_path / "again" / "epoch2-batch2.ckpt")
    assert same(train(tmp_path / "again", Act()), whole)


def test_a_save_that_fails_is_told_of_and_the_exception_stays(tmp_path: Path) -> None:
    class Full(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            raise OSError("no space left")

    with (
        pytest.raises(ZeroDivisionError),
        pytest.warns(UserWarning, match="No checkpoint could be saved .* interrupted: OSError: no space"),
    ):
        train(tmp_path, at(2, lambda: 1 / 0), plugins=[Full()])
    assert names(tmp_path) == []


def test_ctrl_c_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train(tmp_path, at(2, send(signal.SIGINT)))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_nothing_is_saved_in_a_dry_run(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "new", at(1, lambda: 1 / 0), fast_dev_run=2)
    assert not (tmp_path / "new").exists()


def test_a_copy_made_in_the_fit_is_not_part_of_it(tmp_path: Path) -> None:
    def copies(ctx: Any) -> None:
        copied = copy.deepcopy(ctx.callbacks["checkpoint"])
        assert copied._interrupts is None
        assert pickle.loads(pickle.dumps(copied)).keep == 1

    train(tmp_path, Act(on_epoch_end=copies))
    assert names(tmp_path) == ["epoch3.ckpt"]
