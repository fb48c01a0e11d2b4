"""Making callbacks from functions: a class, or a class with its descriptor."""

import copy
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from callbacksets import elsewhere
from callbacksets.base import STAGES, CallbackSet
from callbacksets.checks import did_you_mean, flag, listed, shown, text
from callbacksets.checks import weight as checked_weight
from callbacksets.describe.descriptor import TorchCallback
from callbacksets.describe.param_set import ParamSet

Stage = Callable[[Any], object] | None

_WITH_ARGUMENT = (*STAGES, "state_dict", "load_state_dict", "initialize", "weight")
"""Members that have an argument of their own, so that they may not be in `public` or `active`."""


def callback_set(
    classname: str,
    *,
    initialize: Callable[..., None] | None = None,
    state_dict: Callable[[Any], Any] | None = None,
    load_state_dict: Callable[[Any, Any], None] | None = None,
    weight: float | None = None,
    public: Mapping[str, Any] = {},
    private: Mapping[str, Any] = {},
    active: Mapping[str, Any] = {},
    inherit: type[CallbackSet] = CallbackSet,
    lock_objects: bool = False,
    **stages: Stage,
) -> type[CallbackSet]:
    """Make a `CallbackSet` class from functions. The first parameter of each function is `self`.

    Example:
        >>> from callbacksets import callback_set
        >>> CallbackSetCount = callback_set(
        ...     "CallbackSetCount",
        ...     on_batch_end=lambda self: self.seen.append(self.ctx.global_step),
        ...     public={"seen": []},
        ...     active={"last": lambda self: self.seen[-1]},
        ... )
        >>> CallbackSetCount()
        <CallbackSetCount: on_batch_end>

    In such a function `super()` needs arguments: `super(CallbackSetCount, self).print()`. Python supplies them only in
    the body of a class. You can also call the base class: `CallbackSet.print(self)`. A stage can be called this way
    only if `inherit` has it.

    Some strategies pickle callbacks. The instances can be pickled if the class is a global variable with its own name,
    as above. The functions may be lambdas.

    Args:
        classname: The name of the class. It starts with `CallbackSet`.
        initialize: The constructor, a function of `self` and the arguments of the class. It may also be in `public`.
        state_dict: The method `state_dict(self)`. Give it together with `load_state_dict`.
        load_state_dict: The method `load_state_dict(self, state_dict)`.
        weight: The weight of the class; by default that of `inherit`.
        public: Methods (functions of `self`) and attributes (all other values) by name. Every instance has its own
            copy of an attribute.
        private: The same. The names get a leading underscore: `x` becomes `self._x`.
        active: Computed attributes: functions of `self`, called when the attribute is read. If a function has a second
            parameter with a default, it is also called when the attribute is set, with the new value.
        inherit: The base class.
        lock_objects: Whether instances refuse attributes that the class does not declare. `ctx` and the stages are
            always allowed. What the constructor of `inherit` sets has to be declared too.
        stages: The stages `on_<stage>=`, functions of `self`. None switches off a stage of `inherit`.

    Raises:
        TypeError: If a stage does not exist, or an argument has the wrong type.
        ValueError: If the class name does not start with `CallbackSet`, if a name is given twice, or if only one of
            `state_dict` and `load_state_dict` is given.

    mlr3torch: `callback_set()`.
    """
    _refuse_unknown(stages, callback_set)
    if not text("classname", classname).startswith("CallbackSet") or not classname.isidentifier():
        raise ValueError(f"Expected classname to be a name that starts with 'CallbackSet' but got {classname!r}.")
    if not (isinstance(inherit, type) and issubclass(inherit, CallbackSet)):
        raise TypeError(
            f"Expected inherit to be CallbackSet or a class that inherits from it but got {shown(inherit)}."
        )
    if (state_dict is None) != (load_state_dict is None):
        given, lacks = ("state_dict", "load_state_dict")[:: 1 if load_state_dict is None else -1]
        raise ValueError(f"{classname} has {given} but no {lacks}. Give both or neither.")

    members: dict[str, Any] = {**stages}  # the class checks them
    if isinstance(public, Mapping) and "initialize" in public:  # as in R6
        if initialize is not None:
            raise ValueError("initialize is given twice, as an argument and in public. Give it once.")
        initialize, public = public["initialize"], {name: public[name] for name in public if name != "initialize"}
    if initialize is not None:
        members["__init__"] = _check_function("initialize", initialize)
    if state_dict is not None:
        members["state_dict"] = _check_function("state_dict", state_dict, "self")
        members["load_state_dict"] = _check_function("load_state_dict", load_state_dict, "self", "state_dict")
    if weight is not None:
        members["weight"] = checked_weight("weight", weight)
    _add(members, _declared("public", public, _member))
    _add(members, {f"_{name}": value for name, value in _declared("private", private, _member).items()})
    _add(members, _declared("active", active, _active))

    locked = flag("lock_objects", lock_objects)
    bases = (_Locked, inherit) if locked and not issubclass(inherit, _Locked) else (inherit,)
    members |= {"__module__": _caller(), "__qualname__": classname, "_objects_are_locked": locked}
    return cast(type[CallbackSet], types.new_class(classname, bases, exec_body=lambda body: body.update(members)))


