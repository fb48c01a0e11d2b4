"""Classes and descriptors made of functions."""

import copy
import math
import pickle
import re
import sys
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any

import pytest
import torch

from callbacksets import CallbackSet, CallbackSetEarlyStopping, TorchCallback, callback_set, torch_callback
from callbacksets.base import STAGES


def nothing(self: Any) -> None: ...


def load(self: Any, state_dict: Any) -> None: ...


CallbackSetPickled = callback_set(
    "CallbackSetPickled",
    on_begin=lambda self: self.seen.append("begin"),
    public={"seen": []},
    private={"count": 0},
)
described = torch_callback("described", initialize=lambda self, size: setattr(self, "size", size))
CallbackSetDescribed = described.generator


def test_a_class_of_functions() -> None:
    def initialize(self: Any, alpha: float = 0.1) -> None:
        self.alpha, self.ema = alpha, None

    def on_batch_end(self: Any) -> None:
        loss = self.ctx
        self.ema = loss if self.ema is None else self.alpha * loss + (1 - self.alpha) * self.ema

    cls = callback_set(
        "CallbackSetLossEma",
        on_batch_end=on_batch_end,
        initialize=initialize,
        state_dict=lambda self: {"ema": self.ema},
        load_state_dict=lambda self, state_dict: setattr(self, "ema", state_dict["ema"]),
        weight=3,
    )
    callback: Any = cls(alpha=0.5)
    for callback.ctx in (1.0, 2.0):
        callback.on_batch_end()
    other: Any = cls()
    other.load_state_dict(callback.state_dict())

    assert issubclass(cls, CallbackSet)
    assert cls.__name__ == "CallbackSetLossEma"
    assert callback.stages == ["on_batch_end"]
    assert callback.weight == 3
    assert other.ema == callback.ema == 1.5


def test_every_stage_can_be_given() -> None:
    assert callback_set("CallbackSetAll", **dict.fromkeys(STAGES, nothing))().stages == list(STAGES)


def test_public_values_are_copied_for_each_instance() -> None:
    given = {"seen": [], "network": torch.nn.Linear(1, 1)}
    cls = callback_set("CallbackSetX", public=given)
    first: Any = cls()
    second: Any = cls()
    given["seen"].append("later")
    first.seen.append("first")
    assert (first.seen, second.seen) == (["first"], [])
    assert first.network is first.network
    assert first.network is not second.network
    second.seen = 3
    assert (first.seen, second.seen) == (["first"], 3)


def test_members() -> None:
    cls = callback_set(
        "CallbackSetX",
        public={
            "double": lambda self: 2 * self.size,
            "size": 3,
            "shape": property(lambda self: (self.size,)),
            "loss": torch.nn.MSELoss(),
        },
        private={"rate": 0.1, "half": lambda self: self.size / 2},
        active={
            "area": lambda self: self.size**2,
            "rate": lambda self, value=None: self._rate if value is None else setattr(self, "_rate", value),
            "side": property(lambda self: self.size),
        },
    )
    callback: Any = cls()
    assert (callback.double(), callback.shape, callback._half(), callback.area, callback.side) == (6, (3,), 1.5, 9, 3)
    assert callback.loss(torch.ones(1), torch.zeros(1)) == 1
    callback.rate = 0.2
    assert callback.rate == callback._rate == 0.2
    with pytest.raises(AttributeError):
        callback.area = 4


def test_inherits() -> None:
    cls = callback_set(
        "CallbackSetPatient",
        inherit=CallbackSetEarlyStopping,
        initialize=lambda self: CallbackSetEarlyStopping.__init__(self, patience=7),
        on_exit=None,
        on_end=nothing,
    )
    callback: Any = cls()
    assert callback.patience == 7
    assert callback.weight == CallbackSetEarlyStopping.weight
    assert callback.stages == ["on_begin", "on_valid_end", "on_end"]
    assert callback_set("CallbackSetLate", inherit=cls, weight=math.inf).weight == math.inf


def test_calls_what_it_inherits() -> None:
    parent = callback_set("CallbackSetParent", on_begin=lambda self: self.seen.append("parent"), public={"seen": []})

    def on_begin(self: Any) -> None:
        super(child, self).on_begin()
        parent.on_begin(self)  # type: ignore[attr-defined]
        self.seen.append("child")

    child: Any = callback_set("CallbackSetChild", inherit=parent, on_begin=on_begin)
    callback = child()
    callback.on_begin()
    assert callback.seen == ["parent", "parent", "child"]


