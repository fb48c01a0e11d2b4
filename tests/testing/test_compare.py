"""Comparing states."""

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from callbacksets.testing.compare import difference


class Unsure:
    """Has no single answer to whether it is the same, as tables have none."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    def __repr__(self) -> str:
        return f"Unsure({self.value})"


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1}, {"b": 1}, "at ['a'] nothing instead of 1"),
        ({}, {"b": [1]}, "at ['b'] [1] instead of nothing"),
        (OrderedDict(a=1), {"a": 1}, None),
        (OrderedDict(a=1), {"a": 2}, "at ['a'] 2 instead of 1"),
        ([1, 2], [1], "[1] instead of [1, 2] (1 values instead of 2)"),
        ([1, {"x": (1, 2)}], [1, {"x": (1, 3)}], "at [1]['x'][1] 3 instead of 2"),
        ([1], (1,), "(1,) instead of [1]"),
        (1, 1.0, None),
        (1, True, "True instead of 1"),
        (float("nan"), float("nan"), None),
        (float("nan"), 1.0, "1.0 instead of nan"),
        (None, {}, "{} instead of None"),
        (torch.ones(2), torch.ones(2), None),
        (torch.ones(2), torch.ones(3), "tensor([1., 1., 1.]) instead of tensor([1., 1.])"),
        ([torch.ones(1, 2)], [torch.tensor([[1.0, 2.0]])], "at [0][0, 1] 2.0 instead of 1.0"),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), None),
        ([np.ones(2), [np.ones(2)]], [np.ones(2), [np.ones(2)]], None),
        (Unsure(1), Unsure(1), None),
        (Unsure(1), Unsure(2), "Unsure(2) instead of Unsure(1)"),
        (torch.ones(1), torch.ones(1).double(), "tensor([1.], dtype=torch.float64) instead of tensor([1.])"),
        (torch.ones(2).numpy(), torch.ones(2).numpy(), None),
        (torch.ones(2).numpy(), torch.zeros(2).numpy(), "array([0., 0.], dtype=float32) instead of array([1., 1.]"),
        (nn.Identity(), nn.Identity(), None),
        ({1, 2}, {2, 1}, None),
        ("a", "b", "'b' instead of 'a'"),
    ],
)
def test_difference(one: Any, other: Any, told: str | None) -> None:
    found = difference(one, other)
    assert (found is None) if told is None else (found is not None and found.startswith(told))
