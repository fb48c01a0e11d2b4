"""The adapter's part of a checkpoint: the states of the callbacks, and the position of training."""

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
from callbacksets.fit import lightning
from callbacksets.fit.context import ContextTorch
from callbacksets.fit.limits import may_stop
from callbacksets.fit.loop import Moment
from callbacksets.fit.plain import copied, kept
from callbacksets.fit.random_state import Ranks, SavedRandom
from callbacksets.fit.reader import as_scores
from callbacksets.scores import Scores

if TYPE_CHECKING:
    from callbacksets.fit.fit import Fit

KEY = "CallbackSetAdapter"
"""The key of the adapter's part in Lightning's checkpoints: `checkpoint["callbacks"][KEY]`."""

_VERSION = 2
_KEPT = ("on_epoch_begin", "on_before_valid", "on_valid_end", "on_epoch_end")
"""The stages whose moments a checkpoint keeps. A batch or validation that was interrupted runs again."""

_FINISHED = (*_KEPT, "on_batch_end")
"""The stages that Lightning does not repeat if a callback saves in the middle of one."""


class SavedState(TypedDict):
    """The state of one callback, with the name of its class."""

    cls: str
    state: Any


class SavedLoop(TypedDict):
    """The position of training."""

    now: Moment
    ran: dict[str, Moment]
    to_come: tuple[str, list[str]]  # the stage in which a callback saved, and the ids of callbacks that had not run it
    last_loss: float | None
    terminate: bool
    terminated_by: tuple[str | None, str] | None
    scores_train: dict[str, Any] | None
    scores_valid: dict[str, Any] | None
    minimize: dict[str, bool | None]
    data: dict[str, Any]


class Saved(TypedDict):
    """The adapter's part of a checkpoint."""

    version: int
    callbacksets: str  # the version of the package that wrote it
    begun: bool  # the run had begun; otherwise this only passes on the data that the run resumed from
    exact: bool  # the network is as the last stage of training left it
    loop: SavedLoop | None
    callbacks: dict[str, SavedState]
    random: SavedRandom | Ranks | None  # of this rank, in a checkpoint of all ranks; None if not kept


def nothing_saved() -> Saved:
    """The data of a run that has not begun and resumes no other."""
    return _saved(begun=False, loop=None, callbacks={})


def save(fit: "Fit", failures: list[BaseException] | None = None) -> Saved:
    """The data that a checkpoint written now keeps.

    A callback that has not begun is not asked for its state. Its loaded state is passed on.

    Args:
        fit: The fit.
        failures: A list for the exceptions of states, so that a failing state does not prevent the others; None to
            raise them.
    """
    if not fit.loop.begun:
        return fit.given or nothing_saved()
    begins = fit.loop.stage == "on_begin"
    waiting = [fit.loop.caller, *fit.dispatch.to_come()] if begins and fit.loop.caller is not None else []
    given = fit.given["callbacks"] if fit.given is not None else {}
    callbacks: dict[str, SavedState] = {}
    for id, callback in fit.sets.items():
        if id in fit.stateless:  # its state_dict() has failed before, and that was reported
            continue
        if id in waiting:  # it has not run on_begin yet
            callbacks |= {id: given[id]} if id in given else {}
            continue
        try:
            state, unloadable = kept(fit.dispatch.noting(callback.state_dict, id, "state_dict"))
        except BaseException as error:
            fit.stateless.add(id)
            if failures is None:
                raise
            failures.append(error)
            continue
        if state is not None:
            callbacks[id] = {"cls": type(callback).__name__, "state": state}
            _warn_of_unloadable(fit, id, unloadable)
    random = None if fit.random is None else fit.random.save()
    return _saved(begun=True, loop=_save_loop(fit), callbacks=callbacks, random=random)


