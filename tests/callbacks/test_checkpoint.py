import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from callbacksets import (
    CallbackSet,
    CallbackSetAdapter,
    CallbackSetCheckpoint,
    CallbackSetHistory,
    latest_checkpoint,
    read_states,
)
from tests.helpers import Act, StageLog, Tiny, fit, ones, quiet
from tests.scripts.killed import EPOCHS, PLUGINS, train


def saved(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def resume(callbacks: Any, checkpoint: Path | None, module: Tiny | None = None, **kwargs: Any) -> CallbackSetAdapter:
    adapter = CallbackSetAdapter(callbacks)
    trainer = quiet(callbacks=[adapter], **kwargs)
    trainer.fit(Tiny() if module is None else module, ones(2), ckpt_path=checkpoint)
    return adapter


@pytest.mark.parametrize(
    ("freq", "epochs", "expected"),
    [
        (1, 3, ["epoch1.ckpt", "epoch2.ckpt", "epoch3.ckpt"]),
        (2, 5, ["epoch2.ckpt", "epoch4.ckpt", "epoch5.ckpt"]),
        (9, 2, ["epoch2.ckpt"]),
    ],
)
def test_saves_every_few_epochs_and_at_the_end(freq: int, epochs: int, expected: list[str], tmp_path: Path) -> None:
    adapter = fit([CallbackSetCheckpoint(tmp_path, freq=freq)], max_epochs=epochs)
    assert saved(tmp_path) == expected
    assert latest_checkpoint(tmp_path) == tmp_path / expected[-1]
    assert adapter.states == {"checkpoint": {"path": str(tmp_path)}}


def test_newest_is_by_number(tmp_path: Path) -> None:
    fit([CallbackSetCheckpoint(tmp_path, freq=3)], max_epochs=12)
    assert latest_checkpoint(str(tmp_path)) == tmp_path / "epoch12.ckpt"


def test_saves_what_was_trained_until_it_stopped(tmp_path: Path) -> None:
    def stop(ctx: Any) -> None:
        ctx.terminate = ctx.epoch == 3

    fit([CallbackSetCheckpoint(tmp_path / "a", freq=2), Act(on_epoch_end=stop)], max_epochs=9)
    assert saved(tmp_path / "a") == ["epoch2.ckpt", "epoch3.ckpt"]
    fit([CallbackSetCheckpoint(tmp_path / "b", freq=9)], max_epochs=9, max_steps=3)
    assert saved(tmp_path / "b") == ["epoch2.ckpt"]


def test_saves_nothing_after_a_failure(tmp_path: Path) -> None:
    def boom(ctx: Any) -> None:
        if ctx.epoch == 3:
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fit([CallbackSetCheckpoint(tmp_path, freq=2), Act(on_batch_end=boom)], max_epochs=9)
    assert saved(tmp_path) == ["epoch2.ckpt"]


@pytest.mark.parametrize("kwargs", [{"max_epochs": 0}, {"limit_train_batches": 0}, {"fast_dev_run": True}])
def test_saves_nothing_when_nothing_was_trained(kwargs: dict[str, Any], tmp_path: Path) -> None:
    fit([CallbackSetCheckpoint(tmp_path / "new", freq=1)], **kwargs)
    assert saved(tmp_path) == []
    assert latest_checkpoint(tmp_path / "new") is None


def test_terminated_before_the_first_epoch_saves_nothing(tmp_path: Path) -> None:
    def stop(ctx: Any) -> None:
        ctx.terminate = True

    fit([CallbackSetCheckpoint(tmp_path, freq=1), Act(on_begin=stop)])
    assert saved(tmp_path) == []


def test_path_may_be_a_function(tmp_path: Path) -> None:
    calls: list[int] = []

    def path() -> str:
        calls.append(1)
        return str(tmp_path / f"run{len(calls)}")

    callback = CallbackSetCheckpoint(path, freq=1)
    states = [fit([callback], max_epochs=2).states for _ in range(2)]
    assert states == [{"checkpoint": {"path": str(tmp_path / f"run{n}")}} for n in (1, 2)]
    assert saved(tmp_path) == ["run1", "run2"]


def test_holds_what_all_callbacks_have_done(tmp_path: Path) -> None:
    log = StageLog(stages=("on_epoch_end", "on_end"))
    log.weight = 1e9
    fit([CallbackSetCheckpoint(tmp_path, freq=1), CallbackSetHistory(), log], max_epochs=2)
    assert read_states(tmp_path / "epoch1.ckpt")["history"]["epoch"] == [1]
    assert read_states(tmp_path / "epoch2.ckpt")["history"]["epoch"] == [1, 2]


@pytest.mark.parametrize("freq", [1, 2, 9])
def test_resumed_equals_uninterrupted(freq: int, tmp_path: Path) -> None:
    whole, states = train(tmp_path / "whole", "file")
    torch.manual_seed(0)
    callbacks = [CallbackSetHistory(), CallbackSetCheckpoint(tmp_path / "parts", freq=freq)]
    fit(callbacks, Tiny(), max_epochs=2)
    module = Tiny()
    adapter = resume(callbacks, latest_checkpoint(tmp_path / "parts"), module, max_epochs=EPOCHS)
    assert adapter.states["history"] == states["history"]
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in whole.state_dict().items())
    assert latest_checkpoint(tmp_path / "parts") == tmp_path / "parts" / "epoch3.ckpt"


