"""Callbacks that the checks add to a fit beside the checked callback."""

import copy
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L

from callbacksets.base import CallbackSet
from callbacksets.fit.context import ContextTorch
from callbacksets.testing.bench import Bench, Interruption, described
from callbacksets.testing.compare import difference
from callbacksets.testing.graph import held_graph
from callbacksets.testing.trace import NOTHING, state_of, trained


def fails(situation: str, error: BaseException, remedy: str) -> AssertionError:
    """The error of a check that a callback raised an exception, with the remedy."""
    return AssertionError(f"It fails {situation}. {described(error)} {remedy}")


def state_methods_of(callback: CallbackSet) -> tuple[bool, bool]:
    """Whether it defines `state_dict()`, and whether it defines `load_state_dict()`."""
    saves = getattr(callback.state_dict, "__func__", None) is not CallbackSet.state_dict
    return saves, getattr(callback.load_state_dict, "__func__", None) is not CallbackSet.load_state_dict


class FailsAtOnce(L.Callback):
    """Ends a fit before it begins."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        raise Interruption


class Interrupt(CallbackSet):
    """Ends the fit at a stage. Afterwards `left()` shows the state of training."""

    weight: float = -math.inf

    def __init__(self, stage: str) -> None:
        self._learner: Any = None
        setattr(self, stage, self._interrupt)

    def left(self) -> dict[str, dict[str, Any]]:
        """The state of training, without the optimizer."""
        return trained(_Only(self._learner))

    def _interrupt(self) -> None:
        self._learner = self.ctx.learner
        raise Interruption


class _Only:
    """A stand-in for a context after a fit: it has the module, but no optimizers."""

    def __init__(self, learner: Any) -> None:
        self.learner = learner
        self.optimizers: list[Any] = []


class Witness(CallbackSet):
    """Keeps a weak reference to `ctx`."""

    def on_begin(self) -> None:
        self.seen: weakref.ref[ContextTorch] = weakref.ref(self.ctx)


class Keeper(CallbackSet):
    """Keeps the states that a callback returns, each with a copy."""

    def __init__(self, callback: CallbackSet) -> None:
        self._callback = callback
        self.weight: float = callback.weight
        self.states: list[tuple[Any, Any]] = []

    def on_batch_end(self) -> None:
        state = self._callback.state_dict()
        self.states.append((state, copy.deepcopy(state)))

    on_epoch_end = on_batch_end


class Finder(CallbackSet):
    """Ends the fit when a callback holds a tensor with its graph. `found` says which."""

    reads_y_hats: bool = False

    def __init__(self, callback: CallbackSet) -> None:
        self._callback = callback
        self.weight: float = callback.weight
        self.found: str | None = None

    def on_batch_end(self) -> None:
        if (found := held_graph(self._callback)) is not None:
            self.found = found
            raise Interruption

    on_epoch_end = on_batch_end


class Begin(CallbackSet):
    """Ends the fit after a callback has run `on_begin`, and keeps the states that it had until then."""

    def __init__(self, callback: CallbackSet) -> None:
        self._callback = callback
        self.weight: float = callback.weight
        self.before: Any = NOTHING
        self.given: Any = NOTHING
        self.begun: Any = NOTHING
        watch_loading(callback, before=self._before_loading, after=self._after_loading)

    @property
    def loads_in_begin(self) -> bool:
        """Whether `load_state_dict()` leaves it to `on_begin` to restore the state."""
        return self.given is NOTHING or difference(self.before, self.given) is None

    @property
    def loaded(self) -> Any:
        """The state after it was restored."""
        return self.begun if self.loads_in_begin else self.given

    def on_begin(self) -> None:
        self.begun = copy.deepcopy(self._callback.state_dict())
        raise Interruption

    def _before_loading(self, state: Any) -> None:
        self.before = state_of(self._callback)

    def _after_loading(self, state: Any) -> None:
        self.given = state_of(self._callback)


def begin(bench: Bench, callback: CallbackSet, checkpoint: Path | None) -> Begin:
    """Run a fit until a callback has run `on_begin`."""
    probe = Begin(callback)
    try:
        bench.fit(callback, probe, checkpoint=checkpoint)
    except Interruption:
        return probe
    except Exception as error:
        raise fails("in on_begin of a resumed run", error, "Restore in load_state_dict() what it needs.") from error
    raise AssertionError("the probe ends the fit")


def watch_loading(
    callback: CallbackSet, before: Callable[[Any], None], after: Callable[[Any], None] = lambda state: None
) -> None:
    """Call functions before and after a callback loads a state."""
    load = callback.load_state_dict

    def watched(state_dict: Any) -> None:
        before(state_dict)
        load(state_dict)
        after(state_dict)

    callback.load_state_dict = watched  # type: ignore[method-assign]
