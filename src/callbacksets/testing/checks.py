"""What any callback has to pass. Every check is a function; its docstring says what is so when it passes."""

import copy
import gc
import inspect
import io
import math
import pickle
import tempfile
import unittest
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning as L
from torch import nn

from callbacksets.base import STAGES, CallbackSet, check_instance
from callbacksets.callbacks.history import CallbackSetHistory
from callbacksets.checks import did_you_mean, listed, names_of, text, weight
from callbacksets.describe.descriptor import TorchCallback
from callbacksets.fit.plain import unloadable
from callbacksets.testing.bench import MOMENTS, Bench, CannotTrain, Interruption, Make, Outcome, Training, described
from callbacksets.testing.compare import difference, leaves
from callbacksets.testing.recorder import StageRecorder

NOTHING: Any = object()
"""Where None could be a state."""


def check_callback_set(
    make: Make,
    checks: str | Iterable[str] | None = None,
    skip: Mapping[str, str] = {},
    *,
    training: Training | None = None,
) -> None:
    """Check a callback: that it keeps its state, survives what can happen to a fit, and leaves nothing behind.

    It is trained in some dozens of tiny fits on the CPU. Each has an empty working directory of its own, where a
    relative path of the callback leads to. The clock moves by a second with every batch and random numbers depend on
    the batch alone, so that fits can be compared. Where two whole fits differ nevertheless, through `datetime.now()` or
    `uuid4()`, `fits_are_independent` fails and may be skipped with that reason; `resume` then compares nothing.

    Example:
        >>> from callbacksets import CallbackSetHistory
        >>> from callbacksets.testing import CHECKS, check_callback_set
        >>> check_callback_set(CallbackSetHistory, checks=["round_trip", "resume"])
        >>> for name, what in CHECKS.items():
        ...     print(f"{name}: {what}")  # doctest: +ELLIPSIS
        stages: Its stages are spelled and declared as stages are, also those it sets while training runs.
        ...

    With pytest, one test for each check:

        @pytest.mark.parametrize("check", CHECKS)
        def test_loss_ema(check):
            check_callback_set(CallbackSetLossEma, checks=check)

    Args:
        make: A function that returns a new callback each time it is called, such as its class.
        checks: The names of some of `CHECKS`, or a single one; by default all.
        skip: Checks to leave out, with the reason. When none is left, the test is skipped.
        training: A function that returns a new LightningModule, a training loader of at least two batches and a
            validation loader, for callbacks that need their own. The module logs for the epoch, and learns the same
            from the same random numbers. Where the training loader has no `state_dict`, Lightning does not go on
            inside an epoch, and `resume` compares nothing there. By default a small classifier with the scores `acc`
            and `loss`.

    Raises:
        AssertionError: When a check fails. It says what is wrong and what to do.
        TypeError, ValueError: For an argument of the wrong kind, or a check that does not exist.
        unittest.SkipTest: When all the checks are skipped; pytest takes it for a skip of its own.
    """
    _check_makes(make)
    names = [_known("checks", name) for name in names_of("checks", CHECKS if checks is None else checks)]
    if not isinstance(skip, Mapping):
        raise TypeError(f"Expected skip to be a mapping of checks to reasons but got {skip!r}.")
    reasons = {_known("skip", name): text(f"the reason to skip {name!r}", reason) for name, reason in skip.items()}
    if training is not None and (not callable(training) or isinstance(training, nn.Module)):
        raise TypeError(
            f"Expected training to be a function that returns a module and two loaders but got {training!r}."
        )
    if not names:
        raise ValueError(f"Expected checks to name at least one but got {checks!r}. There are {listed(CHECKS)}.")
    if set(names) <= set(reasons):
        raise unittest.SkipTest("; ".join(dict.fromkeys(reasons[name] for name in names)))

    failures: dict[str, AssertionError] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        bench = Bench(make, training, Path(folder).resolve())
        callback: CallbackSet | None = None
        for name in names:
            if name in reasons:
                continue
            try:
                callback = callback or _new_each_time(bench)
                _FUNCTIONS[name](bench)
            except AssertionError as error:
                failures[name] = error
                if isinstance(error, CannotTrain) or name == "stages":
                    break  # the others would say the same
    if failures:
        who = "The callback" if callback is None else type(callback).__name__
        told = "".join(f"\n- {name}: {CHECKS[name]}\n  But: {error}" for name, error in failures.items())
        raise AssertionError(f"{who} fails {listed(failures)}.{told}") from next(iter(failures.values()))


# --- stages, and what can happen to a fit ----------------------------------------------------------------------------


