"""Copies of a callback: cloned, and pickled."""

import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

from callbacksets.base import CallbackSet
from callbacksets.testing.bench import Bench
from callbacksets.testing.checks.spies import fails
from callbacksets.testing.graph import held_graph


def clone(bench: Bench) -> None:
    """It can be cloned before and after a fit, and the clone can be trained."""
    for deep in (False, True):
        how = f"clone(deep={deep})"
        _check_copies(bench, how, partial(_clone, deep=deep), "Do not override clone() or __deepcopy__ without need.")


def pickles(bench: Bench) -> None:
    """It can be pickled before and after a fit, as for starting processes, and the copy can be trained."""
    remedy = (
        "Define the functions that it holds in a module, not inside a function and not as lambdas. Omit open files and "
        "the like in __getstate__(), or close them in on_exit."
    )
    _check_copies(bench, "pickle", _pickled, remedy)


def _clone(callback: CallbackSet, deep: bool) -> CallbackSet:
    return callback.clone(deep=deep)


def _check_copies(bench: Bench, how: str, copied: Callable[[CallbackSet], Any], remedy: str) -> None:
    for when, callback in (("before", bench.make()), ("after", bench.plain_fit().callback)):
        try:
            twin = copied(callback)
        except Exception as error:
            raise fails(f"in {how}, {when} a fit", error, held_graph(callback) or remedy) from error
        if type(twin) is not type(callback) or twin is callback:
            raise AssertionError(f"{how} {when} a fit returned {twin!r}, which is not a copy. {remedy}")
        if when == "before":
            try:
                bench.fit(twin)
            except Exception as error:
                raise fails(f"in a fit of the copy that {how} makes", error, remedy) from error


def _pickled(callback: CallbackSet) -> Any:
    """A copy through pickle. The class itself is not pickled: a test or a notebook may have made it locally."""

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
