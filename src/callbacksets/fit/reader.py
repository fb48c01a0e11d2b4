"""Reading the scores of a fit: what the LightningModule logged for an epoch, as soon as it can be computed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torchmetrics import Metric

from callbacksets.checks import listed
from callbacksets.fit.lightning import logged_values
from callbacksets.scores import Measures, Scores, short_name

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


@dataclass
class Reading:
    """What was logged, read off at one moment; its values leave the device only when somebody looks at them."""

    values: dict[str, torch.Tensor] = field(default_factory=dict)
    logged: dict[str, str] = field(default_factory=dict)

    @property
    def scores(self) -> Scores:
        return Scores({name: value.item() for name, value in self.values.items()}, logged=self.logged)


def as_scores(read: Reading | Scores | None) -> Scores | None:
    """What was read as numbers, taken off the device now."""
    return read.scores if isinstance(read, Reading) else read


class ScoreReader:
    """Reads the scores of one fit, and says once what cannot be one and why."""

    def __init__(self, trainer: "Trainer") -> None:
        self._trainer = trainer
        self._said: set[str] = set()
        self._seen: set[str] = set()

    def train(self, *, in_epoch: bool = False) -> Reading | Scores:
        """The training scores of the batches so far, which inside an epoch may be too few for a metric."""
        return self._agreed(self._read("train", in_epoch))

    def valid(self) -> Reading | Scores:
        """The validation scores; to be called until `on_validation_end`, after which Lightning empties them."""
        return self._agreed(self._read("valid"))

    def measures(self, loop: str) -> tuple[Measures, dict[str, bool]]:
        """What is logged in a loop, without computing it; and whether lower is better, of those that say it."""
        entries = _for_epoch(logged_values(self._trainer, loop))
        names = self._short(entries)
        metrics = dict(zip(names, map(_metric, entries), strict=True))
        logged = dict(zip(map(_full_name, entries), names, strict=True))
        higher = {name: getattr(metric, "higher_is_better", None) for name, metric in metrics.items()}
        minimize = {name: not is_better for name, is_better in higher.items() if is_better is not None}
        if self._trainer.world_size > 1:  # what is decided by them must be decided alike
            names, logged, minimize = self._trainer.strategy.broadcast((names, logged, minimize))
        return Measures({name: metrics.get(name) for name in names}, logged=logged), minimize

    def explain_own(self) -> None:
        """To be called when `epoch_end` has run: what callbacks have logged in it came too late for a score."""
        for entry in self._late():
            self._say_once(
                entry.meta.name,
                "was logged by a callback in on_epoch_end, too late for a score. Add it to the scores instead: "
                f"self.ctx.last_scores_train[{entry.meta.name!r}] = ... in on_before_valid.",
            )

    def explain_late(self) -> None:
        """To be called after an epoch has ended: what its module logged at its very end came too late for a score."""
        for entry in self._late():
            self._say_once(
                entry.meta.name,
                "is logged in on_train_epoch_end, after the callbacks of the epoch, and so is no score. "
                "Log it in training_step(), with on_epoch=True, or in on_validation_epoch_end().",
            )

    def _late(self) -> list[Any]:
        entries = logged_values(self._trainer, "train").values()
        late = [entry for entry in entries if entry.meta.fx == "on_train_epoch_end" and entry.meta.on_epoch]
        return [entry for entry in late if _full_name(entry) not in self._seen]

    def _read(self, loop: str, may_fail: bool = False) -> Reading:
        collection = logged_values(self._trainer, loop)
        self._explain_steps(collection)
        entries = _for_epoch(collection)
        reading = Reading()
        for name, entry in zip(self._short(entries), entries, strict=True):
            # Both are cached until the next update, so that Lightning does not compute once more. Of a metric that is
            # its own update: it may be logged once and updated in every batch.
            try:
                value = entry.compute() if entry.is_tensor else entry.value.compute()
            except Exception as error:
                if not may_fail:
                    raise
                if getattr(entry.value, "_is_synced", False):
                    entry.value.unsync()  # which torchmetrics leaves undone on an error
                self._say_once(_full_name(entry), f"could not be computed, and so is no score: {error}")
                continue
            if not (isinstance(value, torch.Tensor) and value.numel() == 1):
                self._say_once(_full_name(entry), "is not a single number and so is no score.")
                continue
            # a metric may hand out its own state, which the next epoch changes
            reading.values[name] = value.detach().clone()
            reading.logged[_full_name(entry)] = name
            self._seen.add(_full_name(entry))
        return reading

    def _agreed(self, reading: Reading) -> Reading | Scores:
        """Rank zero's scores on every rank: what is decided by them must be decided alike."""
        if self._trainer.world_size == 1:
            return reading
        scores = reading.scores
        agreed: tuple[dict[str, float], dict[str, str]]
        agreed = self._trainer.strategy.broadcast((dict(scores), scores.logged))
        return Scores(agreed[0], logged=agreed[1])

    def _short(self, entries: Collection[Any]) -> list[str]:
        """The names less the loop in which they were logged, but for those that would fall together."""
        full = [_full_name(entry) for entry in entries]
        names = [_short_name(entry) for entry in entries]
        while twice := {name for name in names if names.count(name) > 1}:
            clash = [name for name, stripped in zip(full, names, strict=True) if stripped in twice]
            if self._unsaid(" ".join(clash)):
                rank_zero_warn(
                    f"{listed(clash)} would all be called {listed(sorted(twice))} as scores, so they keep their full "
                    "names. Log them under names that differ in more than train and val."
                )
            names = [name if name in clash else stripped for name, stripped in zip(full, names, strict=True)]
        return names

    def _explain_steps(self, collection: Mapping[str, Any]) -> None:
        for_epoch = {entry.meta.name for entry in collection.values() if entry.meta.on_epoch}
        for entry in collection.values():
            if not entry.meta.on_epoch and entry.meta.name not in for_epoch:
                self._say_once(
                    entry.meta.name,
                    "is logged per step only and so is no score. Log it for the epoch: self.log(..., on_epoch=True).",
                )

    def _say_once(self, name: str, what: str) -> None:
        if self._unsaid(name):
            rank_zero_warn(f"{name!r} {what}")

    def _unsaid(self, what: str) -> bool:
        unsaid = what not in self._said
        self._said.add(what)
        return unsaid


def _for_epoch(collection: Mapping[str, Any]) -> Collection[Any]:
    # What was logged in an earlier epoch, or in a fit of another module, stays in the collection as `has_reset`. A name
    # logged in two hooks stands there twice, and as in `trainer.callback_metrics` the later one counts.
    entries = (entry for entry in collection.values() if entry.meta.on_epoch and not entry.has_reset)
    return {_full_name(entry): entry for entry in entries}.values()


def _metric(entry: Any) -> Metric | None:
    return None if entry.is_tensor else entry.value


def _full_name(entry: Any) -> str:
    return f"{entry.meta.name}{_loader_suffix(entry)}"


def _short_name(entry: Any) -> str:
    return f"{short_name(entry.meta.name)}{_loader_suffix(entry)}"


def _loader_suffix(entry: Any) -> str:
    if entry.meta.dataloader_idx is None or not entry.meta.add_dataloader_idx:
        return ""
    return f"/dataloader_idx_{entry.meta.dataloader_idx}"
