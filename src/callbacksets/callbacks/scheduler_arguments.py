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


_COUNT = partial(whole_number, at_least=1)
_AMOUNT = partial(number, at_least=0)
_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    # torch notices most wrong values only when it steps, or never
    "T_max": _COUNT,
    "anneal_strategy": partial(choice, choices=("cos", "linear")),
    "base_momentum": _each(_AMOUNT),
    "cooldown": partial(whole_number, at_least=0),
    "cycle_momentum": flag,
    "div_factor": _AMOUNT,
    "epochs": _COUNT,
    "eps": _AMOUNT,
    "eta_min": _AMOUNT,
    "factor": _AMOUNT,
    "final_div_factor": _AMOUNT,
    "gamma": _AMOUNT,
    "last_epoch": partial(whole_number, at_least=-1),
    "lr_lambda": _each(_function),
    "max_lr": _each(_AMOUNT),
    "max_momentum": _each(_AMOUNT),
    "min_lr": _each(_AMOUNT),
    "patience": partial(whole_number, at_least=0),
    "pct_start": partial(number, at_least=0, at_most=1),
    "step_size": _COUNT,
    "steps_per_epoch": _COUNT,
    "three_phase": flag,
    "threshold": _AMOUNT,
    "threshold_mode": partial(choice, choices=("rel", "abs")),
    "total_steps": _COUNT,
}
"""The checks by the names of the arguments."""


def checked(name: str, value: Any) -> Any:
    """The value, if it passes the check of the argument with that name. Unknown arguments are not checked."""
    return _CHECKS[name](name, value) if name in _CHECKS else value
