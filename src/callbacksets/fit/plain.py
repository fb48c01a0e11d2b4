"""Copying states, and finding values that would make a checkpoint unreadable.

A history of ten thousand epochs has a hundred thousand objects, and a checkpoint is saved every epoch. So plain values
are handled in C: the garbage collector finds the types, and pickle copies. Python code visits only other values.
"""

import copy
import gc
import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import Any, cast

import torch
from torch import Tensor

from callbacksets.fit.shards import is_part
from callbacksets.scores import ByName

_COLLECTIONS = frozenset((dict, OrderedDict, list, tuple, set))
_SIMPLE = frozenset((type(None), bool, int, float, complex, str, bytes))
_PICKLED = _SIMPLE | (_COLLECTIONS - {OrderedDict})
_LOADED = _SIMPLE | _COLLECTIONS | {Tensor, torch.nn.Parameter, torch.Size, torch.dtype}
"""Types that `torch.load(..., weights_only=True)` is known to read."""


def types_in(state: object) -> set[type]:
    """The types of all values in a state, in plain collections of any depth."""
    types: set[type] = set()
    seen: set[int] = set()
    level = [state]
    while level:
        types_here = list(map(type, level))
        types.update(types_here)
        collections = [
            one for one in compress(level, map(_COLLECTIONS.__contains__, types_here)) if id(one) not in seen
        ]
        seen.update(map(id, collections))
        level = gc.get_referents(*collections) if collections else []
    return types


def copied(state: Any) -> Any:
    """A deep copy of a state. Scores become a plain dict."""
    return _copied(state, types_in(state))


def kept(state: Any) -> tuple[Any, list[str]]:
    """A copy of a state for a checkpoint, and the paths of the values that could not be loaded from it."""
    types = types_in(state)
    copy_of_it = _copied(state, types)
    return copy_of_it, [] if types <= _LOADED else list(_unloadable(copy_of_it, ""))


def _copied(state: Any, types: set[type]) -> Any:
    if types <= _PICKLED:
        return pickle.loads(pickle.dumps(state, pickle.HIGHEST_PROTOCOL))
    if any(issubclass(cls, ByName) for cls in types):
        state = _without_names(state)
    return copy.deepcopy(state)


def _without_names(value: Any) -> Any:
    if isinstance(value, ByName) or type(value) is dict:
        return {key: _without_names(item) for key, item in value.items()}
    return type(value)(map(_without_names, value)) if type(value) in (list, tuple) else value


def unloadable(state: object) -> Iterator[str]:
    """The paths of the values in a state that `torch.load(..., weights_only=True)` refuses."""
    return iter(()) if types_in(state) <= _LOADED else _unloadable(state, "")


def _unloadable(value: object, path: str) -> Iterator[str]:
    # tensors are accepted as they are; for a value of an unknown type, torch itself is tried
    if type(value) in _LOADED - _COLLECTIONS or is_part(value):
        return
    if type(value) in (dict, OrderedDict):
        for key, item in cast(Mapping[object, object], value).items():
            if type(key) not in _SIMPLE and not _loads(key):
                yield f"{path}[{key!r}] (the key, a {type(key).__name__})"
            yield from _unloadable(item, f"{path}[{key!r}]")
    elif type(value) in (list, tuple):
        for position, item in enumerate(cast(Sequence[object], value)):
            yield from _unloadable(item, f"{path}[{position}]")
    elif not _loads(value):
        yield f"{path} (a {type(value).__module__}.{type(value).__qualname__})".lstrip()


def _loads(value: object) -> bool:
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:  # for any reason, a checkpoint with this value does not load
        return False
    return True
