"""Checks of situations in a fit: stages, no validation, nothing to train, interruption."""

import gc
import inspect

from callbacksets.base import STAGES, check_instance, misnamed_stages
from callbacksets.checks import weight
from callbacksets.testing.baseline import check_training
from callbacksets.testing.bench import Bench, Interruption, apart, described
from callbacksets.testing.checks.spies import FailsAtOnce, Interrupt, Witness, fails
from callbacksets.testing.recorder import StageRecorder
from callbacksets.testing.trace import Trace, attributes_apart

_WITHOUT_SCORES = (
    "In on_epoch_end, ctx.last_scores_valid may be None or empty: handle it, or raise an error in on_begin."
)


def stages(bench: Bench) -> None:
    """Its stages are spelled and declared correctly, also those that it sets during training."""
    callback = bench.make()
    for name, stage in misnamed_stages(callback):
        raise AssertionError(f"{name}() looks like a stage, but the training loop never calls it. Rename it {stage}.")
    for method, arguments in (("state_dict", ()), ("load_state_dict", ({},))):
        try:
            inspect.signature(getattr(callback, method)).bind(*arguments)
        except TypeError as error:
            wanted = f"{method}(self{', state_dict' if arguments else ''})"
            raise AssertionError(f"{method} cannot be called as the adapter does: {error}. Define {wanted}.") from error
    try:
        weight("weight", callback.weight)
        check_instance(callback)
        bench.plain_fit(callback)
        check_instance(callback)
    except (TypeError, ValueError) as error:
        raise AssertionError(str(error)) from error


def no_validation(bench: Bench) -> None:
    """It can be trained with validation every other epoch, and without validation or raises an error in `on_begin`."""
    bench.require_training()
    callback = bench.make()
    begun = StageRecorder(stages="on_begin")
    begun.weight = callback.weight
    try:
        bench.fit(callback, begun, validation=False)
    except (RuntimeError, ValueError) as error:
        if begun.rows:
            raise fails("in a fit without validation", error, _WITHOUT_SCORES) from error
    except Exception as error:
        raise fails("in a fit without validation", error, _WITHOUT_SCORES) from error
    _survive(bench, "when only every other epoch is validated", _WITHOUT_SCORES, check_val_every_n_epoch=2)


def nothing_to_train(bench: Bench) -> None:
    """It does not fail in a fit that trains nothing, in which only `on_begin`, `on_end` and `on_exit` run."""
    remedy = "on_end and on_exit must work if there was no epoch and no batch."
    bench.require_training()
    _survive(bench, "that trains nothing (max_epochs=0)", remedy, max_epochs=0)
    for moment in bench.typical[-1:]:
        checkpoint = bench.checkpoint(moment)
        _survive(bench, "that resumes a finished run and trains nothing", remedy, checkpoint=checkpoint)


def interruption(bench: Bench) -> None:
    """Its `on_exit` and `state_dict()` work after an interruption in any stage."""
    bench.require_training()
    _interrupt(bench, None)
    for stage in STAGES:
        if stage != "on_exit":
            _interrupt(bench, stage)


def ctx_released(bench: Bench) -> None:
    """After the fit it keeps no reference to `ctx`, which would keep the network and the data in memory."""
    witness = Witness()
    callback = bench.plain_fit(None, witness).callback
    gc.collect()
    if (ctx := witness.seen()) is None:
        return
    holders = [name for name, value in vars(callback).items() if value is ctx or ctx in gc.get_referents(value)]
    where = f" in self.{holders[0]}" if holders else ""
    raise AssertionError(
        f"It still holds ctx{where} after the fit. Read self.ctx when you need it, keep values instead of ctx itself, "
        "and release references in on_exit."
    )


def fits_are_independent(bench: Bench) -> None:
    """A new callback is independent of earlier fits: two equal fits have equal results."""
    if differs := bench.differs_by_itself:
        check_training(bench)
        raise AssertionError(
            f"Two fits with the same data, each with a new callback, have different results: {differs}. Set in "
            "__init__ what is now a class attribute or a mutable default argument. If the callbacks of make() share an "
            "object, let make() make a new one each time. If the difference is the time of day or a unique name, skip "
            "this check."
        )


def start_over(bench: Bench) -> None:
    """The same instance can be used in two fits: in the second it behaves like a new one."""
    if bench.differs_by_itself:
        return  # the check `fits_are_independent` reports this failure
    callback = bench.whole.outcome.callback
    remedy = (
        "Define start_over(self), which runs before an instance is used again, and reset there what the first fit has "
        "left. Let __init__ call it too."
    )
    try:
        second = bench.fit(callback, Trace(callback))
    except Exception as error:
        raise fails("in the second fit of the same instance", error, remedy) from error
    if differs := apart(bench.whole.outcome, second):
        used = bench.plain_fit().callback
        used.start_over()
        raise AssertionError(
            f"In the second fit of the same instance, the results are not those of a new one, {differs}."
            f"{attributes_apart(vars(bench.make()), vars(used))} {remedy}"
        )


def _survive(bench: Bench, situation: str, remedy: str, **arguments: object) -> None:
    try:
        bench.fit(**arguments)  # type: ignore[arg-type]
    except Exception as error:
        raise fails(f"in a fit {situation}".replace("a fit when", "a fit, when"), error, remedy) from error


def _interrupt(bench: Bench, stage: str | None) -> None:
    where = "before on_begin" if stage is None else f"in {stage}, before its own {stage}"
    try:
        if stage is None:
            bench.fit(natives=(FailsAtOnce(),))
        else:
            bench.fit(None, Interrupt(stage))
    except Exception as error:
        others = [note for note in getattr(error, "__notes__", ()) if note.startswith("There was also")]
        if not isinstance(error, Interruption) or others:
            raise AssertionError(
                f"It fails when training is interrupted {where}. {others[0] if others else described(error)} on_exit "
                "must work if any other stage has not run: set the attributes that it needs in __init__."
            ) from error
