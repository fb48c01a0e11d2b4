"""The adapter's part of a checkpoint: its format, and reading it."""

import os
import pickle
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn

from callbacksets.base import CallbackSet
from callbacksets.checks import did_you_mean, listed, shown
from callbacksets.fit.accumulated import Accumulated
from callbacksets.fit.plain import copied
from callbacksets.fit.position import Moment
from callbacksets.fit.random_state import SavedRandom
from callbacksets.scores import Scores

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

KEY = "CallbackSetAdapter"
"""The key of the adapter's part in Lightning's checkpoints: `checkpoint["callbacks"][KEY]`."""

_VERSION = 3


class SavedState(TypedDict):
    """The state of one callback, with the name of its class."""

    cls: str
    state: Any


class SavedLoop(TypedDict):
    """The position of training, and what was counted and read."""

    now: Moment
    ran: dict[str, Moment]
    to_come: tuple[str, list[str]]  # the stage that was interrupted, and the ids of callbacks that had not run it
    validates: bool  # a validation is due, or under way
    rest: bool  # Lightning has not done what follows the hooks of the last batch
    has_all: bool | None  # the last batch of the epoch has at least been announced; None if unknown
    in_step: bool  # the step of a batch has run, perhaps in part
    last_loss: float | None
    terminate: bool
    terminated_by: tuple[str | None, str] | None
    scores_train: dict[str, Any] | None
    unread: list[str] | None  # the keys of the training scores that nobody has read yet
    scores_valid: dict[str, Any] | None
    minimize: dict[str, bool | None]
    published: dict[str, float]
    reloads: list[int | None] | None
    data: dict[str, Any]


class SavedRank(TypedDict):
    """What each rank keeps for itself."""

    random: SavedRandom | None
    ahead: list[Any] | None  # batches that had been read and not trained: see `Data.read_ahead`
    accumulated: Accumulated | None  # None if an older version wrote it
    metrics: dict[str, tuple[Any, str] | None]  # `trainer.callback_metrics`


class Saved(TypedDict):
    """The adapter's part of a checkpoint."""

    version: int
    callbacksets: str  # the version of the package that wrote it
    begun: bool  # the run had begun; otherwise this only passes on the data that the run resumed from
    exact: bool  # the network is as the last stage of training left it
    loop: SavedLoop | None
    callbacks: dict[str, SavedState]
    ids: list[str] | None  # of all callbacks of the run
    ranks: SavedRank | list[SavedRank | None] | None  # of this rank; of all in a file, None for one out of reach


def saved_now(*, begun: bool = False) -> Saved:
    """The part of a run that has not begun and resumes no other."""
    return {
        "version": _VERSION,
        "callbacksets": version("callbacksets"),
        "begun": begun,
        "exact": True,
        "loop": None,
        "callbacks": {},
        "ids": None,
        "ranks": None,
    }


def data_of(trainer: "Trainer", task_train: Any, task_valid: Any) -> dict[str, Any]:
    """The lengths of the data. A resumed run should have the same. None if a length is unknown."""
    unknown = None if trainer.enable_validation else 0
    return {
        "training samples": _length(task_train),
        "training batches": _number(trainer.num_training_batches),
        "validation samples": _length(task_valid),
        "validation batches": _number(sum(batches)) if (batches := trainer.num_val_batches) else unknown,
    }


def _number(batches: float) -> int | None:
    return None if batches == float("inf") else int(batches)


def _length(task: Any) -> Any:
    if isinstance(task, Mapping):
        return {name: _length(dataset) for name, dataset in task.items()}
    if isinstance(task, list):
        return [_length(dataset) for dataset in task]
    try:
        return len(task)
    except Exception:  # an iterable without a length may raise any error
        return None


