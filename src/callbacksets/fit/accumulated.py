"""What accumulates over the batches of an epoch: logged values, torchmetrics objects, and gradients for the next step.

Lightning does not save it. So a checkpoint that is written inside an epoch keeps it, for every rank.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torchmetrics import Metric

from callbacksets.fit import lightning, random_state
from callbacksets.fit.position import Continuation
from callbacksets.fit.random_state import with_lists

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class Accumulated(TypedDict):
    """What has accumulated on one rank."""

    logged: dict[str, Any]
    metrics: dict[str, Any]
    gradients: dict[str, Tensor]


def updates(learner: "LightningModule") -> dict[str, int]:
    """How often each metric has been updated since it was reset."""
    return {name: metric.update_count for name, metric in _metrics(learner)}


def collect(
    trainer: "Trainer",
    learner: "LightningModule",
    *,
    in_epoch: bool,
    in_step: bool = False,
    before: Mapping[str, int] | None = None,
) -> Accumulated:
    """What has accumulated on this rank so far.

    Args:
        trainer: The Trainer.
        learner: The module.
        in_epoch: Whether an epoch is under way. Otherwise only metrics count that live over epochs. Lightning does not
            know these: it resets those that are logged.
        in_step: Whether a step is under way. Its gradients cannot be told from those of the steps before.
        before: In a validation, the `updates()` from before. It runs again, so what it has accumulated does not count.
    """
    entries = lightning.logged_values(trainer, "train").items()
    of_training = {id(entry.value) for _, entry in entries}
    of_validation = {id(entry.value) for entry in lightning.logged_values(trainer, "valid").values()}

    def is_kept(name: str, metric: Metric) -> bool:
        if in_epoch and id(metric) in of_training:
            return True
        is_of_rest = id(metric) not in of_training | of_validation
        return is_of_rest and (before is None or metric.update_count == before.get(name))

    metrics = {
        name: {"count": metric.update_count, "states": _to(metric.metric_state, "cpu")}
        for name, metric in _metrics(learner)
        if metric.update_count and is_kept(name, metric)
    }
    has_gradients = in_epoch and not in_step and lightning.is_window_open(trainer)
    parameters = learner.named_parameters() if has_gradients and lightning.has_whole_weights(trainer) else ()
    return {
        "logged": {key: _saved(entry) for key, entry in entries if in_epoch and not entry.has_reset},
        "metrics": metrics,
        "gradients": {name: _to(one.grad, "cpu") for name, one in parameters if one.grad is not None},
    }


def restore(
    trainer: "Trainer",
    learner: "LightningModule",
    saved: Accumulated,
    to: Continuation,
    taps: ExitStack,
    *,
    draws_again: bool,
) -> None:
    """Restore what had accumulated on this rank.

    Args:
        trainer: The Trainer.
        learner: The module.
        saved: What had accumulated.
        to: Where the run goes on.
        taps: The taps of the fit.
        draws_again: Whether a step that runs again draws the same numbers.
    """
    parameters = dict(learner.named_parameters())
    for name, gradient in saved["gradients"].items():
        if name in parameters:
            parameters[name].grad = gradient.to(parameters[name])
    _restore_values(trainer, learner, saved)
    if not to.step_again:
        return
    if len(trainer.optimizers) > 1 or any(isinstance(one, torch.optim.LBFGS) for one in trainer.optimizers):
        rank_zero_warn(
            "The checkpoint was saved inside a step of several optimizers, or of LBFGS. The step runs again, "
            "though a part may be in the weights already. So this run may differ from an uninterrupted one."
        )
    once = taps.enter_context(ExitStack())

    def step(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        once.close()
        before = with_lists(random_state.collect(trainer))
        output = run(*args, **kwargs)
        _restore_values(trainer, learner, saved)  # they contain this step already
        if not draws_again and with_lists(random_state.collect(trainer)) != before:
            rank_zero_warn(
                "The checkpoint was saved inside a step. The step ran again and drew other random numbers, so this run "
                "differs from an uninterrupted one."
            )
        return output

    lightning.tap(once, trainer.strategy, "training_step", step)


def _restore_values(trainer: "Trainer", learner: "LightningModule", saved: Accumulated) -> None:
    for name, metric in _metrics(learner):
        if name in saved["metrics"]:
            one = saved["metrics"][name]
            for state, value in _to(one["states"], metric.device).items():
                setattr(metric, state, value)
            metric._update_count, metric._computed = one["count"], None
    logged = lightning.logged_values(trainer, "train")
    for key, one in saved["logged"].items():
        entry = logged.get(key)
        if entry is None or entry.has_reset:
            entry = lightning.add_logged(trainer, key, one["meta"])
        entry._update_count, entry._computed, entry.has_reset = 1, None, False
        for state, of_entry in (("value", "value"), ("weight", "cumulated_batch_size")):
            if (value := number(one[state], trainer.strategy.root_device)) is not None:
                setattr(entry, of_entry, value)


def _metrics(learner: "LightningModule") -> Iterator[tuple[str, Metric]]:
    return ((name, module) for name, module in learner.named_modules() if isinstance(module, Metric))


def _saved(entry: Any) -> dict[str, Any]:
    weight = getattr(entry, "cumulated_batch_size", None)
    meta = {name: getattr(entry.meta, name) for name in lightning.LOGGED_WITH}
    meta |= {"reduce_fx": entry.meta.reduce_fx.__name__, "sync_dist": entry.meta.sync.should}
    return {"value": of_number(entry.value), "weight": of_number(weight), "meta": meta}


def of_number(value: Any) -> tuple[Any, str] | None:
    return (value.tolist(), str(value.dtype).removeprefix("torch.")) if isinstance(value, Tensor) else None


def number(saved: Any, device: torch.device) -> Tensor | None:
    return None if saved is None else torch.tensor(saved[0], dtype=getattr(torch, saved[1]), device=device)


def _to(value: Any, device: Any) -> Any:
    return apply_to_collection(value, Tensor, lambda one: one.detach().to(device, copy=True))
