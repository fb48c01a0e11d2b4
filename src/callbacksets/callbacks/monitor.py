"""Which validation score a callback goes by, and whether lower is better."""

from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from callbacksets.base import CallbackSet
from callbacksets.checks import did_you_mean, listed
from callbacksets.fit.context import ContextTorch
from callbacksets.scores import ByName, Measures, Scores, by_name, short_name


def has_validation(ctx: ContextTorch) -> bool:
    """Whether there is anything to validate with in this fit, as far as is known."""
    batches = ctx.trainer.num_val_batches
    return ctx.trainer.enable_validation and (not batches or any(batches))  # none before the loaders are set up


def scores_to_monitor(ctx: ContextTorch, user: str) -> Scores:
    """The scores of the validation that has just ended; of several ranks those of rank zero, also what callbacks added.

    Raises:
        RuntimeError: When there are none.
    """
    scores = by_name(ctx.last_scores_valid or Scores())
    trainer = getattr(ctx, "trainer", None)  # which a stand-in for the context need not have
    if trainer is not None and trainer.world_size > 1:  # what is decided by them must be decided alike
        values, logged = trainer.strategy.broadcast((dict(scores), scores.logged))
        scores = Scores(values, logged=logged)
    if not scores:
        raise RuntimeError(
            f"{user} needs a validation score, but the module logs none. Log one for the epoch in "
            "validation_step(): self.log('val_loss', loss)."
        )
    return scores


def monitored_score(scores: Scores, measure: str | None, user: str) -> float:
    """The score that was chosen to go by.

    Raises:
        RuntimeError: When this validation has none of that name.
    """
    if measure is None or measure not in scores:
        raise RuntimeError(
            f"{user} goes by {measure!r}, but this validation has {listed(scores)} only. Log {measure!r} in every "
            "validation, or go by another: monitor=... ."
        )
    return scores[measure]


def measures_at_begin(callback: CallbackSet, monitor: str | None) -> Measures | None:
    """The validation measures, if in `begin` they are known and another callback may not add the monitored one."""
    known = callback.ctx.measures_valid
    if not known:
        return None
    if monitor is None or monitor in (*known, *known.logged):
        return known
    # those of this package add no scores
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
    """The name of the score to go by, and whether lower is better.

    Args:
        ctx: The context.
        known: The scores or measures there are.
        user: Who goes by the score, to begin a sentence with.
        monitor: The name of the score, short, as it was logged, or as Lightning sees it; None for the first.
        mode: `"min"`, `"max"`, or None for what `ctx.minimize()` says.
        before: The name of the score in the run that is resumed.

    Raises:
        RuntimeError: When there is no such score, it is another than before, or nothing tells what is better.
    """
    published = {f"val_{short_name(name)}": name for name in known}  # as Lightning's own callbacks see them
    if monitor is not None and monitor not in (*known, *known.logged):
        monitor = published.get(monitor, monitor)
    if monitor is not None and monitor not in (*known, *known.logged):
        raise RuntimeError(
            f"{user} is to monitor {monitor!r}, but the validation scores are {listed(known)}."
            f"{did_you_mean(monitor, [*known, *known.logged])}"
        )
    measure = known.name(0 if monitor is None else monitor)
    if before not in (None, measure):
        raise RuntimeError(
            f"{user} went by {before!r} in the run that is resumed, but goes by {measure!r} in this one. "
            f"Resume with monitor={before!r}."
        )
    minimize = mode == "min" if mode is not None else ctx.minimize(measure)
    if minimize is None:
        raise RuntimeError(
            f"{user} cannot tell whether a lower or a higher {measure!r} is better. Give it a mode, 'min' or 'max', or "
            "log the torchmetrics object."
        )
    if monitor is None and len(known) > 1:
        rank_zero_info(f"{user} monitors {measure!r}, the first of {listed(known)}; monitor=... for another.")
    return measure, minimize