def read(saved: Mapping[str, Any]) -> Saved:
    """The adapter's part of a checkpoint, in the current format.

    Raises:
        RuntimeError: If a newer version wrote the checkpoint.
    """
    if saved["version"] > _VERSION:
        raise RuntimeError(
            f"The callback states in the checkpoint have format version {saved['version']}, but this callbacksets "
            f"reads up to version {_VERSION}. Update it: pip install -U callbacksets."
        )
    if saved["version"] == _VERSION:
        return cast(Saved, saved)
    loop = saved["loop"]
    if saved["version"] == 1:
        saved = {**saved, "callbacksets": "0.1.0", "random": None}
        loop = _from_version_1(loop) if saved["begun"] else None
    ranks = saved["random"] and [random and _from_version_2(random) for random in saved["random"]]
    loop = loop and {**_UNKNOWN, "validates": _is_validating(loop["ran"], loop["now"]), **loop}
    return cast(Saved, {**saved, "version": _VERSION, "loop": loop, "ids": None, "ranks": ranks})


_UNKNOWN: dict[str, Any] = {
    "rest": False,
    "has_all": None,
    "in_step": False,
    "published": {},
    "reloads": None,
    "unread": None,
}
"""What older versions did not write."""


def _is_validating(ran: Mapping[str, Moment], now: Moment) -> bool:
    begun, ended = (tuple(ran.get(stage, ())) for stage in ("on_before_valid", "on_valid_end"))
    return begun == tuple(now) != ended


def _from_version_2(random: Mapping[str, Any]) -> SavedRank:
    """Version 2 had another name for the state before the first batch of a run's first epoch."""
    order = random["order"]
    states: SavedRandom = {"now": random["now"], "order": order, "batches": random.get("begun") or order}
    return {"random": states, "ahead": [], "accumulated": None, "metrics": {}}


