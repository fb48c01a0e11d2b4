"""Every predefined callback passes all checks, and none passes that was made worse."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import pytest
import torch

from callbacksets import CallbackSet
from tests.helpers import RELEASE, Tiny, ones
from tests.testing.helpers import PREDEFINED, Make, failed

SIMPLE = (
    "lr_cosine_annealing",
    "lr_lambda",
    "lr_multiplicative",
    "lr_monitor",
    "nan_guard",
    "tb",
    "grad_norm",
    "lr_one_cycle",
)
"""These have no state or a small one, or differ from `lr_step` only in the class of torch."""

STATE_CHECKS = ["round_trip", "begin_keeps_state", "no_aliasing", "resume"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=RELEASE) if name in SIMPLE else name for name in PREDEFINED],
)
def test_predefined(name: str) -> None:
    assert not failed(PREDEFINED[name])


# --- mutations -------------------------------------------------------------------------------------------------------


def subclass(make: Make, **members: Any) -> Make:
    """Makes callbacks of a class that differs from the other's."""

    def make_mutant() -> CallbackSet:
        callback = make()
        callback.__class__ = type(type(callback).__name__, (type(callback),), members)
        for name in members:
            vars(callback).pop(name, None)  # a stage that the callback has switched off
        return callback

    return make_mutant


def stage_of(name: str, then: Callable[[CallbackSet], None]) -> dict[str, Any]:
    """A stage that does what the callback did in it, and then something else."""

    def method(self: CallbackSet) -> None:
        if stage := getattr(super(type(self), self), name, None):
            stage()
        then(self)

    return {name: method}


def without_a_line(function: Callable[..., Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The function less one of its statements, for each of them."""
    source = textwrap.dedent(inspect.getsource(function))
    for line in range(len(ast.parse(source).body[0].body)):
        tree = ast.parse(source)
        definition: Any = tree.body[0]
        removed = definition.body[line]
        if isinstance(removed, ast.Expr) and isinstance(removed.value, ast.Constant):
            continue  # a docstring
        definition.body[line] = ast.copy_location(ast.Pass(), removed)
        namespace = dict(inspect.getmodule(function).__dict__)
        # with the cell that a `super()` in it needs
        code = ast.parse("def made(__class__):\n    return None").body[0]
        code.body = [definition, ast.Return(ast.Name(definition.name, ast.Load()))]
        exec(compile(ast.fix_missing_locations(ast.Module([code], [])), "<mutant>", "exec"), namespace)
        yield ast.unparse(removed), namespace["made"](owner_of(function))


def owner_of(function: Callable[..., Any]) -> type:
    return inspect.getmodule(function).__dict__[function.__qualname__.split(".")[0]]


def starts_over_always(make: Make) -> dict[str, Any]:
    def on_begin(self: CallbackSet) -> None:
        ctx = self.ctx
        vars(self).clear()
        vars(self).update(vars(make()))
        self.ctx = ctx
        if stage := getattr(super(type(self), self), "on_begin", None):
            stage()

    return {"on_begin": on_begin}


def live_state(self: CallbackSet) -> Any:
    if (state := super(type(self), self).state_dict()) is None:
        return None
    live = vars(self).setdefault("live", {})
    live.clear()
    live.update(state)
    return live


EQUIVALENT = {
    ("unfreeze", "over"): "what is to be trained follows from the epochs and batches",
    ("unfreeze", "line"): "what is to be trained follows from the epochs and batches",
    ("checkpoint", "live"): "its state stays what it is",
    ("history", "if not self.rows and self.ctx is not None:"): "all epochs have scores, unless a module logs late",
    (
        "early_stopping",
        "self._validated = state_dict.get('validated_weights')",
    ): "shows only where somebody validates with other weights than it trains",
}
"""Mutations that change nothing that a fit could show."""

STATEFUL = {
    name: make
    for name, make in PREDEFINED.items()
    if type(make()).load_state_dict is not CallbackSet.load_state_dict and ", " not in name
}
OF_STATE: dict[str, Make] = {}


class Scheduled(Tiny):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def scheduled() -> Any:
    return Scheduled(), ones(3), ones(1)


TRAINING = {"lr_monitor: a live state": scheduled}
"""Where what is worse shows: in a fit with one rate, a live state stays what it is."""

for name, make in STATEFUL.items():
    if (name, "over") not in EQUIVALENT:
        OF_STATE[f"{name}: starts over in begin"] = subclass(make, **starts_over_always(make))
    if (name, "live") not in EQUIVALENT:
        OF_STATE[f"{name}: a live state"] = subclass(make, state_dict=live_state)
    if (name, "line") not in EQUIVALENT:
        for removed, mutant in without_a_line(type(make()).load_state_dict):
            if (name, removed.split("\n")[0]) in EQUIVALENT:
                continue
            OF_STATE[f"{name}: without {removed}"] = subclass(make, load_state_dict=mutant)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("mutant", OF_STATE)
def test_a_state_made_worse_is_found(mutant: str) -> None:
    assert any(failed(OF_STATE[mutant], checks=check, training=TRAINING.get(mutant)) for check in STATE_CHECKS)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("name", STATEFUL)
def test_no_mutant_is_found_for_being_one(name: str) -> None:
    assert not failed(subclass(STATEFUL[name]), checks=["leaves_training_alone", *STATE_CHECKS])


def halve(callback: CallbackSet) -> None:
    with torch.no_grad():
        for parameter in callback.ctx.network.parameters():
            parameter.mul_(0.5)


def double(callback: CallbackSet) -> None:
    with torch.no_grad():
        for parameter in callback.ctx.network.parameters():
            parameter.mul_(2.0)


OF_TRAINING: dict[str, dict[str, Any]] = {
    "leaves eval mode": stage_of("on_epoch_end", lambda callback: callback.ctx.network.eval() and None),
    "validates in training mode": stage_of("on_before_valid", lambda callback: callback.ctx.network.train() and None),
    "swaps weights": stage_of("on_before_valid", halve) | stage_of("on_valid_end", double),
}


HARMED = list(zip((name for name in PREDEFINED if ", " not in name), cycle(OF_TRAINING), strict=False))
"""Each callback with one of the mutations, each mutation with several callbacks."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mutation"), HARMED)
def test_harm_to_training_is_found(name: str, mutation: str) -> None:
    mutant = subclass(PREDEFINED[name], **OF_TRAINING[mutation])
    assert failed(mutant, checks="leaves_training_alone") == ["leaves_training_alone"]
