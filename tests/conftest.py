"""What holds for each test."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_weights_each_time() -> None:
    """A tiny module with unlucky weights does not improve in its second epoch, which some tests count on."""
    torch.manual_seed(0)