def _from_version_1(loop: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 had flags for the position of training."""
    now, before = (loop["epoch"], loop["global_step"]), (loop["epoch"] - 1, -1)
    ran = {"on_epoch_begin": now if loop["epoch"] else before, "on_epoch_end": before if loop["in_epoch"] else now}
    if loop["validated"] or loop.get("epoch_ends"):
        ran["on_before_valid"] = (loop["epoch"], loop["scored_at"])
    if loop["validated"] and loop["scores_valid"] is not None:
        ran["on_valid_end"] = (loop["epoch"], loop["scored_at"])
    same = ("last_loss", "terminate", "terminated_by", "scores_train", "scores_valid", "minimize")
    return {"now": now, "ran": ran, "to_come": ("", []), "data": {}} | {key: loop[key] for key in same}


def check_saved(saved: Saved, callbacks: Mapping[str, CallbackSet], max_epochs: int | None, epochs: int) -> None:
    """Compare a checkpoint with the run that resumes it.

    Args:
        saved: Our part of the checkpoint.
        callbacks: The callbacks of the run.
        max_epochs: The number of epochs of the run.
        epochs: The number of epochs in the checkpoint that Lightning takes for complete, and checks itself.

    Raises:
        ValueError: If a state belongs to another class than the callback with its id, or if the checkpoint has more
            epochs than the run.
    """
    epoch = saved["loop"]["now"][0] if saved["loop"] is not None else 0
    if max_epochs is not None and epochs <= max_epochs < epoch and max_epochs >= 0:
        raise ValueError(
            f"The checkpoint was saved in epoch {epoch}, but this run ends after {max_epochs}. To resume it, set "
            f"Trainer(max_epochs=...) to at least {epoch}; max_epochs counts the epochs of the whole run."
        )
    unknown = [id for id in saved["callbacks"] if id not in callbacks]
    if unknown:
        near = did_you_mean(unknown[0], callbacks)
        rank_zero_warn(
            f"The checkpoint has states of callbacks that this run does not have: {listed(unknown)}. They are ignored."
            f"{near} This run has {listed(callbacks)}."
        )
    for id, callback in callbacks.items():
        if saved["ids"] is not None and id not in saved["ids"] and _has_restored_state(callback):
            rank_zero_warn(f"The checkpoint has no state of callback {id!r}, so this callback starts anew.")
    for id, entry in saved["callbacks"].items():
        if id in callbacks and type(callbacks[id]).__name__ != entry["cls"]:
            raise ValueError(
                f"The state of {id!r} in the checkpoint belongs to a {entry['cls']}, but in this run {id!r} is a "
                f"{type(callbacks[id]).__name__}. Resume with the callbacks of the checkpoint, or give the new one "
                "another id."
            )


def _has_restored_state(callback: CallbackSet) -> bool:
    methods = ("state_dict", "load_state_dict")
    return callback.is_restored and all(
        getattr(type(callback), name) is not getattr(CallbackSet, name) for name in methods
    )


def warn_of_other_data(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Warn if the numbers of samples or batches differ. mlr3torch compares the data itself; Lightning cannot."""
    changed = [
        f"{now[what]} {what}, not {before[what]}"
        for what in now
        if None not in (before.get(what), now[what]) and before[what] != now[what]
    ]
    if changed:
        rank_zero_warn(
            f"This run has other data than the run it resumes: {'; '.join(changed)}. Resume with the same data, or the "
            "results will differ from those of an uninterrupted run."
        )


def read_states(checkpoint: str | os.PathLike[str] | Mapping[str, Any], *, weights_only: bool = True) -> dict[str, Any]:
    """Read the states of the callbacks in a Lightning checkpoint, by id. No Trainer is needed.

    Example:
        >>> from callbacksets import read_states
        >>> read_states({"state_dict": {}, "callbacks": {}})
        {}

    Args:
        checkpoint: The path of a checkpoint (a file, or the folder of a sharded checkpoint), or a loaded checkpoint.
        weights_only: As for `torch.load`. Set it to False only for a file that you trust, if its states have other
            types than numbers, strings, tensors and collections of these.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        TypeError: If `checkpoint` is neither a path nor a mapping. This includes None, which `latest_checkpoint()`
            returns for a folder without checkpoints.
        ValueError: If it is not a Lightning checkpoint, or if the file is incomplete.

    mlr3torch: `learner$model$callbacks` of a checkpoint.
    """
    loaded = checkpoint if isinstance(checkpoint, Mapping) else _load(checkpoint, weights_only)
    if not isinstance(loaded, Mapping) or not {"callbacks", "state_dict", "loops"} & set(loaded):
        raise ValueError(f"Expected checkpoint to be a file or checkpoint of Lightning but got {shown(checkpoint)}.")
    saved: Saved = loaded.get("callbacks", {}).get(KEY, saved_now())
    return {id: copied(entry["state"]) for id, entry in saved["callbacks"].items()}


def _load(checkpoint: Any, weights_only: bool) -> Any:
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(
            f"Expected checkpoint to be the path of a checkpoint or a loaded checkpoint but got {shown(checkpoint)}."
        )
    path = Path(checkpoint)
    if path.is_dir():
        path /= "meta.pt"  # a sharded checkpoint is a folder; this file contains everything except the shards
        if not path.exists():
            raise ValueError(
                f"Expected checkpoint to be a checkpoint of Lightning but got the folder {checkpoint}. "
                "latest_checkpoint(path) finds the newest checkpoint in a folder."
            )
    try:
        return torch.load(path, map_location="cpu", weights_only=weights_only)
    except (pickle.UnpicklingError, KeyError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"Expected checkpoint to be a checkpoint of Lightning but the file {path} cannot be read as one. If it has "
            "types that weights_only=True does not allow, and you trust it: read_states(..., weights_only=False). "
            f"torch says: {error}"
        ) from error


def saved_scores(scores: Scores | None) -> dict[str, Any] | None:
    return None if scores is None else {"values": dict(scores), "logged": dict(scores.logged)}


def restored_scores(saved: Mapping[str, Any] | None) -> Scores | None:
    return None if saved is None else Scores(saved["values"], logged=saved["logged"])
