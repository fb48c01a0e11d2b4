"""Copying states, and finding what a checkpoint could not be read with, without walking what is plain."""

from collections import OrderedDict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from callbacksets.fit.plain import copied, kept, types_in
from callbacksets.scores import Scores

PLAIN: Any = {"epoch": [1, 2], "loss": [0.5, None], ("a", 1): {"x": (True, "s", b"b", 1j)}, "set": {1, 2}}


def test_a_copy_shares_nothing_that_can_change() -> None:
    made = copied(PLAIN)
    assert made == PLAIN
    made["epoch"].append(3)
    made[("a", 1)]["x2"] = 1
    assert PLAIN["epoch"] == [1, 2]
    assert list(PLAIN[("a", 1)]) == ["x"]


def test_tensors_and_other_types_are_copied_too() -> None:
    state = {"weights": OrderedDict(a=torch.ones(2)), "other": np.ones(2)}
    made = copied(state)
    made["weights"]["a"][0] = made["other"][0] = 5.0
    assert state["weights"]["a"].tolist() == state["other"].tolist() == [1.0, 1.0]


def test_a_state_may_hold_itself() -> None:
    state: list[Any] = [1]
    state.append(state)
    assert types_in(state) == {list, int}
    made = copied(state)
    assert made[1] is made


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        (PLAIN, []),
        ({"a": torch.ones(1), "b": OrderedDict(c=torch.float32)}, []),
        ({"deep": [({"here": frozenset({1})},)]}, ["['deep'][0][0]['here'] (a builtins.frozenset)"]),
        ([bytearray(b"x")], []),  # torch reads it
        ({"n": np.float64(1.0)}, ["['n'] (a numpy.float64)"]),
        ({torch.float32: 1, Fraction(1): 2}, ["[Fraction(1, 1)] (the key, a Fraction)"]),
    ],
)
def test_what_could_not_be_loaded_is_found_wherever_it_is(value: Any, paths: list[str]) -> None:
    _, found = kept(value)
    assert found == paths


def test_scores_are_kept_as_a_plain_dict() -> None:
    made, found = kept({"last": [Scores({"loss": 1.0}, logged={"val_loss": "loss"})]})
    assert (made, found) == ({"last": [{"loss": 1.0}]}, [])
    assert type(made["last"][0]) is dict