def torch_callback(
    id: str,
    *,
    classname: str | None = None,
    label: str | None = None,
    packages: str | Iterable[str] = (),
    man: str | None = None,
    additional_args: Mapping[str, Any] | None = None,
    param_set: ParamSet | None = None,
    **parts: Any,
) -> TorchCallback:
    """Make a `CallbackSet` class from functions and its descriptor: `callback_set()` and `TorchCallback` in one call.

    Example:
        >>> from callbacksets import torch_callback
        >>> def initialize(self, name):
        ...     self.name = name
        >>> def greet(self):
        ...     print(f"Hello {self.name}, we will train for {self.ctx.total_epochs} epochs.")
        >>> hello = torch_callback("hello_you", initialize=initialize, on_begin=greet)
        >>> hello.param_set.set_values(name="Marie")
        >>> hello
        <TorchCallback hello_you: CallbackSetHelloYou(name='Marie')>

    Args:
        id: The id of its callbacks.
        classname: The name of the class; by default `CallbackSet` and the id in camel case.
        label: Its name in tables; by default the id with a capital letter.
        packages: As for `TorchCallback`.
        man: As for `TorchCallback`.
        additional_args: As for `TorchCallback`.
        param_set: As for `TorchCallback`.
        parts: As for `callback_set()`.

    Raises:
        TypeError, ValueError: As for `callback_set()` and `TorchCallback`.

    mlr3torch: `torch_callback()`.
    """
    _refuse_unknown(parts, torch_callback, callback_set)
    words = text("id", id).split("_")
    if classname is None and not f"CallbackSet{''.join(words)}".isidentifier():
        raise ValueError(
            f"Expected id to have letters, digits and underscores only but got {id!r}. For another id, also give a "
            "classname."
        )
    return TorchCallback(
        callback_set(classname or "CallbackSet" + "".join(word[:1].upper() + word[1:] for word in words), **parts),
        id=id,
        label=id[0].upper() + id[1:] if label is None else label,
        packages=packages,
        man=man,
        additional_args=additional_args,
        param_set=param_set,
    )


class _Locked:
    """A base class of classes whose instances refuse attributes that the class does not declare."""

    _objects_are_locked = True

    def __setattr__(self, name: str, value: Any) -> None:
        if self._objects_are_locked and not hasattr(type(self), name) and name not in STAGES:
            known = [known for known in dir(type(self)) if not known.startswith("__")]
            raise AttributeError(
                f"{type(self).__name__} declares no attribute {name!r}, and its objects are locked."
                f"{did_you_mean(name, known)} Declare the attribute in public or private, or set lock_objects=False."
            )
        super().__setattr__(name, value)


class _Attribute:
    """An attribute of which every instance gets its own copy when it is first read."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self._value
        return vars(instance).setdefault(self._name, copy.deepcopy(self._value))


def _member(argument: str, value: Any) -> Any:
    """A method or property as it is; any other value as an attribute that is copied for each instance."""
    # a copy, so that later changes of the given value have no effect
    return value if hasattr(type(value), "__get__") else _Attribute(copy.deepcopy(value))


def _active(argument: str, value: Any) -> property:
    if isinstance(value, property):
        return value
    function = _check_function(argument, value, "self")
    settable = len(inspect.signature(function).parameters) > 1
    return property(function, function if settable else None)


def _declared(argument: str, values: Mapping[str, Any], member: Callable[[str, Any], Any]) -> dict[str, Any]:
    """The members in the argument `public`, `private` or `active`."""
    if not isinstance(values, Mapping):
        raise TypeError(f"Expected {argument} to be a mapping of names to values but got {shown(values)}.")
    for name in values:
        if not isinstance(name, str) or not name.isidentifier():
            raise TypeError(f"Expected the names in {argument} to be names of attributes but got {shown(name)}.")
        if name == "ctx" and argument != "private":
            raise ValueError(f"{argument} cannot have 'ctx', which is the context of the fit.")
        if name in _WITH_ARGUMENT and argument != "private":
            raise ValueError(f"{argument} cannot have {name!r}. Give it as an argument of its own: {name}=... .")
    return {name: member(f"{argument}[{name!r}]", value) for name, value in values.items()}


def _add(members: dict[str, Any], more: Mapping[str, Any]) -> None:
    if twice := sorted(members.keys() & more.keys()):
        raise ValueError(f"Expected public, private and active to have different names but got {listed(twice)} twice.")
    members |= more


def _check_function(name: str, function: Any, *parameters: str) -> Callable[..., Any]:
    """The function, if it can be called with these parameters; by default with `self` and others."""
    wanted = f"a function of {' and '.join(parameters or ('self', 'the arguments of the class'))}"
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"Expected {name} to be {wanted} but got {shown(function)}.")
    signature = inspect.signature(function)
    try:
        if parameters:
            signature.bind(*parameters)
        else:
            signature.bind_partial("self")
    except TypeError:
        raise TypeError(f"Expected {name} to be {wanted} but got {function.__name__}{signature}.") from None
    return function


def _refuse_unknown(given: Iterable[str], *functions: Callable[..., Any]) -> None:
    """Raise a `TypeError` if a function does not have an argument. The class itself checks the stages."""
    known = [*STAGES, *(name for function in functions for name in inspect.signature(function).parameters)]
    for name in given:
        if name not in known and not name.startswith("on_"):
            remedy = elsewhere.hint(name) or did_you_mean(name, known)
            raise TypeError(f"{functions[0].__name__}() has no argument {name!r}.{remedy}")


def _caller() -> str:
    """The name of the module that calls this one, where pickle looks for the class."""
    frame = sys._getframe()
    while frame.f_globals is globals() and frame.f_back is not None:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "__main__"))
