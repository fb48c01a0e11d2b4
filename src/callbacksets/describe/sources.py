"""What may be given to the adapter as `callbacks`, and the CallbackSets that a fit makes of it."""

import pydoc
from collections.abc import Iterable, Mapping
from typing import Any

from callbacksets.base import CallbackSet, identify
from callbacksets.checks import did_you_mean, listed, weight
from callbacksets.describe.descriptor import TorchCallback
from callbacksets.describe.dictionary import t_clbk
from callbacksets.describe.param_set import ParamSet
from callbacksets.fit.lightning import is_a

Source = CallbackSet | type[CallbackSet] | TorchCallback

_CONFIGURED = ("class_path", "init_args", "dict_kwargs")


def sources_by_id(callbacks: Any) -> dict[str, Source]:
    """The sources in `callbacks` by the ids of the callbacks they will be.

    Raises:
        KeyError: For a string that is no key of the dictionary.
        TypeError: For what is no source of a CallbackSet.
        ValueError: When two have the same id, or one instance has two ids.
    """
    if isinstance(callbacks, Mapping):
        _refuse_configured(callbacks)
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


def _refuse_configured(callbacks: Mapping[Any, Any]) -> None:
    """In a mapping, keys are ids: what a configuration file says of a callback goes into a list."""
    if "class_path" in callbacks:
        listed_instead: list[Any] = [dict(callbacks)]
    elif any(isinstance(value, Mapping) and not _is_configured(value) for value in callbacks.values()):
        listed_instead = [{key: value} for key, value in callbacks.items()]
    else:
        return
    raise TypeError(
        f"Expected callbacks to be a list, or a mapping of ids to callbacks, but got {dict(callbacks)!r}. Keys with "
        f"their values go into a list: {listed_instead!r}."
    )


def generate(sources: Mapping[str, Source]) -> dict[str, CallbackSet]:
    """The CallbackSets of one fit by id, in the order in which they run."""
    callbacks = {id: _callback(id, source) for id, source in sources.items()}
    for id, callback in callbacks.items():
        weight(f"the weight of callback {id!r}", callback.weight)
    return dict(sorted(callbacks.items(), key=lambda item: item[1].weight))


def _callback(id: str, source: Source) -> CallbackSet:
    if isinstance(source, CallbackSet):
        return source
    try:
        return source.generate() if isinstance(source, TorchCallback) else source()
    except Exception as error:
        error.add_note(f"when callback {id!r} was made for the fit")
        raise


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
        weight(f"the weight of {name}", value.weight)
        _check_complete(f"{name} is given as a class but", ParamSet.from_callable(value), f"Give an instance: {name}(")
        return value
    if isinstance(value, Mapping):
        return _configured(value)
    cls = value if isinstance(value, type) else type(value)
    if is_a(value, "AdapterHooks"):
        raise TypeError(
            f"Expected callbacks to be CallbackSets but got a {cls.__name__}. Of two adapters make one, with the "
            "callbacks of both."
        )
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
        if unknown := [key for key in value if key not in _CONFIGURED]:
            raise TypeError(
                f"Expected beside class_path init_args or dict_kwargs but got {listed(map(str, unknown))}."
                f"{did_you_mean(unknown[0], _CONFIGURED)}"
            )
        make = pydoc.locate(str(value["class_path"]))
        if not callable(make):
            raise TypeError(f"There is no class {value['class_path']!r} to import.")
        # LightningCLI has tried, and will show the error that is raised here
        return _source(make(**value.get("init_args") or {}, **value.get("dict_kwargs") or {}))
    if _is_configured(value):
        [(key, values)] = value.items()
        return _described(key, values)
    raise TypeError(
        "Expected a key of the dictionary with its values, {'early_stopping': {'patience': 3}}, or a class_path with "
        f"init_args, but got {dict(value)!r}."
    )


def _is_configured(value: Mapping[Any, Any]) -> bool:
    """Whether a mapping is a key with its values, or has a class path."""
    return "class_path" in value or (len(value) == 1 and isinstance(next(iter(value.values())), Mapping))


def _check_complete(what: str, param_set: ParamSet, remedy: str) -> None:
    """Raise a `TypeError` when what can be given no values any more needs some."""
    if missing := param_set.missing:
        values = ", ".join(f"{name}=..." for name in missing)
        raise TypeError(f"{what} cannot be made without {listed(missing)}. {remedy}{values}).")