def stages(bench: Bench) -> None:
    """Its stages are spelled and declared as stages are, also those it sets while training runs."""
    callback = bench.make()
    for name in dir(type(callback)):
        stage = _ALIKE.get(name.replace("_", "").lower())
        is_method = callable(inspect.getattr_static(callback, name)) and not hasattr(CallbackSet, name)
        if is_method and stage is not None and name != stage and stage not in callback.stages:
            raise AssertionError(f"{name}() looks like a stage, but no loop calls it. Call it {stage}.")
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
    """It trains without validation, or refuses to in `on_begin`; and with validation every other epoch."""
    bench.require_training()
    callback = bench.make()
    begun = StageRecorder(stages="on_begin")
    begun.weight = callback.weight
    try:
        bench.fit(callback, begun, validation=False)
    except (RuntimeError, ValueError) as error:
        if begun.rows:
            raise _fails("in a fit without validation", error, _WITHOUT_SCORES) from error
    except Exception as error:
        raise _fails("in a fit without validation", error, _WITHOUT_SCORES) from error
    _survive(bench, "when only every other epoch is validated", _WITHOUT_SCORES, check_val_every_n_epoch=2)


def nothing_to_train(bench: Bench) -> None:
    """It comes through a fit that trains nothing, where only `on_begin`, `on_end` and `on_exit` run."""
    remedy = "Expect in on_end and on_exit that no epoch and no batch have been."
    bench.require_training()
    _survive(bench, "that trains nothing (max_epochs=0)", remedy, max_epochs=0)
    if checkpoint := bench.checkpoint("last"):
        _survive(bench, "that resumes a finished run and trains nothing", remedy, checkpoint=checkpoint)


def interruption(bench: Bench) -> None:
    """Its `on_exit` and `state_dict()` work wherever training was interrupted."""
    bench.require_training()
    for stage in (None, *(stage for stage in STAGES if stage != "on_exit")):
        where = "before on_begin" if stage is None else f"in {stage}, before its own {stage}"
        try:
            if stage is None:
                bench.fit(natives=(_FailsAtOnce(),))
            else:
                bench.fit(None, _Interrupt(stage, at_weight=-math.inf))
        except Exception as error:
            others = [note for note in getattr(error, "__notes__", ()) if note.startswith("There was also")]
            if isinstance(error, Interruption) and not others:
                continue
            raise AssertionError(
                f"It fails when training is interrupted {where}. {others[0] if others else described(error)} Let "
                "on_exit expect that any of the other stages has not run, and make what it needs in __init__."
            ) from error


def ctx_released(bench: Bench) -> None:
    """It keeps no reference to `ctx`, and with it to the network and the data, when the fit has ended."""
    witness = _Witness()
    callback = bench.plain_fit(None, witness).callback
    gc.collect()
    if (ctx := witness.seen()) is None:
        return
    holders = [name for name, value in vars(callback).items() if value is ctx or ctx in gc.get_referents(value)]
    where = f" in self.{holders[0]}" if holders else ""
    raise AssertionError(
        f"It still holds ctx{where} after the fit. Read self.ctx where it is needed, keep the values and not ctx "
        "itself, and let go in on_exit."
    )


def fits_are_independent(bench: Bench) -> None:
    """A new callback knows nothing of an earlier fit: two fits alike end alike."""
    if differs := _differ(bench):
        raise AssertionError(
            f"Of two fits with the same data, each with a callback of its own, the second ends {differs}. Set in "
            "__init__ what a class attribute or a mutable default argument holds. If make() hands all callbacks the "
            "same object, let it make a new one. If this is about the time of day or unique names, skip this check."
        )


# --- states ----------------------------------------------------------------------------------------------------------


def state_methods(bench: Bench) -> None:
    """It has both `state_dict()` and `load_state_dict()`, or neither."""
    saves, loads = _state_methods(bench.make())
    if saves != loads:
        has, lacks = ("state_dict", "load_state_dict") if saves else ("load_state_dict", "state_dict")
        raise AssertionError(
            f"It defines {has}() without {lacks}(), so that a resumed run starts over. Define both, or neither."
        )


