"""What a checkpoint keeps of a run: the callbacks' states, and the adapter's own to go on from."""

import copy
import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacksets.base import CallbackSet
from callbacksets.checks import did_you_mean, listed
from callbacksets.fit.context import ContextTorch, Loop, may_stop
from callbacksets.fit.shards import is_part
from callbacksets.scores import Scores

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

KEY = "CallbackSetAdapter"
"""Where Lightning's checkpoints hold the adapter's part: `checkpoint["callbacks"][KEY]`."""

_VERSION = 1
_PLAIN = (type(None), bool, int, float, complex, str, bytes, Tensor, torch.nn.Parameter, torch.Size, torch.dtype)


class SavedState(TypedDict):
    """The state of one callback, with the name of its class."""

    cls: str
    state: Any


class Saved(TypedDict):
    """The adapter's part of a checkpoint."""

    version: int
    begun: bool  # written by a run that had begun; else it only passes on what the run was given
    exact: bool  # the network was as the last stage of training left it
    loop: dict[str, Any]
    callbacks: dict[str, SavedState]


def nothing_saved() -> Saved:
    """What is saved by a run that has not begun and continues no other."""
    return {"version": _VERSION, "begun": False, "exact": True, "loop": {}, "callbacks": {}}


def save_run(loop: Loop, ctx: ContextTorch, callbacks: Mapping[str, SavedState]) -> Saved:
    """The adapter's part of a checkpoint written now."""
    will_run_again = loop.in_batch and not counts_batch(ctx.trainer)
    measures = loop.measures_train | loop.measures_valid
    return {
        "version": _VERSION,
        "begun": True,
        "exact": True,
        "loop": {
            "global_step": loop.global_step - will_run_again,
            "last_loss": ctx.last_loss,
            "epoch": loop.epoch,
            "in_epoch": loop.in_epoch,
            "epoch_ends": loop.epoch_ends and not ctx.trainer.interrupted,
            "complete": loop.complete,
            "validated": loop.validated,
            # what was asked for and is still to come; a fit that it has stopped is another one's past
            "terminate": loop.terminate and not loop.stops and (loop.in_epoch or not may_stop(ctx.trainer, loop)),
            "terminated_by": loop.terminated_by,
            "scores_train": _save_scores(ctx.last_scores_train),
            # a validation under way will run again, or is lost: those of the one before are not its scores
            "scores_valid": None if loop.in_validation else _save_scores(ctx.last_scores_valid),
            "scored_at": loop.scored_at,
            # a resumed run has no sanity check to know its measures from, and has not trained
            "minimize": loop.minimize | {name: ctx.minimize(name) for name in measures},
        },
        "callbacks": dict(callbacks),
    }


