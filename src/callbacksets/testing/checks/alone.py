"""Leaving training alone: as one without the callback, unless the callback changes it in a stage of training."""

from typing import Any

from callbacksets.base import CallbackSet
from callbacksets.testing.bench import Bench, CannotTrain, without_the_callback
from callbacksets.testing.checks.watch import Watch
from callbacksets.testing.trace import first_difference

_WAYS: dict[str, dict[str, Any]] = {
    "": {},
    " with a validation in every other epoch": {"check_val_every_n_epoch": 2},
    " with a validation inside of each epoch": {"val_check_interval": 2},
}


def leaves_training_alone(bench: Bench) -> None:
    """What it changes for a validation it puts back; what it changes else, it changes in a stage of training."""
    bench.require_training()
    for where, arguments in _WAYS.items():
        watch, error = _watched(bench, bench.make(), arguments)
        if watch.damage:
            raise AssertionError(f"In a fit{where}: {watch.damage}")
        if error is not None:
            continue  # that it fails then, `no_validation` says
        with without_the_callback():
            expected, failure = _watched(bench, CallbackSet(), arguments)
            if failure is not None:
                raise CannotTrain from failure
        if differs := first_difference(expected.rows[: len(watch.rows)], watch.rows):
            raise AssertionError(
                f"A fit{where} goes otherwise than one without the callback, and no stage of it shows why. First "
                f"{differs}. Does it draw random numbers, or change data, the Trainer or what else is not its own? If "
                "it means to, skip this check with that reason."
            )


def _watched(bench: Bench, callback: CallbackSet, arguments: dict[str, Any]) -> tuple[Watch, Exception | None]:
    watch = Watch(callback)
    try:
        bench.fit(callback, watch.after, before=[watch.before], **arguments)
    except Exception as error:
        return watch, error
    return watch, None
