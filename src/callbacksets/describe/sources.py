"""What may be given to the adapter as `callbacks`, and the CallbackSets that a fit makes of it."""

import inspect
import pydoc
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn

from callbacksets.base import CallbackSet, identify, misnamed_stages, stages_in_constructor, stages_of
from callbacksets.checks import did_you_mean, listed, plain, shown, weight
from callbacksets.describe.descriptor import TorchCallback
from callbacksets.describe.dictionary import t_clbk
from callbacksets.describe.param_set import ParamSet
from callbacksets.fit.lightning import is_a

Source = CallbackSet | type[CallbackSet] | TorchCallback
"""What a fit takes a callback from, or makes one of."""

if TYPE_CHECKING:
    Given = Source | str | Mapping[str, Any]
    Callbacks = Given | Iterable[Given] | Mapping[str, Given]
else:
    Callbacks = Any  # LightningCLI would try each type of the union, and tell of each why it is not that
"""What the adapter takes: one, several, or a mapping of ids to them; among several there may be such mappings too.

Each is a source, a key of the dictionary, or what a configuration file says of one.
"""

_CONFIGURED = ("class_path", "init_args", "dict_kwargs")


def sources_by_id(callbacks: Callbacks) -> dict[str, Source]:
    """The sources in `callbacks` by the ids of the callbacks they will be.

    Args:
        callbacks: As for the adapter.

    Raises:
        KeyError: For a string that is no key of the dictionary.
        TypeError: For what is no source of a CallbackSet.
        ValueError: When two have the same id, or one instance has two ids.
    """
    by_id: dict[str, Source] = {}
    for given, source in _pairs(callbacks):
        if not isinstance(given, str) or not given:
            raise TypeError(f"Expected the ids of the callbacks to be non-empty strings but got {shown(given)}.")
        id = plain(given)
        for other, seen in by_id.items():
            if source is seen and isinstance(source, CallbackSet):
                raise ValueError(
                    f"{shown(source)} is given twice, as {other!r} and {id!r}. Make one instance for each."
                )
        if id in by_id:
            raise ValueError(
                f"Two callbacks have the id {id!r}. Give ids of your own: CallbackSetAdapter({{'a': ..., 'b': ...}})."
            )
        by_id[id] = source
    for id, source in by_id.items():
        _warn_of_missing_stages(id, source)
    return by_id


def _pairs(callbacks: Any) -> Iterator[tuple[Any, Source]]:
    if isinstance(callbacks, Mapping):
        _refuse_configured(callbacks)
        yield from _named(callbacks)
        return
    is_one = isinstance(callbacks, str | type | CallbackSet | TorchCallback) or not isinstance(callbacks, Iterable)
    for value in [callbacks] if is_one else callbacks:
        if _is_by_id(value):
            yield from _named(value)
        else:
            source = _source(value)
            yield _id(source), source


def _named(callbacks: Mapping[Any, Any]) -> Iterator[tuple[Any, Source]]:
    return ((id, _source(value)) for id, value in callbacks.items())


def _is_by_id(value: Any) -> bool:
    """Whether something in a list is a mapping of ids to callbacks, as `t_clbks()` gives."""
    sources = (CallbackSet, TorchCallback, type)
    return isinstance(value, Mapping) and all(isinstance(one, sources) for one in value.values())


def _warn_of_missing_stages(id: str, source: Source) -> None:
    callback = source.generator if isinstance(source, TorchCallback) else source
    cls = callback if isinstance(callback, type) else type(callback)
    if misnamed := list(misnamed_stages(callback)):
        for name, stage in misnamed:
            rank_zero_warn(f"{cls.__name__}.{name}() looks like a stage, but no loop calls it. Call it {stage}.")
    elif not (stages_of(callback) or stages_in_constructor(cls)) and cls.state_dict is CallbackSet.state_dict:
        rank_zero_warn(
            f"Callback {id!r} ({cls.__name__}) has no stage, so that nothing of it will run. Define on_<stage>(self)."
        )


def _refuse_configured(callbacks: Mapping[Any, Any]) -> None:
    """In a mapping, keys are ids: what a configuration file says of a callback goes into a list."""
    if "class_path" in callbacks:
        listed_instead: list[Any] = [dict(callbacks)]
    elif any(isinstance(value, Mapping) and not _is_configured(value) for value in callbacks.values()):
        listed_instead = [{key: value} for key, value in callbacks.items()]
    else:
        return
    raise TypeError(
        f"Expected callbacks to be a list, or a mapping of ids to callbacks, but got {shown(dict(callbacks))}. Keys "
        f"with their values go into a list: {shown(listed_instead)}."
    )


def generate(sources: Mapping[str, Source]) -> dict[str, CallbackSet]:
    """The CallbackSets of one fit by id, in the order in which they run.

    Args:
        sources: What `sources_by_id()` gave.

    Raises:
        TypeError, ValueError: For a weight that cannot be sorted by.
        Exception: What a constructor raises, with a note that says of which callback.
    """
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
    _refuse_others(value)
    raise TypeError(
        "Expected callbacks to be CallbackSet instances or classes, descriptors or dictionary keys, one of them, a "
        f"list or a mapping, but got {shown(value)}."
    )


def _refuse_others(value: Any) -> None:
    """Say where a Lightning callback, or an adapter, belongs."""
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
        make: Any = pydoc.locate(str(value["class_path"]))
        if not callable(make):
            raise TypeError(f"There is no class {shown(value['class_path'])} to import.")
        _check_makes_a_source(make, value["class_path"])
        # LightningCLI has tried, and will show the error that is raised here
        return _source(make(**value.get("init_args") or {}, **value.get("dict_kwargs") or {}))
    if _is_configured(value):
        [(key, values)] = value.items()
        return _described(key, values)
    raise TypeError(
        "Expected a key of the dictionary with its values, {'early_stopping': {'patience': 3}}, or a class_path with "
        f"init_args, but got {shown(dict(value))}."
    )


def _check_makes_a_source(make: Any, class_path: object) -> None:
    """Refuse what a configuration file names, before it is called, unless it is known to make a callback."""
    made = make
    if not isinstance(make, type):
        try:
            made = typing.get_type_hints(make).get("return")
        except Exception:  # annotations may name what cannot be found
            made = inspect.signature(make).return_annotation
    if isinstance(made, type) and issubclass(made, CallbackSet | TorchCallback):
        return
    if made is make:
        _refuse_others(make)
    raise TypeError(
        f"Expected class_path to name a CallbackSet class, TorchCallback, or a function that is annotated to return "
        f"one of them (-> TorchCallback), but got {shown(class_path)}."
    )


def _is_configured(value: Mapping[Any, Any]) -> bool:
    """Whether a mapping is a key with its values, or has a class path."""
    return "class_path" in value or (len(value) == 1 and isinstance(next(iter(value.values())), Mapping))


def _check_complete(what: str, param_set: ParamSet, remedy: str) -> None:
    """Raise a `TypeError` when what can be given no values any more needs some."""
    if missing := param_set.missing:
        values = ", ".join(f"{name}=..." for name in missing)
        raise TypeError(f"{what} cannot be made without {listed(missing)}. {remedy}{values}).")