def test_the_constructor_is_inherited() -> None:
    cls = callback_set("CallbackSetStop", inherit=CallbackSetEarlyStopping, public={"note": "x"})
    assert TorchCallback(cls).param_set.required == ["patience"]


def test_locked_objects() -> None:
    cls = callback_set(
        "CallbackSetX",
        public={"size": 1},
        private={"count": 0},
        active={"rate": lambda self, value=None: None},
        lock_objects=True,
    )
    callback: Any = cls()
    callback.size, callback._count, callback.rate, callback.ctx, callback.weight = 2, 3, 4, None, 5
    callback.on_end = lambda: None
    assert callback.stages == ["on_end"]
    with pytest.raises(AttributeError, match=r"CallbackSetX declares no attribute 'sise'.* Did you mean 'size'\?"):
        callback.sise = 2
    assert copy.copy(callback).size == 2
    for inherit in (CallbackSet, cls):  # as in R, the class decides and not the one it inherits from
        unlocked: Any = callback_set("CallbackSetY", public={"size": 1}, inherit=inherit)()
        unlocked.sise = 2
        assert unlocked.sise == 2
    locked: Any = callback_set("CallbackSetZ", inherit=cls, lock_objects=True)()
    with pytest.raises(AttributeError, match="its objects are locked"):
        locked.sise = 2


def test_pickles() -> None:
    callback: Any = CallbackSetPickled()
    callback.on_begin()
    callback._count += 1
    restored = pickle.loads(pickle.dumps(callback))
    assert type(restored) is CallbackSetPickled
    assert (restored.seen, restored._count) == (["begin"], 1)
    assert pickle.loads(pickle.dumps(CallbackSetPickled())).seen == []
    assert copy.deepcopy(callback).seen == ["begin"]

    described.param_set.set_values(size=3)
    assert pickle.loads(pickle.dumps(described)).generate().size == 3


def test_torch_callback() -> None:
    descriptor = torch_callback("gradient_clipper", on_after_backward=nothing, weight=4, packages="torch", man="torch")
    assert descriptor.generator.__name__ == "CallbackSetGradientClipper"
    assert descriptor.generator.__module__ == __name__
    assert (descriptor.id, descriptor.label) == ("gradient_clipper", "Gradient_clipper")
    assert (descriptor.packages, descriptor.man) == (["torch"], "torch")
    assert descriptor.generate().stages == ["on_after_backward"]
    assert descriptor.generate().weight == 4

    descriptor = torch_callback("x", classname="CallbackSetOther", label="Ex")
    assert (descriptor.generator.__name__, descriptor.label) == ("CallbackSetOther", "Ex")


def test_parameters_are_those_of_initialize() -> None:
    assert described.param_set.ids() == ["size"]
    given = torch_callback("x", initialize=lambda self, size, more: None, additional_args={"more": 1})
    assert given.param_set.ids() == ["size"]
    assert torch_callback("x").param_set.ids() == []


def test_the_constructor_may_be_public() -> None:
    def initialize(self: Any, size: int) -> None:
        self.size = size

    made: Any = callback_set("CallbackSetX", public={"initialize": initialize, "other": 1})(size=3)
    assert (made.size, made.other) == (3, 1)


def test_a_function_without_self_may_be_static() -> None:
    made: Any = callback_set("CallbackSetX", public={"add": staticmethod(lambda: 1), "any": lambda *args: len(args)})()
    assert (made.add(), made.any()) == (1, 1)


def refused(cls: Callable[..., Any] = callback_set, name: str = "CallbackSetX", **arguments: Any) -> Callable[[], Any]:
    return partial(cls, name, **arguments)