def round_trip(bench: Bench) -> None:
    """A state that it has loaded is the state that it has, in a new callback and in one that was used before."""
    if not all(_state_methods(bench.make())):
        return
    for moment in ("epoch", "last"):
        if (checkpoint := bench.checkpoint(moment)) is None or (saved := bench.saved(moment)) is None:
            continue
        probe = _begin(bench, bench.make(), checkpoint)
        if differs := difference(saved, probe.loaded):
            raise AssertionError(
                f"load_state_dict() was given a state and state_dict() then returned another: {differs}. Restore all "
                "that state_dict() returns."
            )
        if moment == "last" or probe.loads_in_begin:
            continue
        used = _begin(bench, bench.plain_fit().callback, checkpoint)
        if differs := difference(saved, used.given):
            raise AssertionError(
                "A callback that had been in a fit was given the state of another, and state_dict() then returned a "
                f"mixture: {differs}. Replace in load_state_dict() what was there, do not add to it."
            )


def begin_keeps_state(bench: Bench) -> None:
    """What was loaded is still there after `on_begin`."""
    if not all(_state_methods(bench.make())):
        return
    new = leaves(_begin(bench, bench.make(), None).begun)
    for moment in ("epoch", "last"):
        if (checkpoint := bench.checkpoint(moment)) is None:
            continue
        probe = _begin(bench, bench.make(), checkpoint)
        given, begun = leaves(probe.given), leaves(probe.begun)
        for path, value in leaves(bench.saved(moment)).items():
            now = begun.get(path, NOTHING)
            is_kept = difference(value, given.get(path, NOTHING)) is not None or difference(value, now) is None
            if not is_kept and difference(new.get(path, NOTHING), now) is None:
                what = f"state{path}"
                raise AssertionError(
                    f"on_begin sets {what} back to what it is in a new run, though load_state_dict() has just restored "
                    "it. Set it in __init__, or in on_begin only if not self.ctx.resumed."
                )


def no_aliasing(bench: Bench) -> None:
    """A state that it has handed out, or was given, does not change afterwards."""
    callback = bench.make()
    keeper = _Keeper(callback)
    bench.plain_fit(callback, keeper)
    for state, copied in keeper.states:
        if differs := difference(copied, state):
            raise AssertionError(
                f"A state that state_dict() had returned changed while training went on: now there is {differs}. "
                "Return a copy: list(self.values), dict(...), tensor.clone() or copy.deepcopy(...)."
            )
    if not all(_state_methods(callback)) or (checkpoint := bench.checkpoint("epoch")) is None:
        return
    resumed = bench.make()
    given: list[tuple[Any, Any]] = []
    _watch_loading(resumed, before=lambda state: given.append((state, copy.deepcopy(state))))
    _resume(bench, checkpoint, "epoch", resumed)
    for state, copied in given:
        if differs := difference(copied, state):
            raise AssertionError(
                f"The state that load_state_dict() was given changed while training went on: now there is {differs}. "
                "Keep a copy of what is in it: list(state_dict['values']), copy.deepcopy(...)."
            )


def weights_only(bench: Bench) -> None:
    """A checkpoint with its state loads with `weights_only=True`, as a Trainer that resumes loads it."""
    if paths := list(unloadable(bench.whole.state)):
        raise AssertionError(
            f"Its state holds, at {'; '.join(paths)}, what torch.load(..., weights_only=True) refuses. Keep numbers, "
            "strings, tensors, and lists, tuples, dicts and sets of these."
        )


def resume(bench: Bench) -> None:
    """A resumed run ends in the state and with the weights of one that was never interrupted."""
    saves, loads = _state_methods(bench.make())
    if saves != loads:
        return
    bench.require_training()
    for moment in ("epoch", "validation", "middle"):
        try:
            differs = _apart_when_resumed(bench, moment, bench.make)
        except AssertionError:
            if moment == "epoch":
                raise
            continue  # that it fails inside an epoch, `resume_inside_epoch` says
        if differs and not _differ(bench) and (moment != "middle" or _goes_on_in_the_middle(bench)):
            raise AssertionError(
                f"A run that was resumed from a checkpoint written {MOMENTS[moment]} ends {differs}. Keep in "
                "state_dict() all that later stages depend on."
            )


def resume_inside_epoch(bench: Bench) -> None:
    """It comes through a fit that is resumed inside an epoch, where `on_epoch_begin` does not run first."""
    for moment in ("middle", "validation"):
        if checkpoint := bench.checkpoint(moment):
            _resume(bench, checkpoint, moment)


# --- copies ----------------------------------------------------------------------------------------------------------


def clone(bench: Bench) -> None:
    """It can be cloned before and after a fit, and the clone can train."""
    for deep in (False, True):
        how = f"clone(deep={deep})"
        _check_copies(bench, how, partial(_clone, deep=deep), "Do not override clone() or __deepcopy__ without need.")


