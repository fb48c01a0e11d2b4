"""Single values from the command line of LightningCLI, such as `--...callbacks.early_stopping.patience=2`."""

import copy
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from callbacksets.base import snake_case
from callbacksets.checks import did_you_mean, listed, shown
from callbacksets.fit.lightning import is_a


class Configured:
    """The type of the adapter's argument `callbacks` for jsonargparse, the parser of LightningCLI.

    A configuration file gives the whole argument, and an option of the command line gives a part of it. jsonargparse
    replaces a former value by a later one, unless both are Namespaces, which it merges. So each of them becomes a
    Namespace, with either `given` or `changes`, and the adapter gets one that has both.
    """


def from_configuration(callbacks: Any) -> Any:
    """The argument `callbacks` as a program would give it. Only what comes from a configuration is changed."""
    if not is_a(callbacks, "Namespace"):
        return callbacks
    parser = _parser()  # it makes what has a class_path, with arguments of the right types
    return parser.instantiate_classes(parser.parse_object({"any": _merged(callbacks)})).any


@contextmanager
def reason_last(callbacks: Any) -> Iterator[None]:
    """Ends the program after an error in a configuration, as jsonargparse does after those that it finds itself.

    It would take any other exception for a reason to try the next type of the Trainer's `callbacks`, and end in what it
    had expected of each, long after the reason. Of the traceback, only the place of the error is shown.
    """
    try:
        yield
    except Exception as error:
        if not is_a(callbacks, "Namespace"):
            raise
        traceback.print_exception(error, limit=-1, chain=False)
        raise SystemExit(2) from error


def with_values(given: Any, values: Mapping[str, Any]) -> Any:
    """The callbacks of a configuration with other values.

    Args:
        given: The callbacks: a key, a list, or a mapping of ids, as in YAML.
        values: The values by parameter, by id or key of the callback. In a mapping of ids, there is the key in between.

    Raises:
        ValueError: If there is no such callback.
    """
    has_ids = isinstance(given, Mapping) and "class_path" not in given
    entries: dict[Any, Any] = dict(given if has_ids else enumerate(given if isinstance(given, list) else [given]))
    places: dict[str, Any] = {}
    for place, entry in entries.items():
        for name in [place] if has_ids else _names(entry):
            places.setdefault(name, place)
    for name, new in values.items():
        if name not in places or not isinstance(new, Mapping):
            raise ValueError(
                f"Expected the command line to set values as <callback>.<parameter>=... but got {name!r} with "
                f"{shown(new)}.{did_you_mean(name, places)} The callbacks are {listed(places)}."
            )
        entries[places[name]] = _with_values(name, entries[places[name]], new, has_ids)
    return entries if has_ids else list(entries.values())


def _with_values(name: str, entry: Any, new: Mapping[str, Any], has_id: bool) -> Any:
    if "class_path" in entry:
        return {**entry, "init_args": {**(entry.get("init_args") or {}), **new.get("init_args", new)}}
    [(key, values)] = [(entry, {})] if isinstance(entry, str) else entry.items()
    if has_id and (list(new) != [key] or not isinstance(new[key], Mapping)):
        raise ValueError(
            f"Callback {name!r} is made from the key {key!r}, so set its values as {name}.{key}.<parameter>=... but "
            f"not as {shown(new)}."
        )
    return {key: {**(values or {}), **(new[key] if has_id else new)}}


def _names(entry: Any) -> list[str]:
    """The id of a callback in a list, and its key."""
    if isinstance(entry, str):
        return [entry]
    if "class_path" in entry:
        name = str(entry["class_path"]).rpartition(".")[2]
        return [snake_case(name.removeprefix("CallbackSet") or name)]
    return [name for key, values in entry.items() for name in ((values or {}).get("id", key), key)]


def _merged(config: Any) -> Any:
    """The configuration as one would write it in YAML."""
    given, changes = copy.deepcopy(config.get("given", [])), config.get("changes")
    return given if changes is None else with_values(given, changes.as_dict())


def _namespace(value: Any) -> Any:
    """What a file gives, or an option of the command line for a part of it: a tuple of its name and its text."""
    namespace: Any = Namespace()  # type: ignore[no-untyped-call]
    if isinstance(value, tuple):
        key, text = value
        namespace[f"changes.{key}"] = _parser().parse_object({"any": text}).any  # a number from its text
    else:
        namespace["given"] = value
    return namespace


def _parser() -> Any:
    """A parser of one value of any type."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--any", type=Any)
    return parser


with suppress(ImportError):  # jsonargparse is optional
    from jsonargparse import ArgumentParser, Namespace
    from jsonargparse.typing import register_type

    register_type(
        Configured, _merged, deserializer=_namespace, type_check=lambda value, _: isinstance(value, Namespace)
    )
