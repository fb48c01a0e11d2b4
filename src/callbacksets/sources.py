"""What may be given to the adapter as `callbacks`, and the CallbackSets that a fit makes of it."""

import pydoc
from collections.abc import Iterable, Mapping
from typing import Any

from callbacksets.arguments import weight
from callbacksets.base import CallbackSet, identify
from callbacksets.descriptor import TorchCallback
from callbacksets.dictionary import t_clbk
from callbacksets.errors import listed
from callbacksets.param_set import ParamSet

Source = CallbackSet | type[CallbackSet] | TorchCallback


def sources_by_id(callbacks: Any) -> dict[str, Source]:
    """The sources in `callbacks` by the ids of the callbacks they will be.

    Raises:
        KeyError: For a string that is no key of the dictionary.
        TypeError: For what is no source of a CallbackSet.
        ValueError: When two have the same id, or one instance has two ids.
    """
    if isinstance(callbacks, Mapping):
        pairs = [(key, _source(value)) for key, value in callbacks.items()]
    else:
        several = isinstance(callbacks, Iterable) and not isinstance(
            callbacks, str | type | CallbackSet | TorchCallback
        )
        sources = [_source(value) for value in (callbacks if several else [callbacks])]
        pairs = [(_id(source), source) for source in sources]

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
    callbacks = {id: _callback(source) for id, source in sources.items()}
    for id, callback in callbacks.items():
        weight(f"the weight of callback {id!r}", callback.weight)
    return dict(sorted(callbacks.items(), key=lambda item: item[1].weight))


def _callback(source: Source) -> CallbackSet:
    if isinstance(source, CallbackSet):
        return source
    return source.generate() if isinstance(source, TorchCallback) else source()


def _id(source: Source) -> str:
    if isinstance(source, TorchCallback):
        return source.id
    return identify(source if isinstance(source, type) else type(source))


def _source(value: Any) -> Source:
    if isinstance(value, CallbackSet):
        weight(f"the weight of callback {_id(value)!r}", value.weight)
        return value
    if isinstance(value, TorchCallback):
        return value  # as it is: values that it is given later count
    if isinstance(value, str):
        return _described(value, {})
    if isinstance(value, type) and issubclass(value, CallbackSet):
        name = value.__name__
        _check_complete(f"{name} is given as a class but", ParamSet.from_callable(value), f"Give an instance: {name}(")
        return value
    if isinstance(value, Mapping):
        return _configured(value)
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


def _described(key: str, values: Mapping[str, Any]) -> TorchCallback:
    descriptor = t_clbk(key, **values)
    _check_complete(repr(key), descriptor.param_set, f"Give a descriptor: t_clbk({key!r}, ")
    return descriptor


def _configured(value: Mapping[str, Any]) -> Source:
    """What a configuration file says: a key with its values, or a `class_path` that LightningCLI did not make."""
    if "class_path" in value:
        make = pydoc.locate(str(value["class_path"]))
        if not callable(make):
            raise TypeError(f"There is no class {value['class_path']!r} to import.")
        # LightningCLI has tried, and will show the error that is raised here
        return _source(make(**value.get("init_args", {}), **value.get("dict_kwargs", {})))
    if len(value) == 1:
        [(key, values)] = value.items()
        if isinstance(values, Mapping):
            return _described(key, values)
    raise TypeError(
        "Expected a key of the dictionary with its values, {'early_stopping': {'patience': 3}}, or a class_path with "
        f"init_args, but got {dict(value)!r}."
    )


def _check_complete(what: str, param_set: ParamSet, remedy: str) -> None:
    """Raise a `TypeError` when what can be given no values any more needs some."""
    if missing := param_set.missing:
        values = ", ".join(f"{name}=..." for name in missing)
        raise TypeError(f"{what} cannot be made without {listed(missing)}. {remedy}{values}).")
