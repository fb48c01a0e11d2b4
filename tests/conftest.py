"""What holds for each test."""

import os
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from lightning.fabric.utilities import registry

# Every Trainer looks in all packages for callbacks that they bring along. For a tiny fit that is a fifth of its time.
registry.entry_points = cache(registry.entry_points)


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> Iterator[None]:
    """Weights do not depend on the tests before. A seed of Lightning's would reach every process started later."""
    torch.manual_seed(0)
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)
