"""Parameters: from signatures, and given values."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from callbacksets import CallbackSet, CallbackSetEarlyStopping, ParamSet, checks
from callbacksets.checks import TO_COME


def function(a: int, b: float = 0.5, *args: Any, c: str, d: None = None, **kwargs: Any) -> None: ...


def takes_rest(a: str, d: int = 4, e: int = 5) -> None: ...


def plain(x: int, y: int = 2) -> None: ...


@pytest.mark.parametrize(
    ("param_set", "required", "defaults", "takes_more"),
    [
        (ParamSet(), [], {}, False),
        (ParamSet(["a"], {"b": 1}), ["a"], {"b": 1}, False),
        (ParamSet.from_callable(function), ["a", "c"], {"b": 0.5, "d": None}, True),
        (ParamSet.from_callable(function, without=("a", "d")), ["c"], {"b": 0.5}, True),
        (ParamSet.from_callable(function, takes_rest), ["a", "c"], {"d": None, "e": 5, "b": 0.5}, False),
        (ParamSet.from_callable(CallbackSet), [], {}, False),
        (
            ParamSet.from_callable(CallbackSetEarlyStopping),
            ["patience"],
            {"min_delta": 0.0, "restore_best_weights": False, "monitor": None, "mode": None},
            False,
        ),
    ],
)
def test_names(param_set: ParamSet, required: list[str], defaults: dict[str, Any], takes_more: bool) -> None:
    assert sorted(param_set.ids()) == sorted([*required, *defaults])
    assert param_set.required == param_set.missing == required
    assert param_set.defaults == defaults
    assert param_set.values == {}
    assert all(map(param_set.takes, param_set.ids()))
    assert param_set.takes("unheard_of") == takes_more


def test_ids_come_in_the_order_of_the_signature() -> None:
    assert ParamSet.from_callable(CallbackSetEarlyStopping).ids() == list(
        inspect.signature(CallbackSetEarlyStopping).parameters
    )
    assert ParamSet.from_callable(plain, takes_rest).ids() == ["x", "a", "y", "d", "e"]


def test_values() -> None:
    param_set = ParamSet.from_callable(plain)
    param_set.set_values(y=None)
    assert param_set.values == {"y": None}
    assert param_set.missing == ["x"]
    assert repr(param_set) == "ParamSet(x, y=None)"
    param_set.set_values(x=1, y=3)
    assert param_set.values == {"x": 1, "y": 3}
    assert param_set.missing == []
    assert param_set.required == ["x"]
    assert param_set.defaults == {"y": 2}
    assert repr(param_set) == "ParamSet(x=1, y=3)"


def test_values_of_any_name() -> None:
    param_set = ParamSet(any_other=True)
    param_set.set_values(z=1)
    assert param_set.values == {"z": 1}
    assert repr(param_set) == "ParamSet(z=1)"


def test_a_clone_has_values_of_its_own() -> None:
    param_set = ParamSet.from_callable(plain)
    param_set.set_values(x=1)
    clone = param_set.clone()
    clone.set_values(x=2)
    assert (param_set.values, clone.values) == ({"x": 1}, {"x": 2})


def test_nothing_is_set_when_a_name_is_wrong() -> None:
    param_set = ParamSet.from_callable(plain)
    with pytest.raises(TypeError, match=r"There is no parameter 'z'\. The parameters are 'x', 'y'"):
        param_set.set_values(x=1, z=2)
    assert param_set.values == {}


def test_a_check_gets_what_is_there_and_a_stand_in() -> None:
    seen: list[Any] = []
    param_set = ParamSet(["a", "b"], {"c": 1}, check=lambda **values: seen.append(values))
    param_set.set_values(b=2)
    assert seen == [{"a": TO_COME, "b": 2}]
    assert checks.whole_number("a", seen[0]["a"], at_least=1) is TO_COME


def assign(values: Any) -> None:
    values["x"] = 1


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: ParamSet.from_callable(CallbackSetEarlyStopping).set_values(patince=1), "Did you mean 'patience'?"),
        (lambda: ParamSet(["a", "b"], {"a": 1}), "names of parameters to be different but got 'a' twice"),
        (lambda: assign(ParamSet(["x"]).values), "does not support item assignment"),
        (lambda: assign(ParamSet(["x"]).defaults), "does not support item assignment"),
    ],
)
def test_refuses(do: Callable[[], None], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        do()
