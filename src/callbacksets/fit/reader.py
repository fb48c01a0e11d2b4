"""Reading the scores of a fit: the values that the LightningModule logged for an epoch."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torchmetrics import Metric

from callbacksets.checks import listed
from callbacksets.fit.lightning import logged_values
from callbacksets.fit.random_state import collect, restore, with_lists
from callbacksets.scores import Measures, Scores, short_name

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


@dataclass
class Reading:
    """The logged values at one moment. They are copied from the device only when somebody reads them."""

    values: dict[str, torch.Tensor] = field(default_factory=dict)
    logged: dict[str, str] = field(default_factory=dict)

    @property
    def scores(self) -> Scores:
        return Scores({name: value.item() for name, value in self.values.items()}, logged=self.logged)


@dataclass
class Later(Reading):
    """Values that are computed when somebody first reads them."""

    read: Callable[[], Reading] = Reading
    keys: frozenset[str] = frozenset()  # of what had been logged until then

    @property
    def scores(self) -> Scores:
        return self.read().scores


def as_scores(read: Reading | Scores | None) -> Scores | None:
    """The scores of a reading, copied from the device now."""
    return read.scores if isinstance(read, Reading) else read


class ScoreReader:
    """Reads the scores of one fit. It warns once about each logged value that cannot be a score, with the reason."""

    def __init__(self, trainer: "Trainer") -> None:
        self._trainer = trainer
        self._said: set[str] = set()
        self._seen: set[str] = set()

    def train_scores(self, *, in_epoch: bool = False, keys: Collection[str] | None = None) -> Reading | Scores:
        """The training scores of the batches so far. Inside an epoch these may be too few for a metric.

        There they are computed when somebody reads them. With several ranks, all have to compute at the same time.

        Args:
            in_epoch: Whether the epoch goes on.
            keys: The keys of the values to read; by default all that have been logged.
        """
        if in_epoch and self._trainer.world_size == 1:
            self._explain_steps(values := logged_values(self._trainer, "train"))
            return self.later(values)
        return self._agreed(self._read("train", in_epoch, keys))

    def later(self, keys: Iterable[str]) -> Later:
        """The training scores of these keys, at the moment at which somebody reads them."""
        keys = frozenset(keys)
        return Later(read=partial(self._read, "train", True, keys), keys=keys)

    def valid_scores(self) -> Reading | Scores:
        """The validation scores. Call it before `on_validation_end` returns; then Lightning clears them."""
        return self._agreed(self._read("valid"))

    def measures(self, loop: str) -> tuple[Measures, dict[str, bool | None]]:
        """The measures that are logged in a loop, without computing them, and whether lower is better, if known."""
        entries = _for_epoch(logged_values(self._trainer, loop))
        names = self._short(entries)
        metrics = dict(zip(names, map(_metric, entries), strict=True))
        logged = dict(zip(map(_full_name, entries), names, strict=True))
        minimize = directions(metrics)
        if self._trainer.world_size > 1:  # all ranks must make the same decisions
            names, logged, minimize = self._trainer.strategy.broadcast((names, logged, minimize))
        return Measures({name: metrics.get(name) for name in names}, logged=logged), minimize

    def explain_late(self) -> None:
        """Call it after an epoch has ended: warn about values that were logged too late for a score."""
        for entry in logged_values(self._trainer, "train").values():
            name, meta = _full_name(entry), entry.meta
            if meta.fx == "on_train_epoch_end" and meta.on_epoch and name not in self._seen:
                self._say_once(
                    meta.name,
                    "is logged in on_train_epoch_end, after the scores were read, so it is not a score. In a module, "
                    "log it in training_step(), with on_epoch=True, or in on_validation_epoch_end(). In a CallbackSet, "
                    f"add it in on_before_valid: self.ctx.last_scores_train[{meta.name!r}] = ... .",
                )

    def _read(self, loop: str, may_fail: bool = False, keys: Collection[str] | None = None) -> Reading:
        """Read, and draw nothing: a metric that draws does so again when Lightning computes it."""
        drawn = collect(self._trainer)
        values = logged_values(self._trainer, loop)
        reading = self._compute({key: values[key] for key in values if keys is None or key in keys}, may_fail)
        if with_lists(collect(self._trainer)) != with_lists(drawn):
            restore(self._trainer, drawn)
            for entry in values.values():
                entry._computed = None
                if not entry.is_tensor:
                    entry.value._computed = None
        return reading

    def _compute(self, collection: Mapping[str, Any], may_fail: bool) -> Reading:
        self._explain_steps(collection)
        entries = _for_epoch(collection)
        reading = Reading()
        for name, entry in zip(self._short(entries), entries, strict=True):
            # Both results are cached until the next update, so that Lightning does not compute them again. A metric has
            # its own updates: it may be logged once and updated in every batch.
            try:
                value = entry.compute() if entry.is_tensor else entry.value.compute()
            except Exception as error:
                if not may_fail:
                    raise
                if getattr(entry.value, "_is_synced", False):
                    entry.value.unsync()  # torchmetrics does not do it after an error
                self._say_once(_full_name(entry), f"could not be computed, so it is not a score: {error}")
                continue
            if not (isinstance(value, torch.Tensor) and value.numel() == 1):
                self._say_once(_full_name(entry), "is not a single number, so it is not a score.")
                continue
            # a metric may return its own state, which the next epoch changes
            reading.values[name] = value.detach().clone()
            reading.logged[_full_name(entry)] = name
            self._seen.add(_full_name(entry))
        return reading

    def _agreed(self, reading: Reading) -> Reading | Scores:
        """The scores of rank zero on every rank, so that all ranks make the same decisions."""
        if self._trainer.world_size == 1:
            return reading
        scores = reading.scores
        agreed: tuple[dict[str, float], dict[str, str]]
        agreed = self._trainer.strategy.broadcast((dict(scores), scores.logged))
        return Scores(agreed[0], logged=agreed[1])

    def _short(self, entries: Collection[Any]) -> list[str]:
        """The short names, without the loop. Names that would become equal keep their full form."""
        full = [_full_name(entry) for entry in entries]
        names = [_short_name(entry) for entry in entries]
        while twice := {name for name in names if names.count(name) > 1}:
            clash = [name for name, stripped in zip(full, names, strict=True) if stripped in twice]
            if self._unsaid(" ".join(clash)):
                rank_zero_warn(
                    f"{listed(clash)} have the same short name {listed(sorted(twice))}, so their scores keep the full "
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
                    "is logged per step only, so it is not a score. Log it for the epoch: "
                    "self.log(..., on_epoch=True).",
                )

    def _say_once(self, name: str, what: str) -> None:
        if self._unsaid(name):
            rank_zero_warn(f"{name!r} {what}")

    def _unsaid(self, what: str) -> bool:
        unsaid = what not in self._said
        self._said.add(what)
        return unsaid


def directions(measures: Mapping[str, Metric | None]) -> dict[str, bool | None]:
    """Whether lower is better, for the measures whose metric tells."""
    higher = {name: getattr(metric, "higher_is_better", None) for name, metric in measures.items()}
    return {name: not is_better for name, is_better in higher.items() if is_better is not None}


def _for_epoch(collection: Mapping[str, Any]) -> Collection[Any]:
    # Values of an earlier epoch, or of a fit of another module, stay in the collection with `has_reset`. A name that is
    # logged in two hooks appears twice; the later value counts, as in `trainer.callback_metrics`.
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
