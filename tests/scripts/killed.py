"""Trains in processes that are killed, each at another moment: `python -m tests.scripts.killed FOLDER PLUGIN`.

A moment is when a process opens, writes, renames or removes something in the folder of its checkpoints: one of Python's
audit events. Other files do not count, because each process opens other ones, for bytecode say. The run that is killed
at moment n writes its checkpoints to `FOLDER/n`. The last process is not killed. It shows how many moments there are.
"""

import itertools
import os
import shutil
import signal
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from callbacksets import CallbackSetAdapter, CallbackSetCheckpoint, CallbackSetHistory, latest_checkpoint
from tests.helpers import Tiny, ones, quiet

EPOCHS = 3


class InPieces(TorchCheckpointIO):
    """Writes a checkpoint piece by piece, into the file itself."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getvalue()
        third = -(-len(content) // 3)  # rounded up: three pieces in every process, however long the path's name
        with Path(path).open("wb") as file:
            for start in range(0, len(content), third):
                file.write(content[start : start + third])
                file.flush()
                sys.audit("open", str(path))


class Sharded(TorchCheckpointIO):
    """Writes a folder, as strategies that shard a module do."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).mkdir()
        torch.save(checkpoint.pop("state_dict"), Path(path) / "shard.pt")
        torch.save(checkpoint, Path(path) / "meta.pt")

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        checkpoint = torch.load(Path(path) / "meta.pt", weights_only=True)
        return checkpoint | {"state_dict": torch.load(Path(path) / "shard.pt", weights_only=True)}

    def remove_checkpoint(self, path: Any) -> None:
        shutil.rmtree(path)


PLUGINS = {"file": TorchCheckpointIO, "pieces": InPieces, "folder": Sharded}


def train(folder: Path, plugin: str) -> tuple[L.LightningModule, dict[str, Any]]:
    """Train for three epochs, from the newest checkpoint in the folder on; gives the module and the states."""
    torch.manual_seed(0)
    module = Tiny()
    adapter = CallbackSetAdapter([CallbackSetHistory(), CallbackSetCheckpoint(folder, freq=1, keep=1)])
    trainer = quiet(max_epochs=EPOCHS, callbacks=[adapter], plugins=[PLUGINS[plugin]()])
    trainer.fit(module, ones(2), ckpt_path=latest_checkpoint(folder))
    return module, adapter.states


def kill_at(moment: int, folder: Path) -> None:
    moments = itertools.count(1)

    def hook(event: str, args: Any) -> None:
        if not event.startswith(("open", "os.", "shutil.")):
            return
        if any(str(folder) in str(arg) for arg in args) and next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main(folder: Path, plugin: str) -> None:
    torch.set_num_threads(1)
    for moment in itertools.count(1):
        process = os.fork()
        if process == 0:
            kill_at(moment, folder / str(moment))
            train(folder / str(moment), plugin)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
