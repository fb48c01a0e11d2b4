"""The outcome of a fit: how long it took, what ended it, and what its callbacks have learned."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from callbacksets.show import epochs, html, tables


@dataclass(frozen=True)
class Outcome:
    """How a fit ended.

    Attributes:
        epoch: The last epoch. If the fit failed, this epoch is incomplete.
        seconds: The duration.
        error: The name of the exception that ended the fit; None if there was none.
        minimize: Whether lower is better, by the names of the scores for which it is known.
    """

    epoch: int
    seconds: float
    error: str | None = None
    minimize: Mapping[str, bool] = field(default_factory=dict)


def outcome_as_text(
    name: str, outcome: Outcome, sets: Iterable[str], states: Mapping[str, Any], stopped_by: object
) -> str:
    """The outcome of a fit, as a title and a table.

    Example:
        >>> stopping = {"best_epochs": 2, "best_score": 0.25, "measure": "loss"}
        >>> print(outcome_as_text("Adapter", Outcome(3, 4.2), ["early_stopping"], {"early_stopping": stopping}, None))
        <Adapter: trained 3 epochs in 4.2 s>
        ended by   the Trainer
        best       loss 0.2500 in epoch 2
        callbacks  early_stopping
        states     early_stopping
    """
    rows = _rows(outcome, sets, states, stopped_by)
    (first, *others) = rows.items()
    return f"<{name}: {_title(outcome)}>\n{tables.as_text(first, others)}"


def outcome_as_html(
    name: str, outcome: Outcome, sets: Iterable[str], states: Mapping[str, Any], stopped_by: object
) -> str:
    """The same for a notebook."""
    title = _title(outcome)
    return html.card(name, f"{title[0].upper()}{title[1:]}.", _rows(outcome, sets, states, stopped_by))


def _title(outcome: Outcome) -> str:
    if outcome.error is not None:
        how = "interrupted" if outcome.error == KeyboardInterrupt.__name__ else "failed"
        return f"{how} in epoch {outcome.epoch} after {outcome.seconds:.1f} s"
    return f"trained {outcome.epoch} epoch{'' if outcome.epoch == 1 else 's'} in {outcome.seconds:.1f} s"


def _rows(outcome: Outcome, sets: Iterable[str], states: Mapping[str, Any], stopped_by: object) -> dict[str, str]:
    rows = {"ended by": outcome.error or str(stopped_by or "the Trainer")}
    for state in states.values():
        with suppress(Exception):  # the state of a user's callback may look like one of these, and be anything
            if state.get("epoch") and isinstance(state["epoch"], list):  # a history
                columns = epochs.columns_of(state)
                rows["last scores"] = _last_scores(columns)
                rows.setdefault("best", _best_score(columns, outcome.minimize))
            if state.get("best_epochs") is not None and {"best_score", "measure"} <= state.keys():  # early stopping
                restored = ", whose weights were restored" if state.get("best_weights") is not None else ""
                score = epochs.score(state["best_score"], 4)
                rows["best"] = f"{state['measure']} {score} in epoch {state['best_epochs']}{restored}"
    rows = {name: text for name, text in rows.items() if text}
    return rows | {"callbacks": ", ".join(sets) or "none", "states": ", ".join(states) or "none"}


def _best_score(columns: Mapping[str, Any], minimize: Mapping[str, bool]) -> str:
    """The best value of the first validation score; empty if it is unknown whether lower or higher is better."""
    name = next((column.removeprefix("valid.") for column in columns if column.startswith("valid.")), None)
    if name is None or name not in minimize:
        return ""
    epoch, score = epochs.best_of(epochs.as_rows(columns), f"valid.{name}", minimize=minimize[name])
    return "" if score is None else f"{name} {epochs.score(score, 4)} in epoch {epoch}"


def _last_scores(columns: Mapping[str, Any]) -> str:
    last = {name: values[-1] for name, values in columns.items() if "." in name}
    known = {name: value for name, value in last.items() if isinstance(value, float)}
    return ", ".join(f"{name} {epochs.score(value, 4)}" for name, value in known.items())
