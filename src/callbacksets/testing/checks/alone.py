"""The callback must not disturb training: it may change training only in the stages of training."""

from typing import Any

from callbacksets.base import CallbackSet
from callbacksets.testing.bench import Bench, Interruption
from callbacksets.testing.checks.spies import Interrupt
from callbacksets.testing.checks.watch import Watch
from callbacksets.testing.compare import difference
from callbacksets.testing.trace import first_difference

_WAYS: dict[str, dict[str, Any]] = {
    "an ordinary fit": {},
    "a fit that validates every other epoch": {"check_val_every_n_epoch": 2},
    "a fit that validates inside its epochs": {"val_check_interval": 2},
}


def leaves_training_alone(bench: Bench) -> None:
    """It always undoes the changes that it makes for a validation. It makes lasting changes in other stages."""
    bench.require_training()
    for way in _WAYS:
        _check_way(bench, way)
    _check_interrupted_validation(bench)


def _check_way(bench: Bench, way: str) -> None:
    watch, error = _watched(bench, bench.make(), way)
    if watch.damage:
        raise AssertionError(f"In {way}, it {watch.damage}")
    if error is not None:
        return  # the check `no_validation` reports this failure
    without, error = _watched(bench.without, bench.without.make(), way)
    if error is not None:
        return  # the module trains only with the callback
    if differs := first_difference(without.rows[: len(watch.rows)], watch.rows):
        raise AssertionError(
            f"With the callback, {way} differs from the same fit without it, and none of its stages shows why. First "
            f"difference: {differs}. Does it draw random numbers, or change the data, the Trainer or other objects? If "
            "that is intended, skip this check with that reason."
        )


def _watched(bench: Bench, callback: CallbackSet, way: str) -> tuple[Watch, Exception | None]:
    watch = Watch(callback)
    try:
        bench.fit(callback, watch.after, before=[watch.before], **_WAYS[way])
    except Exception as error:
        return watch, error
    return watch, None


def _check_interrupted_validation(bench: Bench) -> None:
    """A fit that fails inside a validation leaves the network as one that fails just before it."""
    expected = _interrupted(bench, "on_before_valid")
    for stage in ("on_batch_valid_begin", "on_batch_valid_end", "on_valid_end"):
        got = _interrupted(bench, stage)
        for what, values in (expected if got else {}).items():
            if what != "the mode `training`" and (differs := difference(values, got[what])):
                raise AssertionError(
                    f"If a fit is interrupted inside the validation of epoch 1, in {stage}, before its own {stage}, "
                    f"it does not restore {what}: {differs}, compared with a fit that is interrupted just before the "
                    "validation. on_valid_end does not run then. Undo in on_exit what on_before_valid has changed."
                )


def _interrupted(bench: Bench, stage: str) -> dict[str, dict[str, Any]]:
    spy = Interrupt(stage)
    try:
        bench.fit(None, spy)
    except Interruption:
        return spy.left()
    except Exception:
        return {}  # the check `interruption` reports this failure
    return {}
