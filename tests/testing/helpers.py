"""What the tests of the kit share."""

import re
from collections.abc import Callable
from typing import Any

from callbacksets import CallbackSet, select_all, select_name, t_clbk
from callbacksets.testing import check_callback_set

Make = Callable[[], CallbackSet]


def failed(make: Make, **arguments: Any) -> list[str]:
    """The checks that a callback fails."""
    try:
        check_callback_set(make, **arguments)
    except AssertionError as error:
        return re.findall(r"^- (\w+):", str(error), flags=re.MULTILINE)
    return []


def half(epoch: int) -> float:
    return 0.5


ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "checkpoint": [{"path": "checkpoints", "freq": 1}],
    "early_stopping": [{"patience": 2, "restore_best_weights": True}, {"patience": 9, "monitor": "loss"}],
    "lr_cosine_annealing": [{"T_max": 4}],
    "lr_lambda": [{"lr_lambda": half}],
    "lr_multiplicative": [{"lr_lambda": half}],
    "lr_one_cycle": [{"max_lr": 0.1}],
    "lr_reduce_on_plateau": [{"patience": 0}],
    "lr_step": [{"step_size": 1}],
    "tb": [{"path": "events", "log_train_loss": True}],
    "unfreeze": [
        {
            "starting_weights": select_name("0.weight"),
            "unfreeze": [
                {"epoch": 2, "weights": select_name("2.weight")},
                {"epoch": 4, "weights": select_all()},
            ],
        },
        {"starting_weights": select_name("2.bias"), "unfreeze": [{"batch": 7, "weights": select_all()}]},
    ],
}
"""Of what cannot be made without any, or has more to it."""

PREDEFINED: dict[str, Make] = {
    f"{key}, {n}" if n else key: t_clbk(key, **arguments).generate
    for key in t_clbk()
    for n, arguments in enumerate(ARGUMENTS.get(key, [{}]))
}
