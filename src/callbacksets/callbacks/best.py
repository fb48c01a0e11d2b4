"""The best epoch so far, as a callback can find it from its context."""

from dataclasses import dataclass
from typing import Any

from callbacksets.show.epochs import Rows, best_of


@dataclass(frozen=True)
class Best:
    """The best epoch so far, the score that decides, and the progress of early stopping if it is used.

    Attributes:
        column: The name of the score, such as `valid.loss`.
        epoch: The best epoch; None if there is none yet.
        score: The score of that epoch.
        patience: The number of evaluations without an improvement, and the patience.
    """

    column: str
    epoch: int | None
    score: float | None
    patience: tuple[int, int] | None = None


def best_so_far(ctx: Any, rows: Rows) -> Best | None:
    """The best epoch of early stopping; without it, the best by the first validation score, else training score.

    None if it is unknown whether lower or higher is better.
    """
    stopper = early_stopping(ctx)
    if stopper is not None:
        measure = getattr(stopper, "measure", None)
        epoch, score = getattr(stopper, "best_epochs", None), getattr(stopper, "best_score", None)
        return Best(f"valid.{measure}", epoch, score, (stopper.stagnation, stopper.patience))
    names = [name for row in rows for name in row if "." in name]
    column = next((name for name in names if name.startswith("valid.")), names[0] if names else None)
    if column is None or (minimize := ctx.minimize(column.partition(".")[2])) is None:
        return None
    return Best(column, *best_of(rows, column, minimize=minimize))


def early_stopping(ctx: Any) -> Any:
    """The callback that counts evaluations without an improvement, of any class; None if there is none."""
    callbacks = ctx.callbacks.values()
    return next((one for one in callbacks if hasattr(one, "patience") and hasattr(one, "stagnation")), None)
