"""What only a GPU can show. All of it runs on the CPU too, where it shows at least that these tests are right."""

from typing import Any

import pytest
import torch

from benchmarks.gpu import Waits
from callbacksets import CallbackSet, CallbackSetAdapter
from tests.helpers import Act, Tiny, fit, gradient_norms, ones, quiet

CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
ACCELERATORS = {"cpu": "cpu", "cuda": "gpu"}

pytestmark = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])


class Nothing(CallbackSet):
    """Has every stage of a batch, and reads nothing."""

    def on_batch_begin(self) -> None: ...

    def on_after_backward(self) -> None: ...

    def on_batch_end(self) -> None: ...

    def on_batch_valid_end(self) -> None: ...


class ReadsLoss(CallbackSet):
    def on_batch_end(self) -> None:
        self.loss = self.ctx.last_loss


def waits_of_batches(device: str, *callbacks: CallbackSet) -> int:
    """How often two epochs wait for the device that have four batches more than two others."""
    counts = []
    for batches in (4, 8):
        adapters = [CallbackSetAdapter({str(i): callback for i, callback in enumerate(callbacks)})] if callbacks else []
        trainer = quiet(accelerator=ACCELERATORS[device], max_epochs=2, callbacks=adapters)
        with Waits.of(device) as waits:
            trainer.fit(Tiny(), ones(batches), ones(batches))
        counts.append(waits.count)
    return counts[1] - counts[0]


def test_a_batch_waits_for_the_device_no_more_than_in_the_bare_fit(device: str) -> None:
    waits_of_batches(device)  # the first fit sets up the device
    bare = waits_of_batches(device)
    assert waits_of_batches(device, *(Nothing() for _ in range(10))) == bare
    assert waits_of_batches(device, ReadsLoss()) == bare + 2 * 4  # so it does count


def test_the_context_is_on_the_device_and_its_numbers_are_not(device: str) -> None:
    def see(ctx: Any) -> None:
        seen.append((ctx.device.type, ctx.y_hat.device.type, ctx.batch.device.type, type(ctx.last_loss)))

    seen: list[Any] = []
    fit(Act(on_batch_end=see), None, ones(4), ones(2), accelerator=ACCELERATORS[device])
    assert seen == [(device, device, device, float)] * 4


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_unscaled_after_backward(fused: bool, device: str) -> None:
    expected, _ = gradient_norms(fused=fused, scaled=False, device=device)
    norms, weights = gradient_norms(fused=fused, scaled=True, device=device)
    assert len(norms) == 4
    assert norms == pytest.approx(expected, rel=0.01)
    unread = gradient_norms(fused=fused, scaled=True, device=device, read=False)[1]
    for one, other in zip(weights, unread, strict=True):
        assert torch.tensor(one).allclose(torch.tensor(other))
