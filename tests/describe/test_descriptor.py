"""Descriptors: their fields, what they generate, what they refuse."""

import copy
import math
import pickle
import re
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from callbacksets import CallbackSet, CallbackSetEarlyStopping, CallbackSetHistory, ParamSet, TorchCallback, t_clbk
from tests.helpers import Tiny, ones, quiet


class CallbackSetSized(CallbackSet):
    """Has a size, and a weight."""

    weight = 3

    def __init__(self, size: int, name: str = "x") -> None:
        self.size, self.name = size, name


class CallbackSetWeighted(CallbackSet):
    def __init__(self, weight: float) -> None: ...


class CallbackSetWithContext(CallbackSet):
    def __init__(self, ctx: Any = None) -> None: ...


def test_defaults() -> None:
    descriptor = TorchCallback(CallbackSetSized)
    assert descriptor.generator is CallbackSetSized
    assert (descriptor.id, descriptor.label) == ("sized", "sized")
    assert (descriptor.packages, descriptor.man, descriptor.weight) == ([], None, CallbackSetSized.weight)
    assert descriptor.param_set.ids() == ["size", "name"]


def test_fields() -> None:
    param_set = ParamSet(["size"])
    descriptor = TorchCallback(
        CallbackSetSized,
        id="a",
        label="A",
        packages=["torch", "lightning.pytorch"],
        man="torch.nn",
        weight=math.inf,
        param_set=param_set,
    )
    assert (descriptor.id, descriptor.label, descriptor.packages) == ("a", "A", ["torch", "lightning.pytorch"])
    assert (descriptor.man, descriptor.weight) == ("torch.nn", math.inf)
    assert descriptor.param_set is param_set
    assert TorchCallback(CallbackSetSized, packages="torch").packages == ["torch"]


def test_generates_anew_from_the_values_it_has() -> None:
    descriptor = TorchCallback(CallbackSetSized)
    descriptor.param_set.set_values(size=1)
    first: Any = descriptor.generate()
    descriptor.param_set.set_values(size=2, name="y")
    second: Any = descriptor.generate()
    assert (first.size, first.name, second.size, second.name) == (1, "x", 2, "y")
    assert first is not descriptor.generate()


def test_a_parameter_is_no_attribute() -> None:
    descriptor: Any = t_clbk("early_stopping", patience=5)
    message = "'patience' is a parameter of callback 'early_stopping'. Set it with descriptor.param_set.set_values("
    with pytest.raises(AttributeError, match=re.escape(f"{message}patience=7).")):
        descriptor.patience = 7
    with pytest.raises(AttributeError, match=re.escape("'patience' is a parameter. Set it with set_values(")):
        descriptor.param_set.patience = 7
    with pytest.raises(AttributeError, match=re.escape("`values` is read-only. Set values with set_values(...).")):
        descriptor.param_set.values = {"patience": 7}
    assert descriptor.param_set.values == {"patience": 5}
    descriptor.label = "still a field"
    descriptor.note = "one's own"
    assert copy.deepcopy(descriptor).note == "one's own"


def test_weight() -> None:
    descriptor = TorchCallback(CallbackSetHistory)
    assert descriptor.weight == descriptor.generate().weight == CallbackSetHistory.weight
    descriptor.weight = 3
    assert descriptor.weight == descriptor.generate().weight == 3
    descriptor.weight = -math.inf
    assert descriptor.generate().weight == -math.inf
    assert CallbackSetHistory.weight == 0
    descriptor.weight = None
    assert descriptor.weight == descriptor.generate().weight == 0


def test_additional_args_are_no_parameters() -> None:
    descriptor = TorchCallback(CallbackSetSized, additional_args={"size": 5})
    callback: Any = descriptor.generate()
    assert descriptor.param_set.ids() == ["name"]
    assert callback.size == 5


def test_a_clone_has_parameters_of_its_own() -> None:
    descriptor = t_clbk("early_stopping", patience=5)
    clone = descriptor.clone()
    clone.param_set.set_values(patience=6)
    clone.packages.append("torch")
    clone.id = "other"
    assert descriptor.param_set.values == {"patience": 5}
    assert (descriptor.id, descriptor.packages) == ("early_stopping", [])
    assert (clone.id, clone.generator) == ("other", CallbackSetEarlyStopping)


def test_a_deep_clone_has_values_of_its_own_and_a_shallow_one_shares_them() -> None:
    shared = [1]
    descriptor = TorchCallback(CallbackSetSized, additional_args={"size": shared})
    assert descriptor.clone().generate().size == [1]
    assert descriptor.clone(deep=True).generate().size is not shared
    assert descriptor.clone(deep=False).generate().size is shared

    described = TorchCallback(CallbackSetSized)
    described.param_set.set_values(size=shared)
    assert described.clone().param_set.values["size"] is not shared
    assert described.clone(deep=False).param_set.values["size"] is shared


def test_a_value_that_cannot_be_copied_is_shared_only_when_asked_for() -> None:
    descriptor = TorchCallback(CallbackSetSized)
    descriptor.param_set.set_values(size=threading.Lock())
    with pytest.raises(TypeError, match="cannot pickle"):
        descriptor.clone()
    assert descriptor.clone(deep=False).generate().size is descriptor.param_set.values["size"]
    with pytest.raises(TypeError, match="Expected deep to be True or False but got 1"):
        descriptor.clone(deep=1)