def test_finished_run_resumed_changes_nothing(tmp_path: Path) -> None:
    callbacks = [CallbackSetCheckpoint(tmp_path, freq=2)]
    fit(callbacks, max_epochs=3)
    resume(callbacks, latest_checkpoint(tmp_path), max_epochs=3)
    assert saved(tmp_path) == ["epoch2.ckpt", "epoch3.ckpt"]


def test_fit_again_with_the_same_trainer(tmp_path: Path) -> None:
    module, trainer = Tiny(), quiet(max_epochs=2, callbacks=[CallbackSetAdapter([CallbackSetCheckpoint(tmp_path, 1)])])
    trainer.fit(module, ones(1))
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, ones(1))
    assert saved(tmp_path) == ["epoch1.ckpt", "epoch2.ckpt", "epoch3.ckpt"]


def test_moved_folder_can_be_continued(tmp_path: Path) -> None:
    fit([CallbackSetCheckpoint(tmp_path / "old", freq=1)])
    (tmp_path / "old").rename(tmp_path / "new")
    resume([CallbackSetCheckpoint(tmp_path / "new", freq=1)], latest_checkpoint(tmp_path / "new"), max_epochs=2)
    assert saved(tmp_path / "new") == ["epoch1.ckpt", "epoch2.ckpt"]


def test_checkpoint_of_another_callback_continues_the_folder(tmp_path: Path) -> None:
    callbacks = [CallbackSetCheckpoint(tmp_path / "ours", freq=2)]

    def copy(ctx: Any) -> None:
        if ctx.epoch == 3:
            ctx.trainer.save_checkpoint(tmp_path / "theirs.ckpt")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fit([*callbacks, Act(on_epoch_end=copy)], max_epochs=4)
    adapter = CallbackSetAdapter([*callbacks, Act()])
    quiet(max_epochs=4, callbacks=[adapter]).fit(Tiny(), ones(2), ckpt_path=tmp_path / "theirs.ckpt")
    assert saved(tmp_path / "ours") == ["epoch2.ckpt", "epoch4.ckpt"]


# --- folders it refuses ----------------------------------------------------------------------------------------------


def refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(FileExistsError, match=message):
        make()


