"""Resuming: between the batches of a fit, at the ends of its epochs, and inside its validations."""

from contextlib import suppress
from typing import Any

from callbacksets.base import CallbackSet
from callbacksets.testing.baseline import check_training
from callbacksets.testing.bench import EPOCHS, Bench, Interruption, apart
from callbacksets.testing.checks.spies import state_methods_of
from callbacksets.testing.checks.states import begin_keeps_state, round_trip
from callbacksets.testing.moments import SavePoint
from callbacksets.testing.trace import Trace, attributes_apart, first_difference

_KEEP = "Keep in state_dict() all that later stages depend on."
_INSIDE = (
    "The stages of an interrupted validation run again, from on_before_valid on. Reset there what they add up. Keep in "
    "state_dict() the values that on_before_valid replaces for the validation, and restore them in on_begin."
)


def resume(bench: Bench) -> None:
    """A run that is resumed at any moment continues and ends as one that was never interrupted."""
    saves, loads = state_methods_of(bench.make())
    if saves != loads:
        return  # the check `state_methods` reports this
    if bench.differs_by_itself:
        check_training(bench)
        return  # the check `fits_are_independent` reports this
    for moment in _comparable(bench):
        try:
            differs = apart(bench.whole.outcome, bench.resumed(moment), bench.whole.rest(moment))
        except AssertionError:
            if moment.in_epoch:
                continue  # the check `resume_inside_epoch` reports this failure
            check_training(bench, moment)
            raise
        if differs:
            check_training(bench, moment)
            round_trip(bench)  # if these fail, they say more
            begin_keeps_state(bench)
            raise AssertionError(
                f"A run that was resumed from a checkpoint written {moment} differs from one that was never "
                f"interrupted, {differs}.{_attributes(bench, moment)} {_INSIDE if moment.in_validation else _KEEP}"
            )


def resume_inside_epoch(bench: Bench) -> None:
    """It works in a fit that is resumed inside an epoch, where `on_epoch_begin` does not run first."""
    for moment in bench.whole.moments:
        if moment.in_epoch:
            try:
                bench.resumed(moment)
            except AssertionError:
                check_training(bench, moment)
                raise


def _comparable(bench: Bench) -> list[SavePoint]:
    """All moments but the end of a fit that the callback has stopped: a run that is resumed there trains on."""
    moments = bench.whole.moments
    return moments[:-1] if moments and moments[-1].epoch < EPOCHS else moments


def _attributes(bench: Bench, moment: SavePoint) -> str:
    """The attributes that differ at the first difference. Both fits run again until then."""
    before, rest, resumed = bench.whole.checkpoints.written[moment], bench.whole.rest(moment), bench.resumed(moment)
    pairs = enumerate(zip(rest, resumed.rows, strict=False), start=1)
    n = next((n for n, (one, other) in pairs if first_difference([one], [other])), len(rest) + 1)
    whole, again = _Until(bench.make(), before + n), _Until(bench.make(), n)
    with suppress(Interruption):
        bench.fit(whole.callback, whole)
    with suppress(Interruption):
        bench.resume(again.callback, moment, again)
    return attributes_apart(whole.attributes, again.attributes)


class _Until(Trace):
    """Ends a fit after some rows, and keeps the attributes that the callback has then."""

    def __init__(self, callback: CallbackSet, n: int) -> None:
        super().__init__(callback)
        self.attributes: dict[str, Any] = vars(callback)
        self._n = n

    def _write(self, moment: str) -> None:
        super()._write(moment)
        if len(self.rows) == self._n:
            self.attributes = dict(vars(self.callback))
            raise Interruption
