"""Which validation score a callback monitors, and whether lower is better."""

from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from callbacksets.base import CallbackSet
from callbacksets.checks import did_you_mean, listed
from callbacksets.fit.context import ContextTorch
from callbacksets.scores import ByName, Measures, Scores, by_name, short_name


def has_validation(ctx: ContextTorch) -> bool:
    """Whether this fit has validation batches, as far as is known."""
    batches = ctx.trainer.num_val_batches
    return ctx.trainer.enable_validation and (not batches or any(batches))  # empty before the loaders are set up


def scores_to_monitor(ctx: ContextTorch, user: str) -> Scores:
    """The scores of the validation that has just ended. On several ranks, all scores of rank zero.

    Raises:
        RuntimeError: If there are no scores.
    """
    scores = by_name(ctx.last_scores_valid or Scores())
    trainer = getattr(ctx, "trainer", None)  # a stand-in for the context may have none
    if trainer is not None and trainer.world_size > 1:  # all ranks must make the same decision
        values, logged = trainer.strategy.broadcast((dict(scores), scores.logged))
        scores = Scores(values, logged=logged)
    if not scores:
        raise RuntimeError(
            f"{user} needs a validation score, but the module logs none. Log a score for the epoch in "
            "validation_step(): self.log('val_loss', loss)."
        )
    return scores


def monitored_score(scores: Scores, measure: str | None, user: str) -> float:
    """The value of the monitored score.

    Raises:
        RuntimeError: If this validation has no score with that name.
    """
    if measure is None or measure not in scores:
        raise RuntimeError(
            f"{user} monitors {measure!r}, but this validation has only {listed(scores)}. Log {measure!r} in every "
            "validation, or monitor another score: monitor=... ."
        )
    return scores[measure]


def measures_at_begin(callback: CallbackSet, monitor: str | None) -> Measures | None:
    """The validation measures, if they are known in `on_begin`; None if another callback may add the monitored one."""
    known = callback.ctx.measures_valid
    if not known:
        return None
    if monitor is None or monitor in (*known, *known.logged):
        return known
    # the callbacks of this package add no validation scores
    others = (
        other for other in callback.ctx.callbacks.values() if not type(other).__module__.startswith("callbacksets.")
    )
    return None if any("on_valid_end" in other.stages for other in others) else known


def choose_measure(
    ctx: ContextTorch,
    known: ByName[Any],
    *,
    user: str,
    monitor: str | None,
    mode: str | None,
    before: str | None,
) -> tuple[str, bool]:
    """The name of the score to monitor, and whether lower is better.

    Args:
        ctx: The context.
        known: The existing scores or measures.
        user: The name of the callback, as the first words of an error message.
        monitor: The name of the score: short, as logged, or as Lightning's callbacks see it; None for the first score.
        mode: `"min"`, `"max"`, or None for the direction that `ctx.minimize()` returns.
        before: The name of the score in the resumed run.

    Raises:
        RuntimeError: If the score does not exist, if it differs from that of the resumed run, or if it is unknown
            whether lower or higher is better.
    """
    published = {f"val_{short_name(name)}": name for name in known}  # the names that Lightning's callbacks see
    if monitor is not None and monitor not in (*known, *known.logged):
        monitor = published.get(monitor, monitor)
    if monitor is not None and monitor not in (*known, *known.logged):
        raise RuntimeError(
            f"{user} cannot monitor {monitor!r}: there is no such validation score."
            f"{did_you_mean(monitor, [*known, *known.logged])} There are {listed(known)}."
        )
    measure = known.name(0 if monitor is None else monitor)
    if before not in (None, measure):
        raise RuntimeError(
            f"{user} monitored {before!r} in the resumed run, but monitors {measure!r} in this one. "
            f"Resume with monitor={before!r}."
        )
    minimize = mode == "min" if mode is not None else ctx.minimize(measure)
    if minimize is None:
        raise RuntimeError(
            f"{user} cannot tell whether a lower or a higher {measure!r} is better. Give mode='min' or mode='max', or "
            "log the torchmetrics object."
        )
    if monitor is None and len(known) > 1:
        rank_zero_info(f"{user} monitors {measure!r}, the first of {listed(known)}. Choose another with monitor=... .")
    return measure, minimize
