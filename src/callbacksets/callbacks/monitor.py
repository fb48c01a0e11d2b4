"""Which validation score a callback monitors, and whether lower is better."""

import math
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from callbacksets.base import CallbackSet
from callbacksets.checks import did_you_mean, listed
from callbacksets.fit.context import ContextTorch
from callbacksets.scores import ByName, Scores, by_name, short_name


def has_validation(ctx: ContextTorch) -> bool:
    """Whether this fit has validation batches, as far as is known."""
    batches = ctx.trainer.num_val_batches
    return ctx.trainer.enable_validation and (not batches or any(batches))  # empty before the loaders are set up


@dataclass(frozen=True)
class Monitor:
    """Which validation score a callback monitors, and whether lower is better.

    The first validation of a fit decides. The sanity check does not, because a module may log other scores there. A
    monitor never changes: its methods return another one.

    Attributes:
        user: The name of the callback, as the first words of a message.
        monitor: The name of the score: short, as logged, or as Lightning's callbacks see it. None means the score of
            the resumed run, else the first score.
        mode: `"min"`, `"max"`, or None for the direction that `ctx.minimize()` returns.
        measure: The name of the monitored score; None if there is none yet. A resumed run starts with that of its
            checkpoint.
        minimize: Whether lower is better; None before the first validation of a fit.
        expected: The name that the sanity check makes probable.
    """

    user: str
    monitor: str | None = None
    mode: str | None = None
    measure: str | None = None
    minimize: bool | None = None
    expected: str | None = None

    def begin(self, callback: CallbackSet) -> "Monitor":
        """The monitor at the beginning of a fit. What the sanity check has logged may show a mistake early.

        Raises:
            RuntimeError: If the score has almost the name of a score of the sanity check, if it is not that of the
                resumed run, or if it is unknown for all possible scores whether lower or higher is better.
        """
        ctx, known = callback.ctx, callback.ctx.measures_valid
        name = self._find(known) if known else None
        if name is not None and self.monitor is not None:
            self._choose(ctx, name)
        elif name is not None and self.mode is None and all(ctx.minimize(one) is None for one in known):
            raise self._no_direction(name)
        elif known and name is None and self._is_near(known) and not _others_add_scores(callback):
            raise self._no_score(known)
        return replace(self, minimize=None, expected=name or self.expected)

    def read(self, ctx: ContextTorch) -> tuple["Monitor", float | None, Scores]:
        """The monitor, the monitored score and all scores after a validation.

        If the monitored score is missing, it warns and the score is None.

        Raises:
            RuntimeError: In the first validation of a fit, if the score does not exist, if it is not that of the
                resumed run, or if it is unknown whether lower or higher is better.
        """
        scores = _scores(ctx)
        chosen = self
        if self.minimize is None and not self._awaits(scores):  # the first validation of this fit
            if not scores:
                raise RuntimeError(
                    f"{self.user} needs a validation score, but the module logs none. Log a score for the epoch in "
                    "validation_step(): self.log('val_loss', loss)."
                )
            if (name := self._find(scores)) is None:
                raise self._no_score(scores)
            chosen = self._choose(ctx, name)
            if self.monitor is None and self.measure is None and len(scores) > 1:
                first = f"{self.user} monitors {name!r}, the first of {listed(scores)}."
                rank_zero_info(f"{first} Choose another with monitor=... .")
        assert chosen.measure is not None, "it has been chosen"
        if (score := scores.get(chosen.measure)) is None:
            rank_zero_warn(
                f"{self.user} monitors {chosen.measure!r}, but this validation (epoch {ctx.epoch}) has only "
                f"{listed(scores)}, so it is ignored. Log {chosen.measure!r} in every validation, or monitor another "
                "score: monitor=... ."
            )
        return chosen, score, scores

    def improves(self, score: float, best: float | None, by_more_than: float = 0.0) -> bool:
        """Whether a score is better than the best so far, if there is one. NaN is never better."""
        if best is None:
            return not math.isnan(score)
        return (best - score if self.minimize else score - best) > by_more_than

    def _awaits(self, scores: Scores) -> bool:
        """Whether a resumed run waits for the score of its checkpoint: a module may log it in some epochs only."""
        if self.measure is None or self.monitor is None or self.measure in scores:
            return False
        return short_name(self.monitor) == short_name(self.measure)

    def _find(self, known: ByName[Any]) -> str | None:
        """The name of the monitored one of these scores or measures; None if it is not among them."""
        if self.monitor is None:
            return self.measure if self.measure in known else known.name(0)
        if self.monitor in known:
            return known.name(self.monitor)
        published = {f"val_{short_name(name)}": name for name in known}  # the names that Lightning's callbacks see
        return published.get(self.monitor)

    def _choose(self, ctx: ContextTorch, name: str) -> "Monitor":
        if self.measure not in (None, name):
            raise RuntimeError(
                f"{self.user} monitored {self.measure!r} in the resumed run, but monitors {name!r} in this one. "
                f"Resume with monitor={self.measure!r}."
            )
        minimize = self.mode == "min" if self.mode is not None else ctx.minimize(name)
        if minimize is None:
            raise self._no_direction(name)
        return replace(self, measure=name, minimize=minimize)

    def _is_near(self, known: ByName[Any]) -> bool:
        return did_you_mean(self.monitor, [*known, *known.logged]) != ""

    def _no_score(self, known: ByName[Any]) -> RuntimeError:
        return RuntimeError(
            f"{self.user} cannot monitor {self.monitor!r}: there is no such validation score."
            f"{did_you_mean(self.monitor, [*known, *known.logged])} There are {listed(known)}."
        )

    def _no_direction(self, name: str) -> RuntimeError:
        return RuntimeError(
            f"{self.user} cannot tell whether a lower or a higher {name!r} is better. Give mode='min' or mode='max', "
            "or log the torchmetrics object."
        )


def _scores(ctx: ContextTorch) -> Scores:
    """The scores of the validation that has just ended. On several ranks, all scores of rank zero."""
    scores = by_name(ctx.last_scores_valid or Scores())
    trainer = getattr(ctx, "trainer", None)  # a stand-in for the context may have none
    if trainer is not None and trainer.world_size > 1:  # all ranks must make the same decision
        values, logged = trainer.strategy.broadcast((dict(scores), scores.logged))
        return Scores(values, logged=logged)
    return scores


def _others_add_scores(callback: CallbackSet) -> bool:
    """Whether another callback may add a validation score. The callbacks of this package add none."""
    others = callback.ctx.callbacks.values()
    return any("on_valid_end" in one.stages and not type(one).__module__.startswith("callbacksets.") for one in others)