def counts_batch(trainer: "Trainer") -> bool:
    """Whether Lightning counts the current batch as done, though its last hooks are still running."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return bool(progress.processed > progress.completed)


def starts_over(loop: Loop, saved: Mapping[str, Any]) -> bool:
    """Whether Lightning does not go on where the checkpoint was written, but has trained nothing yet."""
    return bool(loop.global_step == 0 < saved["global_step"])


def restore_loop(loop: Loop, saved: Mapping[str, Any]) -> None:
    """Put the loop where the checkpoint was written; its `epoch` says how many Lightning takes for trained."""
    loop.global_step = saved["global_step"]
    loop.loss = saved["last_loss"]
    # a checkpoint written on the last batch of an epoch Lightning resumes with the next one
    loop.in_epoch = loop.missed_epoch_begin = saved["in_epoch"] and saved["epoch"] == loop.epoch + 1
    if not saved["in_epoch"] and saved["epoch"] == loop.epoch + 1:
        # Where it counts in steps, Lightning goes on in an epoch that had ended: in one that had all its batches only
        # to end it once more, in one that was cut short to train the rest of it.
        loop.epoch = saved["epoch"]
        complete = saved.get("complete", True)  # which the first checkpoints do not say
        loop.ended_epoch = saved["epoch"] if complete else None
        loop.in_epoch = loop.missed_epoch_begin = not complete
    loop.epoch_ends = saved.get("epoch_ends", False) and saved["epoch"] == loop.epoch
    loop.validated = saved["validated"]
    loop.terminate = saved["terminate"]
    loop.terminated_by = saved["terminated_by"]
    loop.scores_train = _restore_scores(saved["scores_train"])
    loop.scores_valid = _restore_scores(saved["scores_valid"])
    loop.scored_at = saved["scored_at"]
    loop.minimize = saved["minimize"]


def check_saved(saved: Saved, callbacks: Mapping[str, CallbackSet]) -> None:
    """Compare the states of a checkpoint with the callbacks of the run that is to continue it.

    Raises:
        ValueError: When a state is of another class than the callback with its id.
        RuntimeError: When the checkpoint was written by a newer version.
    """
    if saved["version"] > _VERSION:
        raise RuntimeError(
            f"The checkpoint's callback states have version {saved['version']}, but this callbacksets reads up to "
            f"{_VERSION}. Update it: pip install -U callbacksets."
        )
    unknown = [id for id in saved["callbacks"] if id not in callbacks]
    if unknown:
        near = did_you_mean(unknown[0], callbacks)
        rank_zero_warn(
            f"The checkpoint has states of {listed(unknown)}, which are no callbacks of this run and stay unused."
            f"{near} This run has {listed(callbacks)}."
        )
    for id, entry in saved["callbacks"].items():
        if id in callbacks and type(callbacks[id]).__name__ != entry["cls"]:
            raise ValueError(
                f"The checkpoint's state of {id!r} is of a {entry['cls']}, but in this run {id!r} is a "
                f"{type(callbacks[id]).__name__}. Resume with the callbacks the checkpoint was written with, or give "
                "the new one an id of its own."
            )


def unloadable(state: object) -> Iterator[str]:
    """The paths inside a state of what `torch.load(..., weights_only=True)` refuses."""
    return _unloadable(state, "")


def _unloadable(value: object, path: str) -> Iterator[str]:
    # tensors are not looked into, and what is not known to be plain is asked of torch itself
    if type(value) in _PLAIN or is_part(value):
        return
    if type(value) in (dict, OrderedDict):
        for key, item in cast(Mapping[object, object], value).items():
            if type(key) not in _PLAIN and not _loads(key):
                yield f"{path}[{key!r}] (the key, a {type(key).__name__})"
            yield from _unloadable(item, f"{path}[{key!r}]")
    elif type(value) in (list, tuple):
        for position, item in enumerate(cast(Sequence[object], value)):
            yield from _unloadable(item, f"{path}[{position}]")
    elif not _loads(value):
        yield f"{path} (a {type(value).__module__}.{type(value).__qualname__})".lstrip()


def _loads(value: object) -> bool:
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:  # whatever it is, a checkpoint with this value in it does not load
        return False
    return True


def read_states(checkpoint: str | os.PathLike[str] | Mapping[str, Any], *, weights_only: bool = True) -> dict[str, Any]:
    """The states of the callbacks in a Lightning checkpoint, by id; no Trainer is needed.

    Example:
        >>> from callbacksets import read_states
        >>> read_states({"state_dict": {}, "callbacks": {}})
        {}

    Args:
        checkpoint: The path of a checkpoint (a file, or the folder of a sharded one), or a checkpoint already loaded.
        weights_only: As for `torch.load`. False for a file one trusts whose states hold other types than numbers,
            strings, tensors and collections of these.

    Raises:
        FileNotFoundError: When there is no such checkpoint.
        TypeError: For what is neither, as None, which `latest_checkpoint()` gives for a folder without one.
        ValueError: When it is no Lightning checkpoint, or not a whole one.

    mlr3torch: `learner$model$callbacks` of a checkpoint.
    """
    loaded = checkpoint if isinstance(checkpoint, Mapping) else _load(checkpoint, weights_only)
    if not isinstance(loaded, Mapping) or not {"callbacks", "state_dict", "loops"} & set(loaded):
        raise ValueError(f"Expected checkpoint to be one of a Lightning Trainer's but got {_what(checkpoint)}.")
    saved: Saved = loaded.get("callbacks", {}).get(KEY, nothing_saved())
    return {id: copy.deepcopy(entry["state"]) for id, entry in saved["callbacks"].items()}


def _load(checkpoint: Any, weights_only: bool) -> Any:
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(f"Expected checkpoint to be the path of a checkpoint, or a loaded one, but got {checkpoint!r}.")
    path = Path(checkpoint)
    if path.is_dir():
        # a sharded checkpoint is a folder, with all that is no shard in `meta.pt`
        if not (path / "meta.pt").exists():
            raise ValueError(
                f"Expected checkpoint to be one of a Lightning Trainer's but got {_what(path)}. "
                "Of a folder of checkpoints, latest_checkpoint(path) finds the newest."
            )
        path = path / "meta.pt"
    try:
        return torch.load(path, map_location="cpu", weights_only=weights_only)
    except (pickle.UnpicklingError, KeyError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"Expected checkpoint to be one of a Lightning Trainer's but {_what(path)}: {error}"
        ) from error


def _what(checkpoint: Any) -> str:
    if isinstance(checkpoint, Mapping):
        return f"a mapping with {listed(map(str, checkpoint))}"
    return f"the {'folder' if Path(checkpoint).is_dir() else 'file'} {checkpoint}"


def _save_scores(scores: Scores | None) -> dict[str, Any] | None:
    return None if scores is None else {"values": dict(scores), "logged": dict(scores.logged)}


def _restore_scores(saved: Mapping[str, Any] | None) -> Scores | None:
    return None if saved is None else Scores(saved["values"], logged=saved["logged"])
