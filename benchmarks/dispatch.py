"""The hooks of one training batch: do-nothing CallbackSets against do-nothing Lightning callbacks and plain calls.

Lightning's own dispatch is timed, inside a real fit, in one process, in alternating rounds; of the rounds, the median
and the quartiles are given.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer import call

from callbacksets import CallbackSet, CallbackSetAdapter

ROUNDS, BATCHES = 41, 200


class Nothing(CallbackSet):
    """Does nothing in every stage of a batch."""

    def on_batch_begin(self) -> None: ...

    def on_after_backward(self) -> None: ...

    def on_batch_end(self) -> None: ...


class Timed(L.LightningModule):
    """Times the hooks of a batch in its first training step, with different callbacks in turn."""

    def __init__(self, contenders: dict[str, list[Any]]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.contenders = contenders
        self.seconds: dict[str, list[float]] = {name: [] for name in contenders}

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        own = self.trainer.callbacks
        for _ in range(ROUNDS):
            for name, callbacks in self.contenders.items():
                self.trainer.callbacks = callbacks
                self.seconds[name].append(_timed(lambda: _hooks(self.trainer, batch)))
        self.trainer.callbacks = own
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def dispatch() -> list[tuple[str, str, str]]:
    adapters = {n: CallbackSetAdapter({f"nothing_{i}": Nothing() for i in range(n)}) for n in (1, 10, 100)}
    natives = {n: [L.Callback() for _ in range(n)] for n in (1, 10, 100)}
    contenders: dict[str, list[Any]] = {"none": []}
    contenders |= {f"native {n}": callbacks for n, callbacks in natives.items()}
    contenders |= {f"sets {n}": [adapter] for n, adapter in adapters.items()}
    module = Timed(contenders)
    for adapter in adapters.values():
        _begin(adapter, module)
    trainer = _trainer()
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(1, 1)))
    floor = [_timed(_plain_calls([Nothing() for _ in range(10)])) for _ in range(ROUNDS)]

    def added(name: str) -> list[float]:
        return [round - bare for round, bare in zip(module.seconds[name], module.seconds["none"], strict=True)]

    def ratios(name: str, native: str) -> list[float]:
        return [ours / theirs for ours, theirs in zip(added(name), added(native), strict=True)]

    per_set = [(many - one) / 99 / 3 for many, one in zip(added("sets 100"), added("sets 1"), strict=True)]
    per_call = [seconds / 30 for seconds in floor]
    rows = [(f"hooks of a batch, {name}", _microseconds(added(name)), "") for name in contenders if name != "none"]
    rows += [(f"{n} sets / {n} native callbacks", _spread(ratios(f"sets {n}", f"native {n}")), goal)
             for n, goal in ((1, ""), (10, "at most 0.2"), (100, ""))]  # fmt: skip
    further = [ours / plain for ours, plain in zip(per_set, per_call, strict=True)]
    rows.append(("one further set / plain method call", _spread(further), "at most 3"))
    return rows


def _hooks(trainer: L.Trainer, batch: torch.Tensor) -> None:
    """The callback hooks of a batch, as the training loop and the closure call them."""
    call._call_callback_hooks(trainer, "on_train_batch_start", batch, 0)
    call._call_callback_hooks(trainer, "on_before_zero_grad", None)
    call._call_callback_hooks(trainer, "on_before_backward", batch)
    call._call_callback_hooks(trainer, "on_after_backward")
    call._call_callback_hooks(trainer, "on_before_optimizer_step", None)
    call._call_callback_hooks(trainer, "on_train_batch_end", {"loss": batch}, batch, 0)


def _begin(adapter: CallbackSetAdapter, module: Timed) -> None:
    """Bring an adapter of its own Trainer to where batches begin; it stays there."""

    class Stop(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            self.run = adapter._run
            raise InterruptedError

    stop = Stop()
    try:
        _trainer(callbacks=[adapter, stop]).fit(module, torch.utils.data.DataLoader(torch.zeros(1, 1)))
    except InterruptedError:
        adapter._run = stop.run


def _trainer(**kwargs: Any) -> L.Trainer:
    return L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )


def _plain_calls(sets: list[Nothing]) -> Callable[[], None]:
    def calls() -> None:
        for callback in sets:
            callback.on_batch_begin()
        for callback in sets:
            callback.on_after_backward()
        for callback in sets:
            callback.on_batch_end()

    return calls


def _timed(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    for _ in range(BATCHES):
        function()
    return (time.perf_counter() - start) / BATCHES


def _microseconds(seconds: list[float]) -> str:
    low, median, high = statistics.quantiles(seconds, n=4)
    return f"{median * 1e6:.2f} us ({low * 1e6:.2f} to {high * 1e6:.2f})"


def _spread(ratios: list[float]) -> str:
    low, median, high = statistics.quantiles(ratios, n=4)
    return f"{median:.3f} ({low:.3f} to {high:.3f})"
