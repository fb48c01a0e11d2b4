"""The best epoch so far."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from callbacksets import CallbackSet
from callbacksets.callbacks.best import Best, best_so_far
from callbacksets.testing import make_context

ROWS = [
    {"epoch": 1, "train.loss": 0.5, "valid.acc": 0.7},
    {"epoch": 2, "train.loss": 0.4, "valid.acc": 0.9},
    {"epoch": 3, "train.loss": 0.6, "valid.acc": math.nan},
    {"epoch": 4, "train.loss": 0.3},
]


def context(minimize: bool | None = None, **callbacks: Any) -> Any:
    return make_context(callbacks=callbacks, minimize=lambda name: {"acc": minimize, "loss": True}[name])


@pytest.mark.parametrize(("minimize", "epoch", "score"), [(False, 2, 0.9), (True, 1, 0.7)])
def test_by_the_first_validation_score(minimize: bool, epoch: int, score: float) -> None:
    assert best_so_far(context(minimize), ROWS) == Best("valid.acc", epoch, score)


def test_by_a_training_score_without_validation() -> None:
    rows = [{name: value for name, value in row.items() if name != "valid.acc"} for row in ROWS]
    assert best_so_far(context(), rows) == Best("train.loss", 4, 0.3)


def test_unknown_without_a_direction_or_a_score() -> None:
    assert best_so_far(context(None), ROWS) is None
    assert best_so_far(context(), [{"epoch": 1}]) is None
    assert best_so_far(context(), []) is None


def test_nan_is_no_score() -> None:
    assert best_so_far(context(False), [ROWS[2]]) == Best("valid.acc", None, None)


def test_what_early_stopping_says_counts_whatever_its_class() -> None:
    class CallbackSetOwnStop(CallbackSet):
        def __init__(self) -> None:
            self.patience, self.stagnation = 5, 2
            self.best_epochs, self.best_score, self.measure = 1, 0.6, "acc"

    stop = CallbackSetOwnStop()
    assert best_so_far(context(False, other=SimpleNamespace(patience=1), stop=stop), ROWS) == Best(
        "valid.acc", 1, 0.6, (2, 5)
    )
