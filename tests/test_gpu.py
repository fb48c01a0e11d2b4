"""What only a GPU can show."""

import warnings
from typing import Any

import pytest
import torch

from callbacksets import CallbackSet, CallbackSetAdapter
from tests.helpers import Act, StageLog, Tiny, ones, quiet

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


def fit(callbacks: Any, module: Tiny | None = None, **kwargs: Any) -> None:
    adapter = CallbackSetAdapter(callbacks)
    trainer = quiet(**({"accelerator": "gpu", "max_epochs": 2, "callbacks": [adapter]} | kwargs))
    trainer.fit(module or Tiny(), ones(4), ones(2))


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
    fit([log])
    for device, y_hat, batch, last_loss in log.at("batch_end"):
        assert device.type == y_hat.device.type == batch.device.type == "cuda"
        assert isinstance(last_loss, float)


def test_gradients_are_unscaled_after_backward() -> None:
    """With 16-mixed, a gradient clipper sees gradients of the size they have without it."""
    norms: dict[str, list[float]] = {}
    for precision in ("32-true", "16-mixed"):
        torch.manual_seed(0)
        seen = norms.setdefault(precision, [])
        clip = Act(
            on_after_backward=lambda ctx, seen=seen: seen.append(
                torch.nn.utils.clip_grad_norm_(ctx.network.parameters(), 1e9).item()
            )
        )
        fit([clip], Tiny(), precision=precision)
    assert norms["16-mixed"] == pytest.approx(norms["32-true"], rel=0.02)
