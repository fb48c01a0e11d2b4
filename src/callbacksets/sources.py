"""What may be given to the adapter as `callbacks`, and the CallbackSets that a fit makes of it."""

import inspect
import math
import numbers
import re
from collections.abc import Iterable, Mapping
from typing import Any

from callbacksets.callback_set import CallbackSet, check_instance
from callbacksets.errors import listed

Source = CallbackSet | type[CallbackSet]


def sources_by_id(callbacks: Any) -> dict[str, Source]:
    """The sources in `callbacks` by the ids of the callbacks they will be.

    Raises:
        TypeError: For what is no source of a CallbackSet.
        ValueError: When two have the same id, or one instance has two ids.
    """
    if isinstance(callbacks, Mapping):
        pairs = [(key, _source(value)) for key, value in callbacks.items()]
    else:
        single = isinstance(callbacks, str | type) or not isinstance(callbacks, Iterable)
        sources = [_source(value) for value in ([callbacks] if single else callbacks)]
        pairs = [(identify(source), source) for source in sources]

    by_id: dict[str, Source] = {}
    for id, source in pairs:
        if not isinstance(id, str) or not id:
            raise TypeError(f"Expected the ids of the callbacks to be non-empty strings but got {id!r}.")
        for other, seen in by_id.items():
            if source is seen and isinstance(source, CallbackSet):
                raise ValueError(f"{source!r} is given twice, as {other!r} and {id!r}. Make one instance for each.")
        if id in by_id:
            raise ValueError(
                f"Two callbacks have the id {id!r}. Give ids of your own: CallbackSetAdapter({{'a': ..., 'b': ...}})."
            )
        by_id[id] = source
    return by_id


def generate(sources: Mapping[str, Source]) -> dict[str, CallbackSet]:
    """The CallbackSets of one fit by id, in the order in which they run."""
    callbacks = {}
    for id, source in sources.items():
        callbacks[id] = source if isinstance(source, CallbackSet) else source()
        check_instance(callbacks[id])
        check_weight(id, callbacks[id].weight)
    return dict(sorted(callbacks.items(), key=lambda item: item[1].weight))


def identify(source: Source) -> str:
    """The class name in snake case without the prefix `CallbackSet`, runs of capitals kept together.

    Example:
        >>> from callbacksets import CallbackSetEarlyStopping
        >>> identify(CallbackSetEarlyStopping)
        'early_stopping'
    """
    cls = source if isinstance(source, type) else type(source)
    name = cls.__name__.removeprefix("CallbackSet") or cls.__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def check_weight(id: str, weight: object) -> None:
    """Raise a `TypeError` unless the weight of a callback orders it among others."""
    if not isinstance(weight, numbers.Real) or isinstance(weight, bool) or math.isnan(weight):
        raise TypeError(f"Expected the weight of callback {id!r} to be a number but got {weight!r}.")


def _source(value: Any) -> Source:
    if isinstance(value, CallbackSet):
        check_weight(identify(value), value.weight)
        return value
    if isinstance(value, type) and issubclass(value, CallbackSet):
        _check_constructor(value)
        return value
    cls = value if isinstance(value, type) else type(value)
    if any(base.__name__ == "Callback" and "lightning" in base.__module__ for base in cls.__mro__):
        raise TypeError(
            f"{cls.__name__} is a Lightning callback, not a CallbackSet. Give it to the Trainer, beside the adapter: "
            f"Trainer(callbacks=[{cls.__name__}(...), CallbackSetAdapter(...)])."
        )
    raise TypeError(
        "Expected callbacks to be CallbackSet instances or classes, descriptors or dictionary keys, one of them, a "
        f"list or a mapping, but got {value!r}."
    )


def _check_constructor(cls: type[CallbackSet]) -> None:
    missing = [
        parameter.name
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if missing:
        raise TypeError(
            f"{cls.__name__} is given as a class but cannot be made without {listed(missing)}. Give an instance: "
            f"{cls.__name__}({', '.join(f'{name}=...' for name in missing)})."
        )