def _warn_of_unloadable(fit: "Fit", id: str, paths: list[str]) -> None:
    for path in paths:
        if f"{id}{path}" not in fit.warned:
            fit.warned.add(f"{id}{path}")
            rank_zero_warn(
                f"The state of callback {id!r} has a value at {path} that torch.load(..., weights_only=True) refuses, "
                "so a Trainer cannot resume from the checkpoint. Return only numbers, strings, tensors, and lists, "
                "tuples, dicts and sets of these."
            )


def _saved(
    *, begun: bool, loop: SavedLoop | None, callbacks: dict[str, SavedState], random: SavedRandom | None = None
) -> Saved:
    return {
        "version": _VERSION,
        "callbacksets": version("callbacksets"),
        "begun": begun,
        "exact": True,
        "loop": loop,
        "callbacks": callbacks,
        "random": random,
    }


def _save_loop(fit: "Fit") -> SavedLoop:
    loop, ctx = fit.loop, fit.ctx
    if _has_batch_to_end(fit):
        fit.step.end()
    # a stop that was requested and has not happened yet; a stop that has happened does not concern a resumed run
    is_looked_at = not loop.in_epoch or (fit.stops_at_validation and loop.ran_now("on_valid_end"))
    pending = loop.terminate and loop.stopped_by is None and not (is_looked_at and may_stop(ctx.trainer, loop))
    return {
        "now": loop.now,
        "ran": {stage: loop.ran[stage] for stage in _KEPT if stage in loop.ran},
        "to_come": _to_come(fit),
        "last_loss": ctx.last_loss,
        "terminate": pending,
        "terminated_by": loop.terminated_by,
        "scores_train": _save_scores(_scores_train(fit)),
        # an interrupted validation runs again or is lost, so the scores of the validation before do not count
        "scores_valid": None if loop.in_validation else _save_scores(ctx.last_scores_valid),
        # a resumed run has no sanity check from which to know the measures
        "minimize": dict(loop.minimize),
        "data": data_of(ctx),
    }


def _to_come(fit: "Fit") -> tuple[str, list[str]]:
    """The stage that a resumed run has to finish, and the callbacks that have not run it."""
    if _has_batch_to_end(fit):
        return "on_batch_end", list(fit.sets)
    stage = fit.loop.stage
    return (stage, fit.dispatch.to_come()) if stage in _FINISHED else ("", [])


def _has_batch_to_end(fit: "Fit") -> bool:
    """Whether a batch was trained but its end is missing, because another Lightning callback failed there.

    Lightning considers such a batch complete.
    """
    loop = fit.loop
    if not loop.in_batch or loop.ran_now("on_before_valid") or loop.ran_now("on_epoch_end"):
        return False  # a module that skips the rest of an epoch leaves a batch without an end
    return loop.caller is None and lightning.takes_batch_for_done(fit.trainer)


def _scores_train(fit: "Fit") -> Scores | None:
    """The training scores, also if all batches of the epoch were trained and only a resumed run will end the epoch."""
    is_scored = fit.loop.ran_now("on_before_valid") or not fit.loop.in_epoch
    has_all = lightning.is_processed(fit.trainer) and lightning.has_all_batches(fit.trainer)
    if is_scored or not has_all or (fit.trainer.interrupted and fit.trainer.world_size > 1):
        return fit.ctx.last_scores_train
    return as_scores(fit.reader.train(in_epoch=True))