def test_refuses_the_folder_of_another_run(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    fit([CallbackSetCheckpoint(first, freq=2)], max_epochs=6)
    fit([CallbackSetCheckpoint(second, freq=2)], max_epochs=6)
    callback = CallbackSetCheckpoint(first, freq=2)
    before = {entry: entry.read_bytes() for entry in first.iterdir()}
    newer = "up to epoch 6, but this run starts after epoch"
    refused(lambda: fit([callback], max_epochs=9), f"{newer} 0 .*ckpt_path=latest_checkpoint")
    refused(lambda: fit([callback], max_epochs=6), f"{newer} 0 .* with max_epochs above 6")
    refused(lambda: resume([callback], first / "epoch4.ckpt", max_epochs=9), f"{newer} 4")
    refused(lambda: resume([callback], first / "epoch4.ckpt", max_epochs=5), f"{newer} 4 .* max_epochs above 6")
    refused(lambda: resume([callback], second / "epoch6.ckpt", max_epochs=9), "of another run, not of the resumed one")
    assert {entry: entry.read_bytes() for entry in first.iterdir()} == before


def test_refuses_other_things(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    refused(lambda: fit([CallbackSetCheckpoint(tmp_path, freq=1)]), r"contains other files, like 'notes\.txt'")
    refused(lambda: fit([CallbackSetCheckpoint(tmp_path / "notes.txt", freq=1)]), r"notes\.txt is a file")
    assert saved(tmp_path) == ["notes.txt"]


def test_does_not_write_over_what_appears_meanwhile(tmp_path: Path) -> None:
    def other_run(ctx: Any) -> None:
        (tmp_path / "epoch2.ckpt").write_text("another run's")

    callbacks = [CallbackSetCheckpoint(tmp_path, freq=2), Act(on_epoch_begin=other_run)]
    refused(lambda: fit(callbacks, max_epochs=2), "appeared during this run")
    assert (tmp_path / "epoch2.ckpt").read_text() == "another run's"


def test_of_two_runs_that_start_together_the_second_is_refused_before_it_writes(tmp_path: Path) -> None:
    def other_run(ctx: Any) -> None:
        if ctx.epoch == 1:
            fit([CallbackSetCheckpoint(tmp_path, freq=1)], max_epochs=1)
            before.update({path: path.read_bytes() for path in tmp_path.iterdir()})

    for freq in (1, 2):
        before: dict[Path, bytes] = {}
        callbacks = [CallbackSetCheckpoint(tmp_path, freq=freq), Act(on_epoch_begin=other_run)]
        refused(lambda callbacks=callbacks: fit(callbacks, max_epochs=2), "epoch1.ckpt appeared during")
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        (tmp_path / "epoch1.ckpt").unlink()


@pytest.mark.parametrize("plugin", ["file", "folder"])
def test_the_name_is_claimed_when_another_run_was_as_fast(plugin: str, tmp_path: Path) -> None:
    theirs = tmp_path / "epoch1.ckpt"

    class Late(PLUGINS[plugin]):  # type: ignore[misc]
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            super().save_checkpoint(checkpoint, path)
            theirs.parent.mkdir(exist_ok=True)
            theirs.mkdir() if plugin == "folder" else theirs.write_text("theirs")
            if plugin == "folder":
                (theirs / "shard").write_text("theirs")

    refused(lambda: fit([CallbackSetCheckpoint(tmp_path, freq=1)], plugins=[Late()]), "epoch1.ckpt appeared during")
    assert saved(tmp_path) == ["epoch1.ckpt"]  # and nothing unfinished
    assert (theirs / "shard" if plugin == "folder" else theirs).read_text() == "theirs"


def test_where_files_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    fit([CallbackSetCheckpoint(tmp_path, freq=1)], max_epochs=2)
    assert saved(tmp_path) == ["epoch1.ckpt", "epoch2.ckpt"]


def leftover(path: Path, run: str = "0123abcd", kind: str = "part", days: float = 0) -> Path:
    entry = path / f".epoch1.ckpt.{run}.{kind}"
    entry.touch()
    os.utime(entry, (time.time() - days * 24 * 60 * 60,) * 2)
    return entry


def test_what_another_run_may_be_writing_is_left_alone_and_what_a_killed_one_wrote_goes(tmp_path: Path) -> None:
    killed, before = leftover(tmp_path, days=2), leftover(tmp_path, "host-17-0123abcd", days=2)  # as of version 0.2
    alive = leftover(tmp_path, "89abcdef")
    assert latest_checkpoint(tmp_path) is None
    assert killed.exists()  # looking removes nothing
    fit([CallbackSetCheckpoint(tmp_path, freq=1)])
    assert not before.exists()
    assert saved(tmp_path) == [alive.name, "epoch1.ckpt"]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("plugin", ["file", "folder"])
def test_one_of_an_epoch_cut_short_is_replaced_by_renaming(plugin: str, tmp_path: Path) -> None:
    def callbacks() -> list[Any]:
        return [CallbackSetHistory(), CallbackSetCheckpoint(tmp_path, freq=9)]

    fit(callbacks(), max_epochs=2, max_steps=3, plugins=[PLUGINS[plugin]()])
    first = latest_checkpoint(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path, remove=shutil.rmtree: remove(path) if path != first else 1 / 0)
        resume(callbacks(), first, max_epochs=2, plugins=[PLUGINS[plugin]()])
    assert saved(tmp_path) == ["epoch2.ckpt"]


def test_one_that_was_just_being_replaced_is_still_found(tmp_path: Path) -> None:
    fit([CallbackSetCheckpoint(tmp_path, freq=1)], max_epochs=2)
    old = leftover(tmp_path, kind="old")
    assert latest_checkpoint(tmp_path) == tmp_path / "epoch2.ckpt"
    (tmp_path / "epoch1.ckpt").replace(old)
    (tmp_path / "epoch2.ckpt").unlink()
    assert latest_checkpoint(tmp_path) == old
    resume([CallbackSetCheckpoint(tmp_path, freq=1)], old, max_epochs=2)
    assert latest_checkpoint(tmp_path) == tmp_path / "epoch2.ckpt"


def test_one_that_was_just_being_replaced_goes_when_its_time_comes(tmp_path: Path) -> None:
    fit([CallbackSetCheckpoint(tmp_path, freq=1, keep=1)], max_epochs=2)
    (tmp_path / "epoch2.ckpt").replace(old := tmp_path / ".epoch2.ckpt.0123abcd.old")
    resume([CallbackSetCheckpoint(tmp_path, freq=1, keep=1)], old, max_epochs=5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["epoch5.ckpt"]


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    class Full(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            Path(path).write_text("half of it")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fit([CallbackSetCheckpoint(tmp_path, freq=1)], plugins=[Full()])
    assert saved(tmp_path) == []


def test_a_path_below_a_file_is_told_of_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    log = StageLog(stages=("on_batch_begin",))
    for path in (tmp_path / "notes.txt" / "run", tmp_path / "notes.txt" / "runs" / "first"):
        refused(lambda path=path: fit([CallbackSetCheckpoint(path, freq=1), log]), r"notes\.txt is a file")
    assert log.rows == []


def test_a_folder_that_cannot_be_written_is_told_of_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # the superuser may write everywhere
    spy = StageLog(stages=("on_epoch_begin",))
    message = "Expected path to be a folder for checkpoints but .*Permission denied.* Give another path"
    with pytest.raises(PermissionError, match=message):
        fit([CallbackSetCheckpoint(tmp_path / "new", freq=1), spy])
    with pytest.raises(OSError, match="Expected path to be a folder for checkpoints but"):
        fit([CallbackSetCheckpoint("/proc/new", freq=1), spy])
    assert not spy.rows


def test_a_run_that_fails_in_its_first_epoch_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fit([CallbackSetCheckpoint(tmp_path / "a" / "b", freq=1), Act(on_batch_end=lambda ctx: 1 / 0)])
    assert not list(tmp_path.iterdir())


def test_checkpoints_of_others_are_told_of(tmp_path: Path) -> None:
    native = ModelCheckpoint(tmp_path / "run" / "checkpoints")
    fit(Act(), native=(native,), enable_checkpointing=True)
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints"):
        with pytest.warns(UserWarning, match=r"no checkpoint of CallbackSetCheckpoint, but there is .*epoch=0-step=2"):
            assert latest_checkpoint(path) is None
    fit(CallbackSetCheckpoint(tmp_path / "ours" / "first", freq=1))
    with pytest.warns(UserWarning, match=r"but there is .*first.epoch1\.ckpt\. Give the folder itself"):
        assert latest_checkpoint(tmp_path / "ours") is None


def test_nothing_is_said_of_weights_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit([CallbackSetCheckpoint(tmp_path, freq=1)])
    assert "weights_only" not in caplog.text
    assert "optimizer_states" in torch.load(tmp_path / "epoch1.ckpt", weights_only=True)


def test_other_files_beside_checkpoints_are_left_alone(tmp_path: Path) -> None:
    fit([CallbackSetCheckpoint(tmp_path, freq=1)])
    for name in ("epoch=1-step=2.ckpt", "epoch01.ckpt", "epoch0.ckpt", ".epoch2.ckpt", "epoch9.ckpt.part"):
        (tmp_path / name).touch()
    assert latest_checkpoint(tmp_path) == tmp_path / "epoch1.ckpt"
    resume([CallbackSetCheckpoint(tmp_path, freq=1)], latest_checkpoint(tmp_path), max_epochs=2)
    assert len(saved(tmp_path)) == 7


# --- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("plugin", PLUGINS)
def test_killed_at_any_moment(plugin: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.scripts.killed", str(tmp_path / "killed"), plugin]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    killed = sorted((tmp_path / "killed").iterdir(), key=lambda path: int(path.name))
    newest = [latest_checkpoint(path) for path in killed]
    epochs = [0 if path is None else int(path.name.removeprefix("epoch").removesuffix(".ckpt")) for path in newest]
    assert epochs == sorted(epochs)
    assert set(epochs) == set(range(EPOCHS + 1))
    whole, states = train(tmp_path / "whole", plugin)
    for path, checkpoint, epoch in zip(killed, newest, epochs, strict=True):
        if checkpoint is not None:
            assert read_states(checkpoint)["history"]["epoch"] == list(range(1, epoch + 1))
        module, resumed = train(path, plugin)
        assert resumed["history"] == states["history"]
        assert all(torch.equal(value, module.state_dict()[name]) for name, value in whole.state_dict().items())
        if epoch < EPOCHS:
            complete = [name for name in saved(path) if not name.startswith(".")]  # what was half written goes later
            assert complete == saved(tmp_path / "whole")


# --- errors ----------------------------------------------------------------------------------------------------------


class CallbackSetCount(CallbackSet):
    weight = float("inf")

    def __init__(self) -> None:
        self.epochs = 0

    def on_epoch_end(self) -> None:
        self.epochs += 1

    def state_dict(self) -> int:
        return self.epochs


def test_a_state_that_changes_later_is_an_error(tmp_path: Path) -> None:
    checkpoint = CallbackSetCheckpoint(tmp_path, freq=1)
    with pytest.raises(RuntimeError, match="'count' would run on_epoch_end or on_end after the checkpoint"):
        fit([checkpoint, CallbackSetCount()])
    fit([CallbackSetCount(), checkpoint])


def test_two_checkpoints_and_what_has_no_state_may_follow(tmp_path: Path) -> None:
    log = StageLog()
    log.weight = float("inf")
    first, second = CallbackSetCheckpoint(tmp_path / "a", freq=1), CallbackSetCheckpoint(tmp_path / "b", freq=2)
    fit({"a": first, "b": second, "log": log}, max_epochs=2)
    assert (len(saved(tmp_path / "a")), len(saved(tmp_path / "b"))) == (2, 1)


def test_asynchronous_checkpoints_are_an_error(tmp_path: Path) -> None:
    class OfTheOtherNamespace(TorchCheckpointIO):
        pass

    OfTheOtherNamespace.__name__ = "AsyncCheckpointIO"
    for plugin in (AsyncCheckpointIO(), OfTheOtherNamespace()):
        with pytest.raises(RuntimeError, match="AsyncCheckpointIO writes checkpoints in the background"):
            fit([CallbackSetCheckpoint(tmp_path, freq=1)], plugins=[plugin])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CallbackSetCheckpoint(), TypeError, "path"),
        (lambda: CallbackSetCheckpoint("a"), TypeError, "freq"),
        (lambda: CallbackSetCheckpoint(None, 1), TypeError, "Expected path to be the path of a folder but got None"),
        (lambda: CallbackSetCheckpoint(3, 1), TypeError, "Expected path to be the path of a folder but got 3"),
        (lambda: CallbackSetCheckpoint("", 1), ValueError, "Expected path to be .* but got ''"),
        (lambda: CallbackSetCheckpoint("s3://bucket/run", 1), ValueError, "a folder on this machine but got 's3:"),
        (
            lambda: CallbackSetCheckpoint("a", 0),
            ValueError,
            "Expected freq to be a whole number of at least 1 but got 0",
        ),
        (lambda: CallbackSetCheckpoint("a", -1), ValueError, "freq to be .* but got -1"),
        (lambda: CallbackSetCheckpoint("a", 1.5), TypeError, "freq to be .* but got 1.5"),
        (lambda: CallbackSetCheckpoint("a", True), TypeError, "freq to be .* but got True"),
        (lambda: CallbackSetCheckpoint("a", float("nan")), TypeError, "freq to be .* but got nan"),
        (lambda: CallbackSetCheckpoint("a", "1"), TypeError, "freq to be .* but got '1'"),
        (lambda: latest_checkpoint(None), TypeError, "Expected path to be the path of a folder but got None"),
    ],
)
def test_bad_argument(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_function_must_return_a_path() -> None:
    with pytest.raises(TypeError, match=r"Expected the value of path\(\) to be the path of a folder but got None"):
        fit([CallbackSetCheckpoint(lambda: None, freq=1)])


# --- how many, and inside epochs -------------------------------------------------------------------------------------


class CallbackSetSee(CallbackSet):
    """Notes which checkpoints there are at the start of each batch."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, []

    def on_batch_begin(self) -> None:
        self.seen.append(saved(self.path) if self.path.exists() else [])


def test_keeps_the_newest(tmp_path: Path) -> None:
    fit([CallbackSetCheckpoint(tmp_path, freq=2, keep=2)], max_epochs=7)
    assert saved(tmp_path) == ["epoch6.ckpt", "epoch7.ckpt"]
    (tmp_path / "epoch=1-step=2.ckpt").touch()
    resume([CallbackSetCheckpoint(tmp_path, freq=1, keep=3)], latest_checkpoint(tmp_path), max_epochs=9)
    assert saved(tmp_path) == ["epoch7.ckpt", "epoch8.ckpt", "epoch9.ckpt", "epoch=1-step=2.ckpt"]


def test_an_older_one_goes_when_the_newer_one_is_complete(tmp_path: Path) -> None:
    class Looks(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            super().save_checkpoint(checkpoint, path)
            before.append([name for name in saved(tmp_path) if not name.startswith(".")])
            if len(before) == 3:
                raise OSError("no space left")

    before: list[list[str]] = []
    with pytest.raises(OSError, match="no space left"):
        fit([CallbackSetCheckpoint(tmp_path, freq=1, keep=1)], max_epochs=9, plugins=[Looks()])
    assert before == [[], ["epoch1.ckpt"], ["epoch2.ckpt"]]
    assert saved(tmp_path) == ["epoch2.ckpt"]


def test_saves_inside_epochs(tmp_path: Path) -> None:
    see = CallbackSetSee(tmp_path)
    fit([CallbackSetCheckpoint(tmp_path, freq=2, every_minutes=0), see], max_epochs=3)
    inside = [["epoch1-batch1.ckpt"], ["epoch1-batch2.ckpt"], ["epoch2-batch1.ckpt"], ["epoch2.ckpt"]]
    assert see.seen == [[], *inside, ["epoch2.ckpt", "epoch3-batch1.ckpt"]]
    assert saved(tmp_path) == ["epoch2.ckpt", "epoch3.ckpt"]


def test_time_starts_at_each_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def passes(ctx: Any) -> None:
        now[0] += 25

    now = [1000.0]
    monkeypatch.setattr("callbacksets.callbacks.checkpoint.time.monotonic", lambda: now[0])
    see = CallbackSetSee(tmp_path)
    callbacks = [CallbackSetCheckpoint(tmp_path, freq=9, every_minutes=1), see, Act(on_batch_begin=passes)]
    fit(callbacks, Tiny(), ones(7))
    assert see.seen == [*[[]] * 3, *[["epoch1-batch3.ckpt"]] * 3, ["epoch1-batch6.ckpt"]]


def test_a_batch_costs_nothing_without_minutes(tmp_path: Path) -> None:
    for callback in (CallbackSetCheckpoint(tmp_path, 1), CallbackSetCheckpoint(tmp_path, 1, on_interrupt=True)):
        assert "on_batch_end" not in callback.stages
    timed = CallbackSetCheckpoint(tmp_path / "timed", 1, every_minutes=0)
    assert "on_batch_end" in timed.stages
    clone = timed.clone()
    fit(clone)
    assert vars(clone)["on_batch_end"].__self__ is clone


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_goes_on_inside_the_epoch(keep: int, batch: int, tmp_path: Path) -> None:
    def callbacks() -> list[Any]:
        return [CallbackSetHistory(), CallbackSetCheckpoint(tmp_path, freq=1, keep=keep, every_minutes=0)]

    def die(ctx: Any) -> None:
        if ctx.global_step > batch:
            raise RuntimeError("boom")

    torch.manual_seed(0)
    whole = fit([CallbackSetHistory()], max_epochs=3).states["history"]
    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match="boom"):
        fit([*callbacks(), Act(on_batch_begin=die)], max_epochs=3)
    last = [name for name in saved(tmp_path) if not name.startswith("epoch1.")]
    assert latest_checkpoint(tmp_path) == tmp_path / (last[-1] if last else "epoch1.ckpt")
    adapter = resume([*callbacks(), Act()], latest_checkpoint(tmp_path), max_epochs=3)
    assert adapter.states["history"] == whole
    assert saved(tmp_path) == ["epoch2.ckpt", "epoch3.ckpt"][-keep:]


def test_what_a_killed_run_wrote_of_these_goes_at_the_first_save(tmp_path: Path) -> None:
    fit([CallbackSetCheckpoint(tmp_path, freq=1)])
    killed = tmp_path / ".epoch2-batch3.ckpt.0123abcd.part"
    killed.touch()
    resume([CallbackSetCheckpoint(tmp_path, freq=1, keep=1)], latest_checkpoint(tmp_path), max_epochs=2)
    assert saved(tmp_path) == ["epoch2.ckpt"]


def test_refuses_a_folder_that_is_further_inside_the_epoch(tmp_path: Path) -> None:
    def act(ctx: Any) -> None:
        if ctx.global_step == 5:
            shutil.copy(tmp_path / "run" / "epoch2-batch1.ckpt", tmp_path / "earlier.ckpt")
        if ctx.global_step == 6:
            raise RuntimeError("boom")

    callbacks = [CallbackSetCheckpoint(tmp_path / "run", freq=9, every_minutes=0), Act(on_batch_begin=act)]
    with pytest.raises(RuntimeError, match="boom"):
        fit(callbacks, Tiny(), ones(3), max_epochs=2)
    newest = "contains checkpoints up to batch 2 of epoch 2, but this run starts after"
    refused(lambda: fit(callbacks[:1], Tiny(), ones(3), max_epochs=2), f"{newest} epoch 0")
    trainer = quiet(callbacks=[CallbackSetAdapter(callbacks)], max_epochs=2)
    earlier = tmp_path / "earlier.ckpt"
    refused(lambda: trainer.fit(Tiny(), ones(3), ckpt_path=earlier), f"{newest} batch 1 of epoch 2")


def test_a_folder_of_like_name_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit([CallbackSetCheckpoint(tmp_path / "first", freq=1)])
    (tmp_path / "frist").mkdir()
    caplog.clear()
    with caplog.at_level("INFO"):
        assert latest_checkpoint(tmp_path / "frist") is None  # there is such a folder, though an empty one
        assert latest_checkpoint(tmp_path / "other") is None
        assert caplog.text == ""
        assert latest_checkpoint(tmp_path / "fist") is None
    assert re.search(r"fist does not exist, so a new run starts\. \S*first has checkpoints", caplog.text)
