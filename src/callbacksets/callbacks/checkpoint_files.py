"""The files of `CallbackSetCheckpoint`: how they are named, how a file becomes complete, and which ones go."""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_COMPLETE = r"epoch([1-9]\d*)(?:-batch([1-9]\d*))?\.ckpt"
_UNFINISHED = re.compile(rf"\.(?P<name>{_COMPLETE})\..*[0-9a-f]{{8}}\.(?P<kind>part|old)")
"""The name of a checkpoint that a run is writing, or was writing when it was killed.

`old` is a complete checkpoint that is being replaced.
"""
_A_DAY = 24 * 60 * 60  # seconds


class Reached(NamedTuple):
    """How far a run has come: the epochs that have ended, and the batches of the epoch under way."""

    epochs: int
    batches: int = 0

    @property
    def name(self) -> str:
        """The name of the checkpoint that is saved here."""
        if self.batches:
            return f"epoch{self.epochs + 1}-batch{self.batches}.ckpt"
        return f"epoch{self.epochs}.ckpt"

    def __str__(self) -> str:
        return f"batch {self.batches} of epoch {self.epochs + 1}" if self.batches else f"epoch {self.epochs}"

    @staticmethod
    def of(name: str) -> "Reached | None":
        """How far the run of a checkpoint had come; None if a file is not one."""
        if (match := re.fullmatch(_COMPLETE, name)) is None:
            return None
        epoch, batch = match.groups()
        return Reached(int(epoch)) if batch is None else Reached(int(epoch) - 1, int(batch))


def complete(path: Path) -> dict[Reached, Path]:
    """The complete checkpoints in a folder."""
    entries = list(path.iterdir()) if path.is_dir() else []
    found = {reached: entry for entry in entries if (reached := Reached.of(entry.name)) is not None}
    for entry in entries:
        if (match := _UNFINISHED.fullmatch(entry.name)) and match["kind"] == "old":
            reached = Reached.of(match["name"])
            assert reached is not None, "the names agree"
            found.setdefault(reached, entry)
    return found


def others(path: Path) -> list[str]:
    """The names in a folder that are not those of checkpoints, nor of unfinished ones."""
    names = sorted(entry.name for entry in path.iterdir())
    return [name for name in names if Reached.of(name) is None and not _UNFINISHED.fullmatch(name)]


def superseded(known: Iterable[Reached], newest: Reached, keep: int | None) -> Iterator[Reached]:
    """Which checkpoints go, now that the newest is complete: those inside epochs, and all but `keep`.

    One that would come later goes too: it is of an epoch that a limit had cut short, and that goes on now.
    """
    others = sorted(set(known) - {newest})
    yield from (reached for reached in others if reached.batches or reached > newest)
    if keep is not None:
        at_ends = [reached for reached in others if not reached.batches and reached < newest]
        yield from at_ends[: max(0, len(at_ends) - keep + 1)]


def unfinished(path: Path, reached: Reached, run: str) -> Path:
    """The file of a checkpoint until it is complete."""
    return path / f".{reached.name}.{run}.part"


def finish(begun: Path, done: Path, *, replace: bool) -> None:
    """Give a checkpoint its name, when all of it is on disk.

    Raises:
        FileExistsError: If a checkpoint with that name exists and `replace` is False.
    """
    for entry in (begun, *begun.rglob("*")):
        _fsync(entry)
    _name(begun, done, replace=replace)
    _fsync(done.parent)


def _name(begun: Path, done: Path, *, replace: bool) -> None:
    if replace and done.is_dir():
        before = begun.with_suffix(".old")
        done.rename(before)
        begun.rename(done)
        remove(before)
    elif replace:
        begun.replace(done)
    elif begun.is_dir():
        try:
            begun.rename(done)
        except OSError as error:  # raised if there is a file, or a folder that is not empty
            raise (FileExistsError(appeared(done)) if done.exists() else error) from None
    else:
        try:
            os.link(begun, done)
        except FileExistsError:
            raise FileExistsError(appeared(done)) from None
        except OSError:  # a file system without links
            begun.replace(done)


def appeared(checkpoint: Path) -> str:
    return f"{checkpoint} appeared during this run, so another run writes to the folder. Use a folder for each run."


def drop(path: Path, reached: Reached, run: str) -> None:
    """Remove a complete checkpoint. One that is a folder loses its name first: it takes a while to remove."""
    if (done := path / reached.name).is_dir():
        done = done.rename(unfinished(path, reached, run))
    remove(done)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(path: Path, known: set[Reached]) -> None:
    """Remove the unfinished files of killed runs.

    Args:
        path: The folder.
        known: The checkpoints of this run. If there are any, no other run can go on in this folder. Otherwise, a young
            file may belong to a run that is alive.
    """
    for entry in path.iterdir():
        match = _UNFINISHED.fullmatch(entry.name)
        if match is None or not (known or time.time() - entry.stat().st_mtime > _A_DAY):
            continue
        is_needed = Reached.of(match["name"]) in known and not (path / match["name"]).exists()
        if match["kind"] == "part" or not is_needed:
            remove(entry)


def try_to_write(path: Path) -> None:
    """Make the folder and a file in it, and remove them again: nothing may ever be saved."""
    new = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path).close()
    with suppress(OSError):  # another run has begun to write there
        for one in new:
            one.rmdir()


def _fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk: a rename may come before earlier writes."""
    if os.name == "posix":  # elsewhere, folders cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