def data_of(ctx: ContextTorch) -> dict[str, Any]:
    """The lengths of the data. A resumed run should have the same. None if a length is unknown."""
    return {
        "training samples": _length(ctx.task_train),
        "training batches": _number(ctx.trainer.num_training_batches),
        "validation samples": _length(ctx.task_valid),
        "validation batches": _number(sum(ctx.trainer.num_val_batches)),
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
    if saved["version"] == 1:
        loop = _from_version_1(saved["loop"]) if saved["begun"] else None
        return cast(Saved, {**saved, "version": _VERSION, "callbacksets": "0.1.0", "loop": loop, "random": None})
    return cast(Saved, saved)


def _from_version_1(loop: Mapping[str, Any]) -> SavedLoop:
    """Version 1 had flags for the position of training."""
    now, before = (loop["epoch"], loop["global_step"]), (loop["epoch"] - 1, -1)
    ran = {"on_epoch_begin": now if loop["epoch"] else before, "on_epoch_end": before if loop["in_epoch"] else now}
    if loop["validated"] or loop.get("epoch_ends"):
        ran["on_before_valid"] = (loop["epoch"], loop["scored_at"])
    if loop["validated"] and loop["scores_valid"] is not None:
        ran["on_valid_end"] = (loop["epoch"], loop["scored_at"])
    same = ("last_loss", "terminate", "terminated_by", "scores_train", "scores_valid", "minimize")
    return cast(SavedLoop, {"now": now, "ran": ran, "to_come": ("", []), "data": {}} | {key: loop[key] for key in same})


def check_saved(saved: Saved, callbacks: Mapping[str, CallbackSet], max_epochs: int | None) -> None:
    """Compare a checkpoint with the run that resumes it.

    Raises:
        ValueError: If a state belongs to another class than the callback with its id, or if the checkpoint has more
            epochs than the run.
    """
    epoch = saved["loop"]["now"][0] if saved["loop"] is not None else 0
    if max_epochs is not None and 0 <= max_epochs < epoch:
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
    for id, entry in saved["callbacks"].items():
        if id in callbacks and type(callbacks[id]).__name__ != entry["cls"]:
            raise ValueError(
                f"The state of {id!r} in the checkpoint belongs to a {entry['cls']}, but in this run {id!r} is a "
                f"{type(callbacks[id]).__name__}. Resume with the callbacks of the checkpoint, or give the new one "
                "another id."
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
        raise ValueError(f"Expected checkpoint to be a checkpoint of Lightning but got {_what(checkpoint)}.")
    saved: Saved = loaded.get("callbacks", {}).get(KEY, nothing_saved())
    return {id: copied(entry["state"]) for id, entry in saved["callbacks"].items()}


def _load(checkpoint: Any, weights_only: bool) -> Any:
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(
            f"Expected checkpoint to be the path of a checkpoint or a loaded checkpoint but got {shown(checkpoint)}."
        )
    path = Path(checkpoint)
    if path.is_dir():
        # a sharded checkpoint is a folder; `meta.pt` contains everything except the shards
        if not (path / "meta.pt").exists():
            raise ValueError(
                f"Expected checkpoint to be a checkpoint of Lightning but got {_what(path)}. "
                "latest_checkpoint(path) finds the newest checkpoint in a folder."
            )
        path = path / "meta.pt"
    try:
        return torch.load(path, map_location="cpu", weights_only=weights_only)
    except pickle.UnpicklingError as error:
        if weights_only and "weights_only" in str(error).lower():  # torch has read it, and refuses a type in it
            raise ValueError(
                f"{_what(path).capitalize()} contains types that weights_only=True does not allow, perhaps as "
                f"hyperparameters. If you trust it: read_states(..., weights_only=False). torch says: {error}"
            ) from error
        raise _is_no_checkpoint(path, error) from error
    except (KeyError, EOFError, RuntimeError) as error:
        raise _is_no_checkpoint(path, error) from error


def _is_no_checkpoint(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"Expected checkpoint to be a checkpoint of Lightning but got {_what(path)}, which cannot be read: {error}"
    )


def _what(checkpoint: Any) -> str:
    if isinstance(checkpoint, Mapping):
        return f"a mapping with {listed(map(str, checkpoint))}"
    return f"the {'folder' if Path(checkpoint).is_dir() else 'file'} {checkpoint}"


def _save_scores(scores: Scores | None) -> dict[str, Any] | None:
    return None if scores is None else {"values": dict(scores), "logged": dict(scores.logged)}


def restore_scores(saved: Mapping[str, Any] | None) -> Scores | None:
    return None if saved is None else Scores(saved["values"], logged=saved["logged"])
