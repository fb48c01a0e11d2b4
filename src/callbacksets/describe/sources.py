"""The argument `callbacks` of the adapter, and the CallbackSets that a fit makes from it."""

import inspect
import pydoc
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_warn

from callbacksets.base import CallbackSet, identify, misnamed_stages, stages_in_constructor, stages_of
from callbacksets.checks import did_you_mean, listed, plain, shown, weight
from callbacksets.describe.command_line import Configured
from callbacksets.describe.descriptor import TorchCallback
from callbacksets.describe.dictionary import t_clbk
from callbacksets.describe.param_set import ParamSet
from callbacksets.fit.lightning import is_a

Source = CallbackSet | type[CallbackSet] | TorchCallback
"""A callback, or something from which a fit makes a callback."""

if TYPE_CHECKING:
    Given = Source | str | Mapping[str, Any]
    Callbacks = Given | Iterable[Given] | Mapping[str, Given]
else:
    Callbacks = Configured  # LightningCLI would try each type of the union, and report an error for each
"""What the adapter accepts: one value, several values, or a mapping of ids to values. A list may contain such mappings.

Each value is a source, a key of the dictionary, or the mapping that a configuration file has for a callback.
"""

_ONE = (str, type, Mapping, CallbackSet, TorchCallback, set, frozenset)
_CONFIGURED = ("class_path", "init_args", "dict_kwargs")


def sources_by_id(callbacks: Callbacks) -> dict[str, Source]:
    """The sources in `callbacks`, by the ids of their callbacks.

    Args:
        callbacks: As for the adapter.

    Raises:
        KeyError: If a string is not a key of the dictionary.
        TypeError: If something is not a source of a CallbackSet.
        ValueError: If two callbacks have the same id, or if one instance has two ids.
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
                f"Two callbacks have the id {id!r}. Name them yourself: CallbackSetAdapter({{'a': ..., 'b': ...}})."
            )
        by_id[id] = source
    for id, source in by_id.items():
        weight(f"the weight of callback {id!r}", source.weight)
        _warn_of_missing_stages(id, source)
    return by_id


def _pairs(callbacks: Any) -> Iterator[tuple[Any, Source]]:
    if isinstance(callbacks, Mapping) and "class_path" not in callbacks:
        yield from _named(callbacks)
        return
    is_one = isinstance(callbacks, _ONE) or not isinstance(callbacks, Iterable)  # a set is refused: it has no order
    for value in [callbacks] if is_one else callbacks:
        if _is_by_id(value):
            yield from _named(value)
        else:
            source = _source(value)
            yield _id(source), source


def _named(callbacks: Mapping[Any, Any]) -> Iterator[tuple[Any, Source]]:
    return ((id, _source(value)) for id, value in callbacks.items())


def _is_by_id(value: Any) -> bool:
    """Whether an element of a list is a mapping of ids to callbacks, as `t_clbks()` returns it."""
    sources = (CallbackSet, TorchCallback, type)
    return isinstance(value, Mapping) and all(isinstance(one, sources) for one in value.values())


def _warn_of_missing_stages(id: str, source: Source) -> None:
    callback = source.generator if isinstance(source, TorchCallback) else source
    cls = callback if isinstance(callback, type) else type(callback)
    if misnamed := list(misnamed_stages(callback)):
        for name, stage in misnamed:
            rank_zero_warn(
                f"{cls.__name__}.{name}() looks like a stage, but the training loop never calls it. Rename it {stage}."
            )
    elif not (stages_of(callback) or stages_in_constructor(cls)) and cls.state_dict is CallbackSet.state_dict:
        rank_zero_warn(
            f"Callback {id!r} ({cls.__name__}) has no stage, so it will do nothing. Define on_<stage>(self)."
        )


def generate(sources: Mapping[str, Source]) -> dict[str, CallbackSet]:
    """The CallbackSets of one fit by id, in the order in which they run.

    Args:
        sources: The result of `sources_by_id()`.

    Raises:
        TypeError, ValueError: If a weight is not a number.
        Exception: The error of a constructor, with a note that names the callback.
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
        error.add_note(f"while making callback {id!r} for the fit")
        raise


def _id(source: Source) -> str:
    if isinstance(source, TorchCallback):
        return source.id
    return identify(source if isinstance(source, type) else type(source))


def _source(value: Any) -> Source:
    if isinstance(value, CallbackSet | TorchCallback):
        return value  # not a copy: values set later apply to the next fit
    if isinstance(value, str):
        return _described(value, {})
    if isinstance(value, type) and issubclass(value, CallbackSet):
        name = value.__name__
        _check_complete(f"{name} is given as a class but", ParamSet.from_callable(value), f"Give an instance: {name}(")
        return value
    if isinstance(value, Mapping):
        return _configured(value)
    _refuse_others(value)
    raise TypeError(
        "Expected callbacks to be CallbackSet instances or classes, descriptors or dictionary keys (one, a list or a "
        f"mapping) but got {shown(value)}."
    )


def _refuse_others(value: Any) -> None:
    """Refuse a Lightning callback or an adapter, and say where it belongs."""
    cls = value if isinstance(value, type) else type(value)
    if is_a(value, "AdapterHooks"):
        raise TypeError(
            f"Expected callbacks to be CallbackSets but got a {cls.__name__}. Use one adapter with the callbacks of "
            "both."
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
    """The source for a mapping of a configuration file: a key with its values, or a `class_path`."""
    if "class_path" in value:
        if unknown := [key for key in value if key not in _CONFIGURED]:
            raise TypeError(
                f"Only init_args and dict_kwargs can go with class_path, but got {listed(map(str, unknown))}."
                f"{did_you_mean(unknown[0], _CONFIGURED)}"
            )
        make: Any = pydoc.locate(str(value["class_path"]))
        if not callable(make):
            raise TypeError(f"The class_path {shown(value['class_path'])} cannot be imported.")
        _check_makes_a_source(make, value["class_path"])
        # LightningCLI has already tried, and will show the error that is raised here
        return _source(make(**value.get("init_args") or {}, **value.get("dict_kwargs") or {}))
    if len(value) == 1 and isinstance(next(iter(value.values())), Mapping):
        [(key, values)] = value.items()
        return _described(key, values)
    raise TypeError(
        "Expected a key of the dictionary with values, such as {'early_stopping': {'patience': 3}}, or a class_path "
        f"with init_args, but got {shown(dict(value))}. In a mapping of callbacks the keys are ids, so put keys with "
        "values into a list."
    )


def _check_makes_a_source(make: Any, class_path: object) -> None:
    """Raise a `TypeError` unless the object that a configuration file names is known to make a callback.

    This happens before the object is called.
    """
    made = make
    if not isinstance(make, type):
        try:
            made = typing.get_type_hints(make).get("return")
        except Exception:  # annotations may contain names that cannot be resolved
            made = inspect.signature(make).return_annotation
    if isinstance(made, type) and issubclass(made, CallbackSet | TorchCallback):
        return
    if made is make:
        _refuse_others(make)
    raise TypeError(
        f"Expected class_path to name a CallbackSet class, TorchCallback, or a function with a return annotation of "
        f"one of them (-> TorchCallback), but got {shown(class_path)}."
    )


def _check_complete(what: str, param_set: ParamSet, remedy: str) -> None:
    """Raise a `TypeError` if required values are missing, because nobody can set them later."""
    if missing := param_set.missing:
        values = ", ".join(f"{name}=..." for name in missing)
        raise TypeError(f"{what} cannot be made without {listed(missing)}. {remedy}{values}).")
