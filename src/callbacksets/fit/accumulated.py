"""What accumulates over the batches of an epoch: logged values, torchmetrics objects, and gradients for the next step.

Lightning does not save it. So a checkpoint that is written inside an epoch keeps it, for every rank.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import Metric

from callbacksets.fit import lightning, random_state
from callbacksets.fit.position import Continuation, Point
from callbacksets.fit.random_state import plain

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class Accumulated(TypedDict):
    """What has accumulated on one rank."""

    logged: dict[str, Any]
    metrics: dict[str, Any]
    gradients: dict[str, Tensor]


class Accumulating:
    """What accumulates in one fit, and what a resumed one has not restored yet."""

    def __init__(self, trainer: "Trainer", learner: "LightningModule") -> None:
        self._trainer = trainer
        self._learner = learner
        self._later: Accumulated | None = None
        self._to: Continuation
        self._restored: dict[str, Tensor] = {}

    def collect(self, *, in_step: bool, in_validation: bool) -> Accumulated:
        """What has accumulated so far.

        Args:
            in_step: Whether a step is under way. Its gradients cannot be told from those of the steps before.
            in_validation: Whether a validation is under way. It runs again, so what it has accumulated does not count.
        """
        if self._later is not None:
            return self._later
        trainer, learner = self._trainer, self._learner
        entries = lightning.logged_values(trainer, "train").items()
        of_training = {id(entry.value) for _, entry in entries}
        metrics = {
            name: {"count": metric.update_count, "states": _to(metric.metric_state, "cpu")}
            for name, metric in _metrics(learner)
            if metric.update_count and not (in_validation and id(metric) not in of_training)
        }
        is_kept = lightning.is_window_open(trainer) and not in_step and lightning.has_whole_weights(trainer)
        parameters = learner.named_parameters() if is_kept else ()
        return {
            "logged": {key: _saved(entry) for key, entry in entries if not entry.has_reset},
            "metrics": metrics,
            "gradients": {name: one.grad.cpu() for name, one in parameters if one.grad is not None},
        }

    def restore(self, saved: Accumulated, to: Continuation, taps: ExitStack) -> None:
        """Restore it. Logged values follow after the first step, which may log them with other arguments now.

        Args:
            saved: What had accumulated.
            to: Where the run goes on.
            taps: The taps of the fit.
        """
        parameters = dict(self._learner.named_parameters())
        for name, gradient in saved["gradients"].items():
            if name in parameters:
                parameters[name].grad = gradient.to(parameters[name])
        if not to.step_again:
            self._restore_metrics(saved)
        if to.point is not Point.BATCH:
            self._restore_logged(saved, to)
        if to.has_all:
            return
        # Lightning forgets what it has when the first batch of a loop logs, so the values are restored after that
        self._later, self._to = saved, to

        def step(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if (later := self._later) is None:
                return run(*args, **kwargs)
            before = plain(random_state.collect(self._trainer))
            output = run(*args, **kwargs)
            self._later = None
            if to.step_again and to.batch:
                self._restore_metrics(later)
                if plain(random_state.collect(self._trainer)) != before:
                    rank_zero_warn(
                        "The checkpoint was saved inside a step. The step ran again and drew other random numbers, so "
                        "this run differs from an uninterrupted one."
                    )
            self._restore_logged(later, to)
            return output

        lightning.tap(taps, self._trainer.strategy, "training_step", step)

    def finish(self) -> None:
        """Scores are read next: restore logged values, although no step has run."""
        if (later := self._later) is None:
            return
        if self._to.point is Point.VALIDATION and lightning.batch_progress(self._trainer).total.ready == self._to.batches:
            return  # they are restored, and again after the first step
        self._later = None
        self._restore_logged(later, self._to)

    def _restore_metrics(self, saved: Accumulated) -> None:
        for name, metric in _metrics(self._learner):
            if name in saved["metrics"]:
                one = saved["metrics"][name]
                for state, value in _to(one["states"], metric.device).items():
                    setattr(metric, state, value)
                metric._update_count, metric._computed = one["count"], None

    def _restore_logged(self, saved: Accumulated, to: Continuation) -> None:
        trainer = self._trainer
        values = lightning.logged_values(trainer, "train")
        for key, one in saved["logged"].items():
            value, weight = (number(one[name], trainer.strategy.root_device) for name in ("value", "weight"))
            entry = values.get(key)
            if entry is None or entry.has_reset:
                entry = lightning.add_logged(trainer, key, one["meta"])
            elif key in self._restored and entry.value is self._restored[key]:
                continue  # restored before the first batch, and not logged by it
            elif to.step_again and not to.batch:
                continue  # only this first step had logged it
            elif value is not None and not to.step_again:  # else the value saved inside the step has it already
                is_total = entry.meta.reduce_fx in (torch.mean, torch.sum)
                value = value + entry.value if is_total else entry.meta.reduce_fx(value, entry.value)
                weight = None if weight is None else weight + entry.cumulated_batch_size
            entry._update_count, entry._computed, entry.has_reset = 1, None, False
            if value is not None:
                entry.value = self._restored[key] = value
            if weight is not None:
                entry.cumulated_batch_size = weight


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
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, list):
        return [_to(item, device) for item in value]
    return {name: _to(item, device) for name, item in value.items()}
