"""The dictionary of callbacks: descriptors by key."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, overload

from torch.optim import lr_scheduler as torch_schedulers

from callbacksets.base import CallbackSet, stages_of
from callbacksets.callbacks.checkpoint import CallbackSetCheckpoint
from callbacksets.callbacks.early_stopping import CallbackSetEarlyStopping
from callbacksets.callbacks.grad_norm import CallbackSetGradNorm
from callbacksets.callbacks.history import CallbackSetHistory
from callbacksets.callbacks.lr_monitor import CallbackSetLRMonitor
from callbacksets.callbacks.lr_one_cycle import CallbackSetLRSchedulerOneCycle
from callbacksets.callbacks.lr_reduce_on_plateau import CallbackSetLRSchedulerReduceOnPlateau
from callbacksets.callbacks.nan_guard import CallbackSetNanGuard
from callbacksets.callbacks.predictions import CallbackSetPredictions
from callbacksets.callbacks.progress import CallbackSetProgress
from callbacksets.callbacks.tensorboard import CallbackSetTB
from callbacksets.callbacks.unfreeze import CallbackSetUnfreeze
from callbacksets.checks import did_you_mean, flag, listed, names_of, shown, text
from callbacksets.describe.descriptor import TorchCallback
from callbacksets.describe.schedulers import as_lr_scheduler, describe_scheduler
from callbacksets.show import html, tables

_FIELDS = ("id", "label", "weight")
_COLUMNS = ("key", "label", "weight", "packages", "stages")


class DictionaryTorchCallbacks(Mapping[str, TorchCallback]):
    """Descriptors by key. Each is made when it is looked up. The dictionary prints as a table.

    Example:
        >>> from callbacksets import torch_callback
        >>> callbacks = DictionaryTorchCallbacks()
        >>> callbacks.add("hello", lambda: torch_callback("hello", on_begin=lambda self: print("hello")))
        >>> callbacks["hello"]
        <TorchCallback hello: CallbackSetHello()>
        >>> callbacks
        key    label  weight  packages  stages
        hello  Hello  0       -         on_begin

    mlr3torch: `mlr3torch_callbacks`.
    """

    def __init__(self) -> None:
        self._makes: dict[str, Callable[[], TorchCallback]] = {}

    def add(self, key: str, make: Callable[[], TorchCallback]) -> None:
        """Add a descriptor to the dictionary. It replaces an existing one with the same key.

        Args:
            key: The key.
            make: A function without parameters that makes the descriptor.

        Raises:
            TypeError: If the key is not a string, or `make` is not a function.
            ValueError: If the key is empty.
        """
        text("key", key)
        if not callable(make) or isinstance(make, type):
            raise TypeError(f"Expected make to be a function that makes a TorchCallback but got {shown(make)}.")
        self._makes[key] = make

    def __getitem__(self, key: str) -> TorchCallback:
        if key not in self._makes:
            raise KeyError(
                f"There is no callback {shown(key)}.{did_you_mean(key, self._makes)} There are {listed(self)}."
            )
        descriptor = self._makes[key]()
        if not isinstance(descriptor, TorchCallback):
            raise TypeError(
                f"Expected the function added as {key!r} to make a TorchCallback but it returned {shown(descriptor)}."
            )
        return descriptor

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._makes))

    def __len__(self) -> int:
        return len(self._makes)

    def __repr__(self) -> str:
        return tables.as_text(_COLUMNS, [_row(*item) for item in self.items()])

    def _repr_html_(self) -> str:
        return html.table(
            "Callbacks", "t_clbk(key, ...) gives a descriptor.", _COLUMNS, [_row(*item) for item in self.items()]
        )


def _row(key: str, descriptor: TorchCallback) -> tuple[str, ...]:
    stages = ", ".join(stages_of(descriptor.generator))
    packages = ", ".join(descriptor.packages)
    return key, descriptor.label, f"{descriptor.weight:g}", packages or "-", stages or "-"


torch_callbacks: DictionaryTorchCallbacks = DictionaryTorchCallbacks()
"""The predefined callbacks, and the callbacks that users add."""

torch_callbacks.add("checkpoint", lambda: TorchCallback(CallbackSetCheckpoint, label="Checkpoint"))
torch_callbacks.add("early_stopping", lambda: TorchCallback(CallbackSetEarlyStopping, label="Early Stopping"))
torch_callbacks.add("grad_norm", lambda: TorchCallback(CallbackSetGradNorm, label="Gradient Norm"))
torch_callbacks.add("history", lambda: TorchCallback(CallbackSetHistory, label="History"))
torch_callbacks.add("lr_monitor", lambda: TorchCallback(CallbackSetLRMonitor, label="LR Monitor"))
torch_callbacks.add("nan_guard", lambda: TorchCallback(CallbackSetNanGuard, label="NaN Guard"))
torch_callbacks.add("predictions", lambda: TorchCallback(CallbackSetPredictions, label="Predictions"))
torch_callbacks.add("progress", lambda: TorchCallback(CallbackSetProgress, label="Progress"))
torch_callbacks.add("tb", lambda: TorchCallback(CallbackSetTB, label="TensorBoard", packages="tensorboard"))
torch_callbacks.add("unfreeze", lambda: TorchCallback(CallbackSetUnfreeze, label="Unfreeze"))

torch_callbacks.add("lr_cosine_annealing", lambda: as_lr_scheduler(torch_schedulers.CosineAnnealingLR, True))
torch_callbacks.add("lr_lambda", lambda: as_lr_scheduler(torch_schedulers.LambdaLR, True))
torch_callbacks.add("lr_multiplicative", lambda: as_lr_scheduler(torch_schedulers.MultiplicativeLR, True))
torch_callbacks.add("lr_step", lambda: as_lr_scheduler(torch_schedulers.StepLR, True))
torch_callbacks.add(
    "lr_one_cycle", lambda: describe_scheduler(CallbackSetLRSchedulerOneCycle, torch_schedulers.OneCycleLR)
)
torch_callbacks.add(
    "lr_reduce_on_plateau",
    lambda: describe_scheduler(CallbackSetLRSchedulerReduceOnPlateau, torch_schedulers.ReduceLROnPlateau),
)


@overload
def t_clbk() -> DictionaryTorchCallbacks: ...


@overload
def t_clbk(key: str, **values: Any) -> TorchCallback: ...


def t_clbk(key: str | None = None, **values: Any) -> TorchCallback | DictionaryTorchCallbacks:
    """A descriptor from the dictionary, with values of its parameters. Without a key, the dictionary itself.

    Example:
        >>> from callbacksets import t_clbk
        >>> t_clbk("early_stopping", patience=5)
        <TorchCallback early_stopping: CallbackSetEarlyStopping(patience=5)>
        >>> t_clbk("history_1").id
        'history_1'

    Args:
        key: The key. A key with a number, such as `"history_1"`, gives the callback `"history"` with that id.
        values: Values of parameters, or the `id`, `label` or `weight` of the descriptor.

    Raises:
        KeyError: If the dictionary has no such key.
        TypeError: If a name is not a parameter, or the key is not a string.
        ValueError: If the key, the id or the label is empty.
        TypeError, ValueError: If a callback of this package refuses a value.

    mlr3torch: `t_clbk()`.
    """
    if key is None and not values:
        return torch_callbacks
    key = text("key", key)
    numbered = re.fullmatch(r"(.+)_\d+", key)
    if numbered and key not in torch_callbacks and numbered[1] in torch_callbacks:
        descriptor = torch_callbacks[numbered[1]]
        descriptor.id = key
    else:
        descriptor = torch_callbacks[key]
    return _with_values(descriptor, values)


def _with_values(descriptor: TorchCallback, values: Mapping[str, Any]) -> TorchCallback:
    """The descriptor, with these values of parameters or fields."""
    param_set = descriptor.param_set
    given = {}
    for name, value in values.items():
        if name in _FIELDS and name not in param_set.ids():
            setattr(descriptor, name, value)
        elif param_set.takes(name):
            given[name] = value
        else:
            raise TypeError(
                f"Callback {descriptor.id!r} has no parameter {name!r}."
                f"{did_you_mean(name, [*param_set.ids(), *_FIELDS])} Its parameters are {listed(param_set.ids())}; you "
                f"can also set {listed(_FIELDS)}."
            )
    param_set.set_values(**given)
    return descriptor


@overload
def t_clbks() -> DictionaryTorchCallbacks: ...


@overload
def t_clbks(keys: Iterable[str] | Mapping[str, str], **values: Any) -> dict[str, TorchCallback]: ...


def t_clbks(
    keys: Iterable[str] | Mapping[str, str] | None = None, **values: Any
) -> dict[str, TorchCallback] | DictionaryTorchCallbacks:
    """Descriptors from the dictionary by id. Without keys, the dictionary itself.

    Example:
        >>> from callbacksets import t_clbks
        >>> t_clbks(["history", "progress"])["history"]
        <TorchCallback history: CallbackSetHistory()>
        >>> list(t_clbks({"scores": "history"}))
        ['scores']

    Args:
        keys: The keys, or a mapping from ids to keys.
        values: Values that each of them gets, as for `t_clbk()`.

    Raises:
        KeyError: If the dictionary has no such key.
        TypeError: If a key is not a string, or if a callback has no such parameter.
        ValueError: If a key is given twice, or an id is empty.

    mlr3torch: `t_clbks()`.
    """
    if keys is None and not values:
        return torch_callbacks
    if isinstance(keys, Mapping):
        return {id: as_torch_callback(t_clbk(key, **values), id=id) for id, key in keys.items()}
    descriptors: dict[str, TorchCallback] = {}
    for key in names_of("keys", keys):
        descriptor = t_clbk(key, **values)
        if descriptor.id in descriptors:
            one, two = (re.sub(r"(_\d+)?$", f"_{number}", key, count=1) for number in (1, 2))
            raise ValueError(f"{key!r} is given twice. Number the keys, as {one!r} and {two!r}, or map ids to keys.")
        descriptors[descriptor.id] = descriptor
    return descriptors


def as_torch_callback(
    x: TorchCallback | type[CallbackSet] | str, clone: bool = False, id: str | None = None, **values: Any
) -> TorchCallback:
    """Convert a `CallbackSet` class or a key of the dictionary to a descriptor.

    Example:
        >>> from callbacksets import CallbackSetHistory, as_torch_callback
        >>> as_torch_callback("early_stopping", patience=3)
        <TorchCallback early_stopping: CallbackSetEarlyStopping(patience=3)>
        >>> as_torch_callback(CallbackSetHistory, id="scores")
        <TorchCallback scores: CallbackSetHistory()>

    Args:
        x: A class, a key or a descriptor. A descriptor is returned as it is, or as a copy if it gets an id or values.
        clone: Whether to return a deep copy of a descriptor.
        id: The id of the descriptor; by default that of the class, the key or the descriptor.
        values: Values of parameters, or the `label` or `weight` of the descriptor.

    Raises:
        KeyError: If the dictionary has no such key.
        TypeError: If `x` is anything else. This includes an instance, because its arguments are unknown.
        TypeError, ValueError: As for `t_clbk()`.

    mlr3torch: `as_torch_callback()`.
    """
    flag("clone", clone)
    if isinstance(x, TorchCallback):
        changes = id is not None or bool(values)
        descriptor = x.clone(deep=clone) if clone or changes else x
    elif isinstance(x, str):
        descriptor = t_clbk(x)
    elif isinstance(x, type) and issubclass(x, CallbackSet):
        descriptor = TorchCallback(x)
    else:
        hint = f" Give its class, {type(x).__name__}, or give the instance to the adapter."
        raise TypeError(
            f"Expected x to be a TorchCallback, a CallbackSet class or a dictionary key but got {shown(x)}."
            f"{hint if isinstance(x, CallbackSet) else ''}"
        )
    if id is not None:
        descriptor.id = id
    return _with_values(descriptor, values)


def as_torch_callbacks(x: Any) -> list[TorchCallback]:
    """Convert one or several classes, keys or descriptors to a list of descriptors.

    Example:
        >>> from callbacksets import CallbackSetHistory, as_torch_callbacks
        >>> [descriptor.id for descriptor in as_torch_callbacks([CallbackSetHistory, "progress"])]
        ['history', 'progress']

    Args:
        x: One value that `as_torch_callback()` takes, a list of them, a mapping from ids to them, or None.

    Raises:
        KeyError, TypeError: As for `as_torch_callback()`.

    mlr3torch: `as_torch_callbacks()`.
    """
    if x is None:
        return []
    if isinstance(x, Mapping):
        return [as_torch_callback(value, id=id) for id, value in x.items()]
    several = isinstance(x, Iterable) and not isinstance(x, str | type | CallbackSet | TorchCallback)
    return [as_torch_callback(value) for value in (x if several else [x])]