def pickles(bench: Bench) -> None:
    """What it holds can be pickled before and after a fit, as when processes are started, and the copy can train."""
    remedy = (
        "Define the functions it holds in a module, not in a function and not as lambdas. Leave open files and the "
        "like out in __getstate__(), or close them in on_exit."
    )
    _check_copies(bench, "pickle", _pickled, remedy)


_FUNCTIONS: dict[str, Callable[[Bench], None]] = {
    function.__name__: function
    for function in (
        stages,
        no_validation,
        nothing_to_train,
        interruption,
        ctx_released,
        fits_are_independent,
        state_methods,
        round_trip,
        begin_keeps_state,
        no_aliasing,
        weights_only,
        resume,
        resume_inside_epoch,
        clone,
        pickles,
    )
}

CHECKS: Mapping[str, str] = MappingProxyType({name: str(function.__doc__) for name, function in _FUNCTIONS.items()})
"""The checks, and what is so when a callback passes them."""

_ALIKE = {name.replace("_", ""): stage for stage in STAGES for name in (stage, stage.removeprefix("on_"))}
_WITHOUT_SCORES = "Expect in on_epoch_end that ctx.last_scores_valid is None or empty, or refuse: raise in on_begin."


# --- what the checks share -------------------------------------------------------------------------------------------


def _check_makes(make: object) -> None:
    hint = ""
    if isinstance(make, CallbackSet):
        hint = f" Give what makes it: lambda: {type(make).__name__}(...)."
    elif isinstance(make, TorchCallback):
        hint = " Give its method: descriptor.generate."
    elif isinstance(make, str):
        hint = f" Of a key of the dictionary: t_clbk({make!r}, ...).generate."
    if hint or not callable(make):
        raise TypeError(f"Expected make to be a function that returns a new CallbackSet but got {make!r}.{hint}")


def _known(argument: str, name: str) -> str:
    if name not in CHECKS:
        raise ValueError(
            f"Expected {argument} to name checks but got {name!r}.{did_you_mean(name, CHECKS)} There are "
            f"{listed(CHECKS)}."
        )
    return name


def _new_each_time(bench: Bench) -> CallbackSet:
    callback = bench.make()
    if bench.make() is callback:
        raise TypeError(f"Expected make to return a new callback each time but it returned {callback!r} twice.")
    return callback


def _state_methods(callback: CallbackSet) -> tuple[bool, bool]:
    """Whether it has a `state_dict()` and a `load_state_dict()` of its own."""
    saves = getattr(callback.state_dict, "__func__", None) is not CallbackSet.state_dict
    return saves, getattr(callback.load_state_dict, "__func__", None) is not CallbackSet.load_state_dict


def _fails(situation: str, error: BaseException, remedy: str) -> AssertionError:
    return AssertionError(f"It fails {situation}. {described(error)} {remedy}")


def _apart(expected: Outcome, got: Outcome) -> str | None:
    """In what, or with what, a fit ends that should end as another."""
    if differs := difference(expected.state, got.state):
        return f"in another state: {differs}"
    return "with other weights of the network" if difference(expected.weights, got.weights) else None


def _differ(bench: Bench) -> str | None:
    """How two fits that should be the same differ, so that there is nothing to compare a third with."""
    return _apart(bench.whole, bench.plain_fit())


def _survive(bench: Bench, situation: str, remedy: str, **arguments: Any) -> None:
    try:
        bench.fit(**arguments)
    except Exception as error:
        raise _fails(f"in a fit {situation}".replace("a fit when", "a fit, when"), error, remedy) from error


def _resume(
    bench: Bench,
    checkpoint: Path,
    moment: str,
    callback: CallbackSet | None = None,
    *spies: CallbackSet,
    place: Path | None = None,
) -> Outcome:
    try:
        return bench.fit(callback, *spies, checkpoint=checkpoint, place=place)
    except Exception as error:
        remedy = "Keep in state_dict() what it goes on from"
        if moment != "epoch":
            remedy += ", and do not rely on on_epoch_begin: set in __init__ what it sets"
        situation = f"in a fit that resumes a checkpoint written {MOMENTS[moment]}"
        raise _fails(situation, error, f"{remedy}.") from error


def _apart_when_resumed(bench: Bench, moment: str, make: Make) -> str | None:
    """How a fit that is interrupted and resumed ends, if not as one that is not."""
    spies = [_SameScores()] if moment == "middle" else []
    whole = bench.fit(make(), *spies)
    place = bench.new_place()
    if (checkpoint := bench.interrupt(moment, place, make(), *spies)) is None:
        return None
    return _apart(whole, _resume(bench, checkpoint, moment, make(), *spies, place=place))


