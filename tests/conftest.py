"""What holds for each test."""

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> Iterator[None]:
    """Weights do not depend on the tests before. A seed of Lightning's would reach every process started later."""
    torch.manual_seed(0)
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)
