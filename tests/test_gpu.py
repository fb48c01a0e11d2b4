"""What only a GPU can show."""

import warnings
from typing import Any

import pytest
import torch

from callbacksets import CallbackSet, CallbackSetAdapter
from tests.helpers import StageLog, Tiny, fit, gradient_norms, ones, quiet

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


class Nothing(CallbackSet):
    """Has every stage of a batch, and reads nothing."""

    def on_batch_begin(self) -> None: ...

    def on_after_backward(self) -> None: ...

    def on_batch_end(self) -> None: ...

    def on_batch_valid_end(self) -> None: ...


def synchronisations(callbacks: list[Any]) -> int:
    """How often a fit waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer = quiet(accelerator="gpu", max_epochs=2, callbacks=callbacks)
            trainer.fit(Tiny(), ones(4), ones(2))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def test_sets_that_read_nothing_wait_for_the_device_no_more_than_the_bare_fit() -> None:
    synchronisations([])  # the first fit sets up the device
    sets = CallbackSetAdapter({f"nothing_{i}": Nothing() for i in range(10)})
    assert synchronisations([sets]) == synchronisations([])


def test_the_context_is_on_the_device_and_its_numbers_are_not() -> None:
    log = StageLog("device", "y_hat", "batch", "last_loss", stages=("on_batch_end",))
    fit(log, None, ones(4), ones(2), accelerator="gpu")
    for device, y_hat, batch, last_loss in log.at("batch_end"):
        assert device.type == y_hat.device.type == batch.device.type == "cuda"
        assert isinstance(last_loss, float)


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_unscaled_after_backward(fused: bool) -> None:
    expected, _ = gradient_norms(fused=fused, scaled=False, device="cuda")
    norms, weights = gradient_norms(fused=fused, scaled=True, device="cuda")
    assert norms == pytest.approx(expected, rel=0.01)
    unread = gradient_norms(fused=fused, scaled=True, device="cuda", read=False)[1]
    for one, other in zip(weights, unread, strict=True):
        assert torch.tensor(one).allclose(torch.tensor(other))
