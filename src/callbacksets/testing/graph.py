"""Finding tensors that keep the graph that computed them."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

from callbacksets.base import CallbackSet


def held_graph(callback: CallbackSet) -> str | None:
    """What is wrong if an attribute or the state of a callback holds a tensor with its graph; None if none does."""
    found = [path for name, value in vars(callback).items() for path in _with_graph(value, f"self.{name}")]
    if not found:
        with suppress(Exception):  # another check reports this failure
            found = list(_with_graph(callback.state_dict(), "state_dict()"))
    if not found:
        return None
    return (
        f"{found[0]} holds a tensor with the graph that computed it. The graph keeps all activations of its step in "
        "memory, and such a tensor can be neither copied nor saved. Keep tensor.detach(), or "
        "tensor.detach().clone() if the tensor changes later."
    )


def _with_graph(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            yield path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _with_graph(item, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple | set | frozenset):
        for position, item in enumerate(value):
            yield from _with_graph(item, f"{path}[{position}]")