@pytest.mark.parametrize("remake", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_can_be_copied_and_pickled(remake: Callable[[Any], Any]) -> None:
    descriptor = TorchCallback(CallbackSetSized, id="a", weight=2)
    descriptor.param_set.set_values(size=1)
    assert repr(remake(descriptor)) == repr(descriptor)
    assert remake(descriptor).generate().weight == 2


def test_prints(capsys: pytest.CaptureFixture[str]) -> None:
    descriptor = TorchCallback(CallbackSetSized, label="Sized", packages="torch")
    assert repr(descriptor) == "<TorchCallback sized: CallbackSetSized()>"
    descriptor.param_set.set_values(size=1, name="y")
    assert repr(descriptor) == "<TorchCallback sized: CallbackSetSized(size=1, name='y')>"
    descriptor.print()
    TorchCallback(CallbackSetHistory).print()
    assert capsys.readouterr().out == (
        "<TorchCallback:sized> Sized\n* Generator: CallbackSetSized\n* Parameters: size=1, name='y'\n"
        "* Packages: torch\n"
        "<TorchCallback:history> history\n* Generator: CallbackSetHistory\n* Parameters: -\n* Packages: -\n"
    )


@pytest.mark.parametrize(("man", "shown"), [(None, "Has a size, and a weight."), ("math.isnan", "isnan(x, /)")])
def test_help(man: str | None, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    TorchCallback(CallbackSetSized, man=man).help()
    assert shown in capsys.readouterr().out


def test_generate_needs_the_required_values() -> None:
    message = "Callback 'a' cannot be made without 'size'. Set it: descriptor.param_set.set_values(size=...)."
    with pytest.raises(TypeError, match=re.escape(message)):
        TorchCallback(CallbackSetSized, id="a").generate()


def test_generate_needs_the_packages() -> None:
    descriptor = TorchCallback(CallbackSetSized, packages=["torch", "no_such_thing", "no_such.thing"])
    message = "needs packages that are not installed: 'no_such_thing', 'no_such.thing'. Install them: pip install no_"
    with pytest.raises(ModuleNotFoundError, match=re.escape(message)):
        descriptor.generate()
    descriptor.packages = ["torch"]
    with pytest.raises(TypeError, match="without 'size'"):
        descriptor.generate()


def made(cls: Any = CallbackSetSized, **arguments: Any) -> Callable[[], Any]:
    return partial(TorchCallback, cls, **arguments)


def changed(field: str, value: Any) -> Callable[[], Any]:
    return lambda: setattr(TorchCallback(CallbackSetSized), field, value)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (made(int), TypeError, "Expected callback_generator to be a CallbackSet class but got <class 'int'>."),
        (made(lambda: CallbackSet()), TypeError, "Expected callback_generator to be a CallbackSet class but got <func"),
        (made(CallbackSetHistory()), TypeError, "Give its class: CallbackSetHistory."),
        (made(CallbackSetWeighted), ValueError, "A parameter of a callback cannot be called 'weight': it orders"),
        (made(CallbackSetWithContext), ValueError, "A parameter of a callback cannot be called 'ctx'"),
        (made(param_set=ParamSet(["ctx"])), ValueError, "A parameter of a callback cannot be called 'ctx'"),
        (made(param_set={"size": 3}), TypeError, "Expected param_set to be a ParamSet but got {'size': 3}."),
        (made(additional_args=[1]), TypeError, "Expected additional_args to be a mapping of names to values but got"),
        (made(id=""), ValueError, "Expected id to be a non-empty string but got ''."),
        (made(id=3), TypeError, "Expected id to be a string but got 3."),
        (made(label=3), TypeError, "Expected label to be a string but got 3."),
        (made(man=3), TypeError, "Expected man to be a string but got 3."),
        (made(packages=3), TypeError, "Expected packages to be a non-empty string or several but got 3."),
        (made(packages=["torch", ""]), ValueError, "Expected packages to be a non-empty string or several"),
        (made(weight="1"), TypeError, "Expected weight to be a number but got '1'."),
        (made(weight=math.nan), ValueError, "Expected weight to be a number but got nan."),
        (changed("weight", True), TypeError, "Expected weight to be a number but got True."),
        (changed("id", ""), ValueError, "Expected id to be a non-empty string but got ''."),
        (changed("generator", CallbackSetSized(1)), TypeError, "Expected callback_generator to be a CallbackSet"),
        (changed("param_set", None), TypeError, "Expected param_set to be a ParamSet but got None."),
    ],
)
def test_refuses(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()


@pytest.mark.parametrize("given", [TorchCallback(CallbackSetHistory), TorchCallback])
def test_is_no_lightning_callback(given: Any) -> None:
    trainer = quiet(callbacks=[given], max_epochs=1)
    with pytest.raises(TypeError, match=r"got .*TorchCallback. Wrap it: .*CallbackSetAdapter\(\[TorchCallback"):
        trainer.fit(Tiny(), ones(1))
