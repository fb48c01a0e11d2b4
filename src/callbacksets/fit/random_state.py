"""The random numbers of a fit: a resumed run draws the same numbers as an uninterrupted run.

Lightning does not restore random states. These are kept: those of Python, NumPy, torch and the rank's device, and of
the generators that the loaders hold, in their samplers and data sets too.
"""

import random
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from callbacksets.fit.lightning import is_a

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

Numbers = dict[str, Any]
"""The states of the generators of one rank, as types that load with `weights_only=True`."""


class SavedRandom(TypedDict):
    """The random states of one rank in a checkpoint.

    `now` is the state when the checkpoint was saved; inside a validation, when that began, because it runs again. The
    others are there while an epoch is open, and bring back the order of its data: `batches` is the state before its
    first batch was read. The iterator of a run's first epoch is older: `order` is the state before it was made.
    """

    now: Numbers
    order: Numbers | None
    batches: Numbers | None


def collect(trainer: "Trainer") -> Numbers:
    """The states of all generators."""
    device = trainer.strategy.root_device
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": _bytes(torch.get_rng_state()),
        "device": None if device.type == "cpu" else _bytes(getattr(torch, device.type).get_rng_state()),
        "loaders": [_state_of(generator) for generator in generators(trainer)],
        "persistent": any(getattr(loader, "_iterator", None) for loader in persistent(trainer.val_dataloaders)),
    }


def with_lists(numbers: Any) -> Any:
    """The same with lists for arrays, for a checkpoint. `collect()` does not convert, to be fast."""
    if isinstance(numbers, dict):
        return {name: with_lists(value) for name, value in numbers.items()}
    if isinstance(numbers, list):
        return [with_lists(value) for value in numbers]
    return numbers.tolist() if isinstance(numbers, np.ndarray) else numbers


def restore(trainer: "Trainer", numbers: Numbers) -> None:
    """Restore the states of all generators."""
    random.setstate(_python(numbers["python"]))
    if numbers["numpy"] is not None:  # version 0.2 did not keep another generator than NumPy's default
        np.random.set_state(numbers["numpy"])
    torch.set_rng_state(_tensor(numbers["torch"]))
    device = trainer.strategy.root_device
    if numbers["device"] is not None and device.type != "cpu":
        getattr(torch, device.type).set_rng_state(_tensor(numbers["device"]))
    for generator, state in zip(generators(trainer), numbers.get("loaders", ()), strict=False):
        _set_state(generator, state)


def persistent(loaders: Any) -> list[Any]:
    """Those that keep their worker processes. torch draws a seed when it starts these, and not for later iterators."""
    return [loader for loader in tree_leaves(loaders) if getattr(loader, "persistent_workers", False)]


def generators(trainer: "Trainer") -> list[Any]:
    """The generators that the loaders hold, also in samplers and data sets, always in the same order."""
    seen: set[int] = set()
    loaders = tree_leaves([trainer.train_dataloader, trainer.val_dataloaders])
    return [generator for loader in loaders for generator in _held_by(loader, seen, depth=5)]


_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_OTHERS = (type, ModuleType, FunctionType, MethodType, Tensor, np.ndarray, nn.Module, str, bytes)
_FEW = 32  # a long list has data, not generators


def _held_by(thing: Any, seen: set[int], depth: int) -> Iterator[Any]:
    if not depth or id(thing) in seen or isinstance(thing, _OTHERS):
        return
    seen.add(id(thing))
    if isinstance(thing, _GENERATORS):
        yield thing
        return
    if isinstance(thing, dict):
        parts = list(thing.values())[:_FEW]
    elif isinstance(thing, list | tuple):
        parts = list(thing[:_FEW])
    else:
        is_other = is_a(thing, "Trainer") or is_a(thing, "_BaseDataLoaderIter")
        parts = [] if is_other else list(getattr(thing, "__dict__", {}).values())
    for part in parts:
        yield from _held_by(part, seen, depth - 1)


def _state_of(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return _bytes(generator.get_state())
    if isinstance(generator, random.Random):
        return generator.getstate()
    is_legacy = isinstance(generator, np.random.RandomState)
    return generator.get_state(legacy=False) if is_legacy else generator.bit_generator.state


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(_tensor(state))
    elif isinstance(generator, random.Random):
        generator.setstate(_python(state))
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state


def _python(state: Any) -> Any:
    version, internal, gauss = state
    return version, tuple(internal), gauss


def _bytes(state: Tensor) -> bytes:
    return state.cpu().numpy().tobytes()


def _tensor(state: bytes | Tensor) -> Tensor:
    return state.cpu() if isinstance(state, Tensor) else torch.frombuffer(bytearray(state), dtype=torch.uint8)