REFUSED = [
    (
        refused(on_epoch_ned=nothing),
        TypeError,
        "CallbackSetX.on_epoch_ned is not a stage. Did you mean 'on_epoch_end'?",
    ),
    (refused(on_train_start=nothing), TypeError, "It is a hook of Lightning; here it is 'on_begin'."),
    (refused(initialise=nothing), TypeError, "callback_set() has no argument 'initialise'. Did you mean 'initialize'?"),
    (refused(parent_env=1), TypeError, "callback_set() has no argument 'parent_env'."),
    (refused(name="Ema"), ValueError, "Expected classname to be a name that starts with 'CallbackSet' but got 'Ema'."),
    (refused(name="CallbackSet Ema"), ValueError, "but got 'CallbackSet Ema'."),
    (refused(name=""), ValueError, "Expected classname to be a non-empty string"),
    (refused(name=None), TypeError, "Expected classname to be a string but got None."),
    (refused(on_end=3), TypeError, "Expected CallbackSetX.on_end to be a method or None but got 3."),
    (refused(on_end=lambda: None), TypeError, "CallbackSetX.on_end has no parameter self. Define on_end(self)."),
    (refused(on_end=load), TypeError, "CallbackSetX.on_end takes 'state_dict', but a stage is called without"),
    (refused(on_end=lambda self, n=1: None), TypeError, "CallbackSetX.on_end takes 'n'"),
    (refused(initialize=1), TypeError, "Expected initialize to be a function of self and the arguments of the class"),
    (refused(initialize=lambda: None), TypeError, "but got <lambda>()."),
    (refused(public={"initialize": 1}), TypeError, "Expected initialize to be a function of self and the arguments"),
    (refused(initialize=nothing, public={"initialize": nothing}), ValueError, "initialize is given twice, as an argum"),
    (refused(before_step=nothing), TypeError, "It is a hook of fastai; here it is 'on_after_backward'."),
    (refused(state_dict=nothing), ValueError, "CallbackSetX has state_dict but no load_state_dict."),
    (refused(load_state_dict=load), ValueError, "CallbackSetX has load_state_dict but no state_dict."),
    (refused(state_dict=load, load_state_dict=load), TypeError, "Expected state_dict to be a function of self but"),
    (
        refused(state_dict=nothing, load_state_dict=nothing),
        TypeError,
        "Expected load_state_dict to be a function of self and state_dict but got nothing(",
    ),
    (refused(weight="3"), TypeError, "Expected weight to be a number but got '3'."),
    (refused(weight=True), TypeError, "Expected weight to be a number but got True."),
    (refused(weight=math.nan), ValueError, "Expected weight to be a number but got nan."),
    (refused(public=[1]), TypeError, "Expected public to be a mapping of names to values but got [1]."),
    (refused(private={"a b": 1}), TypeError, "Expected the names in private to be names of attributes but got 'a b'."),
    (refused(public={3: 1}), TypeError, "Expected the names in public to be names of attributes but got 3."),
    (refused(public={"on_end": nothing}), ValueError, "public cannot have 'on_end'. Give it as an argument of its own"),
    (refused(public={"weight": 1}), ValueError, "public cannot have 'weight'. Give it as an argument of its own"),
    (refused(public={"on_ned": nothing}), TypeError, "CallbackSetX.on_ned is not a stage. Did you mean 'on_end'?"),
    (refused(active={"ctx": nothing}), ValueError, "active cannot have 'ctx', which is the context of the fit."),
    (refused(public={"a": 1}, active={"a": nothing}), ValueError, "to have different names but got 'a' twice."),
    (refused(public={"_a": 1}, private={"a": 1}), ValueError, "to have different names but got '_a' twice."),
    (refused(public={"lock": Lock()}), TypeError, "cannot pickle"),
    (refused(active={"a": 1}), TypeError, "Expected active['a'] to be a function of self but got 1."),
    (
        refused(active={"a": lambda self, rhs: rhs}),
        TypeError,
        "Expected active['a'] to be a function of self but got <lambda>(self, rhs).",
    ),
    (refused(active={"a": lambda self, x, y: x}), TypeError, "active['a'] to be a function of self but got <lambda>("),
    (
        refused(inherit=int),
        TypeError,
        "Expected inherit to be CallbackSet or a class that inherits from it but got <cl",
    ),
    (refused(inherit=CallbackSet()), TypeError, "but got <CallbackSet: no stages>."),
    (refused(lock_objects=1), TypeError, "Expected lock_objects to be True or False but got 1."),
    (
        refused(torch_callback, "x", packges="torch"),
        TypeError,
        "torch_callback() has no argument 'packges'. Did you mean 'packages'?",
    ),
    (refused(torch_callback, "x", on_ned=nothing), TypeError, "CallbackSetX.on_ned is not a stage."),
    (refused(torch_callback, ""), ValueError, "Expected id to be a non-empty string but got ''."),
    (refused(torch_callback, "a b"), ValueError, "Expected id to have letters, digits and underscores only"),
    (refused(torch_callback, "x", initialize=lambda self, weight: None), ValueError, "cannot be called 'weight'"),
]


if sys.version_info < (3, 14):  # from then on, a class makes a method of it, which gets `self`
    message = "CallbackSetX.on_end takes 'self', but a stage is called without"
    REFUSED.append((refused(on_end=partial(nothing)), TypeError, message))


@pytest.mark.filterwarnings("ignore:functools.partial will be a method")  # Python 3.13 says so itself
@pytest.mark.parametrize(("make", "error", "message"), REFUSED, ids=[message[:50] for *_, message in REFUSED])
def test_refuses(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()