def _goes_on_in_the_middle(bench: Bench) -> bool:
    """Whether Lightning and the loader do, so that there is something to compare."""
    return _apart_when_resumed(bench, "middle", CallbackSetHistory) is None


def _clone(callback: CallbackSet, deep: bool) -> CallbackSet:
    return callback.clone(deep=deep)


def _check_copies(bench: Bench, how: str, copied: Callable[[CallbackSet], Any], remedy: str) -> None:
    for when, callback in (("before", bench.make()), ("after", bench.plain_fit().callback)):
        try:
            twin = copied(callback)
        except Exception as error:
            raise _fails(f"in {how}, {when} a fit", error, remedy) from error
        if type(twin) is not type(callback) or twin is callback:
            raise AssertionError(f"{how} gave {twin!r}, {when} a fit, and no copy. {remedy}")
        if when == "before":
            try:
                bench.fit(twin)
            except Exception as error:
                raise _fails(f"in a fit of the copy that {how} makes", error, remedy) from error


def _pickled(callback: CallbackSet) -> Any:
    """A copy through pickle; the class itself may be one that a test or a notebook has made on the way."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> str | None:
            return "its class" if thing is type(callback) else None

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, id: str) -> type[CallbackSet]:
            return type(callback)

    file = io.BytesIO()
    Pickler(file).dump(callback)
    file.seek(0)
    return Unpickler(file).load()


# --- spies -----------------------------------------------------------------------------------------------------------


class _FailsAtOnce(L.Callback):
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        raise Interruption


class _Interrupt(CallbackSet):
    """Ends the fit at a stage."""

    def __init__(self, stage: str, at_weight: float) -> None:
        self.weight = at_weight
        setattr(self, stage, self._interrupt)

    def _interrupt(self) -> None:
        raise Interruption


class _SameScores(CallbackSet):
    """Makes the training scores the same in all epochs, as Lightning forgets those of batches before it resumes."""

    weight = -math.inf

    def on_before_valid(self) -> None:
        if scores := self.ctx.last_scores_train:
            scores.update(dict.fromkeys(scores, 0.5))

    on_epoch_end = on_before_valid


class _Witness(CallbackSet):
    """Remembers `ctx` without holding it."""

    def on_begin(self) -> None:
        self.seen = weakref.ref(self.ctx)


class _Keeper(CallbackSet):
    """Keeps the states of a callback as they are handed out, with copies."""

    def __init__(self, callback: CallbackSet) -> None:
        self._callback = callback
        self.weight = callback.weight
        self.states: list[tuple[Any, Any]] = []

    def on_batch_end(self) -> None:
        state = self._callback.state_dict()
        self.states.append((state, copy.deepcopy(state)))

    on_epoch_end = on_batch_end


class _Begin(CallbackSet):
    """Ends the fit when a callback has begun, and keeps the states that it had until then."""

    def __init__(self, callback: CallbackSet) -> None:
        self._callback = callback
        self.weight = callback.weight
        self.before = self.given = self.begun = NOTHING
        _watch_loading(callback, before=self._before_loading, after=self._after_loading)

    @property
    def loads_in_begin(self) -> bool:
        """Whether loading leaves it to `on_begin` to take the state over."""
        return self.given is NOTHING or difference(self.before, self.given) is None

    @property
    def loaded(self) -> Any:
        """The state when it was taken over."""
        return self.begun if self.loads_in_begin else self.given

    def on_begin(self) -> None:
        self.begun = copy.deepcopy(self._callback.state_dict())
        raise Interruption

    def _before_loading(self, state: Any) -> None:
        self.before = self._state()

    def _after_loading(self, state: Any) -> None:
        self.given = self._state()

    def _state(self) -> Any:
        try:
            return copy.deepcopy(self._callback.state_dict())
        except Exception:  # a callback that has not begun need not have a state
            return NOTHING


def _begin(bench: Bench, callback: CallbackSet, checkpoint: Path | None) -> _Begin:
    """Let a callback begin, and nothing more."""
    probe = _Begin(callback)
    try:
        bench.fit(callback, probe, checkpoint=checkpoint)
    except Interruption:
        return probe
    except Exception as error:
        raise _fails("in on_begin of a resumed run", error, "Restore in load_state_dict() what it needs.") from error
    raise AssertionError("the probe ends the fit")


def _watch_loading(
    callback: CallbackSet, before: Callable[[Any], None], after: Callable[[Any], None] = lambda state: None
) -> None:
    load = callback.load_state_dict

    def watched(state_dict: Any) -> None:
        before(state_dict)
        load(state_dict)
        after(state_dict)

    callback.load_state_dict = watched  # type: ignore[method-assign]
