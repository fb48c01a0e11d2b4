"""Checks of the arguments of torch's own schedulers."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from callbacksets.checks import choice, flag, number, shown, whole_number


def _each(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """The check of one value, or of a list with a value for each parameter group."""
    return lambda name, value: (
        [check(name, one) for one in value] if isinstance(value, list | tuple) else check(name, value)
    )


def _function(name: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(
            f"Expected {name} to be a function, or a list with a function for each parameter group, but got "
            f"{shown(value)}."
        )
    return value


_CHECKS: Mapping[Callable[[str, Any], Any], str] = {
    # torch notices most wrong values only when it steps, or never
    partial(whole_number, at_least=1): "T_max epochs step_size steps_per_epoch total_steps",
    partial(whole_number, at_least=0): "cooldown patience",
    partial(whole_number, at_least=-1): "last_epoch",
    partial(number, at_least=0): "div_factor eps eta_min factor final_div_factor gamma threshold",
    partial(number, at_least=0, at_most=1): "pct_start",
    _each(partial(number, at_least=0)): "base_momentum max_lr max_momentum min_lr",
    _each(_function): "lr_lambda",
    flag: "cycle_momentum three_phase",
    partial(choice, choices=("cos", "linear")): "anneal_strategy",
    partial(choice, choices=("rel", "abs")): "threshold_mode",
}
_BY_NAME = {name: check for check, names in _CHECKS.items() for name in names.split()}


def checked(name: str, value: Any) -> Any:
    """The value, if it passes the check of the argument with that name. Unknown arguments are not checked."""
    return _BY_NAME[name](name, value) if name in _BY_NAME else value
