"""Checks of the state of a callback: saving, loading, copying, writing to a file."""

import copy
import io
from contextlib import suppress
from typing import Any

import torch

from callbacksets.base import CallbackSet
from callbacksets.fit.plain import unloadable
from callbacksets.testing.bench import Bench, Interruption, described
from callbacksets.testing.checks.spies import Finder, Keeper, begin, state_methods_of, watch_loading
from callbacksets.testing.compare import difference, leaves
from callbacksets.testing.trace import NOTHING, state_of


def state_methods(bench: Bench) -> None:
    """It has both `state_dict()` and `load_state_dict()`, or neither."""
    saves, loads = state_methods_of(bench.make())
    if saves != loads:
        has, lacks = ("state_dict", "load_state_dict") if saves else ("load_state_dict", "state_dict")
        raise AssertionError(
            f"It defines {has}() without {lacks}(), so a resumed run starts from the beginning. Define both or neither."
        )


def round_trip(bench: Bench) -> None:
    """`state_dict()` returns the state that was loaded, in a new callback and in one that was used before."""
    if not all(state_methods_of(bench.make())):
        return
    for moment in bench.typical:
        if (saved := bench.saved(moment)) is None:
            continue
        probe = begin(bench, bench.make(), bench.checkpoint(moment))
        if differs := difference(saved, probe.loaded):
            raise AssertionError(
                f"load_state_dict() got the state of a checkpoint written {moment}, but state_dict() then returned "
                f"another state: {differs}. Restore everything that state_dict() returns."
            )
        _check_outside_of_a_fit(bench, saved)
        if moment is bench.typical[-1] or probe.loads_in_begin:
            continue
        used = begin(bench, bench.plain_fit().callback, bench.checkpoint(moment))
        if differs := difference(saved, used.given):
            raise AssertionError(_MIXTURE.format(differs))


def _check_outside_of_a_fit(bench: Bench, saved: Any) -> None:
    """If a new callback restores a state outside of a fit, a used callback must do so too.

    In a fit, `start_over()` has already reset the used callback.
    """
    if difference(saved, _loaded(bench.make(), saved)) is None:
        used = bench.plain_fit().callback
        if differs := difference(saved, _loaded(used, saved)):
            raise AssertionError(_MIXTURE.format(differs))


def _loaded(callback: CallbackSet, saved: Any) -> Any:
    with suppress(Exception):  # it may need ctx
        callback.load_state_dict(copy.deepcopy(saved))
        return state_of(callback)
    return NOTHING


_MIXTURE = (
    "A callback that was in a fit got the state of another callback, and state_dict() then returned a mixture: {}. "
    "load_state_dict() must replace the old values, not add to them."
)


def begin_keeps_state(bench: Bench) -> None:
    """`on_begin` does not overwrite the loaded state."""
    if not all(state_methods_of(bench.make())):
        return
    for moment in bench.typical:
        probe = begin(bench, bench.make(), bench.checkpoint(moment))
        without = bench.make()
        without.load_state_dict = lambda state_dict: None  # type: ignore[method-assign]
        new = leaves(begin(bench, without, bench.checkpoint(moment)).begun)
        given, begun = leaves(probe.given), leaves(probe.begun)
        for path, value in leaves(bench.saved(moment)).items():
            now = begun.get(path, NOTHING)
            was_restored = difference(value, given.get(path, NOTHING)) is None
            differs = difference(value, now)
            if was_restored and differs and difference(new.get(path, NOTHING), now) is None:
                raise AssertionError(
                    f"on_begin resets state{path} to its initial value, although load_state_dict() has just restored "
                    f"it: {differs} (checkpoint written {moment}). Set it in __init__, or in on_begin only if not "
                    "self.ctx.resumed."
                )


def no_aliasing(bench: Bench) -> None:
    """A state that it has returned or loaded does not change afterwards."""
    callback = bench.make()
    keeper = Keeper(callback)
    bench.plain_fit(callback, keeper)
    for state, copied in keeper.states:
        if differs := difference(copied, state):
            raise AssertionError(
                f"A state that state_dict() had returned changed during further training: {differs}. "
                "Return a copy: list(self.values), dict(...), tensor.clone() or copy.deepcopy(...)."
            )
    if not all(state_methods_of(callback)) or not bench.typical:
        return
    given: list[tuple[Any, Any]] = []
    resumed = bench.make()
    watch_loading(resumed, before=lambda state: given.append((state, copy.deepcopy(state))))
    with suppress(AssertionError):  # the check `resume` reports this failure
        bench.resume(resumed, bench.typical[0])
    for state, copied in given:
        if differs := difference(copied, state):
            raise AssertionError(
                f"The state that load_state_dict() got changed during further training: {differs}. "
                "Keep a copy of its values: list(state_dict['values']), copy.deepcopy(...)."
            )


def no_graph(bench: Bench) -> None:
    """After a batch, neither its attributes nor its state hold a tensor with the graph that computed it."""
    callback = bench.make()
    finder = Finder(callback)
    try:
        bench.fit(callback, finder)
    except Interruption:
        raise AssertionError(finder.found) from None
    except Exception:
        bench.plain_fit()  # it reports this failure


def weights_only(bench: Bench) -> None:
    """A checkpoint with its state can be loaded with `weights_only=True`, as a Trainer loads it to resume."""
    state = bench.whole.outcome.state
    if paths := list(unloadable(state)):
        raise AssertionError(
            f"Its state has a value at {'; '.join(paths)} that torch.load(..., weights_only=True) refuses"
            f"{_worse(state)}. Return only numbers, strings, tensors, and lists, tuples, dicts and sets of these."
        )


def _worse(state: Any) -> str:
    """Whether a checkpoint with the state cannot be read at all."""
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=False)
    except Exception as error:
        return f", and with weights_only=False it cannot be read either ({described(error)})"
    return ""
