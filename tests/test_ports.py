"""Callbacks that people wrote for mlr3torch, ported line by line."""

from typing import Any

import pytest
import torch
from torch import nn

from callbacksets import CallbackSetAdapter, SupervisedModule, torch_callback
from tests.helpers import Batches, Tiny, fit, ones, quiet


def test_custom_logger_of_the_vignette(capsys: pytest.CaptureFixture[str]) -> None:
    """An exponential moving average of the loss, printed before validation."""

    def initialize(self: Any, alpha: float = 0.1) -> None:
        self.alpha = alpha
        self.moving_loss = None

    def on_batch_end(self: Any) -> None:
        if self.moving_loss is None:
            self.moving_loss = self.ctx.last_loss
        else:
            self.moving_loss = self.alpha * self.ctx.last_loss + (1 - self.alpha) * self.moving_loss

    def on_before_valid(self: Any) -> None:
        print(f"Epoch {self.ctx.epoch}: {self.moving_loss:.2f}")

    def load_state_dict(self: Any, state_dict: float) -> None:
        self.moving_loss = state_dict

    custom_logger = torch_callback(
        "custom_logger",
        initialize=initialize,
        on_batch_end=on_batch_end,
        on_before_valid=on_before_valid,
        state_dict=lambda self: self.moving_loss,
        load_state_dict=load_state_dict,
    )
    custom_logger.param_set.set_values(alpha=0.05)

    module = Tiny()
    nn.init.zeros_(module.network.weight)
    nn.init.ones_(module.network.bias)
    module.network.requires_grad_(False)
    module.scale = nn.Parameter(torch.tensor(2.0))
    module.loss = lambda batch: module.network(batch).mean() * module.scale
    adapter = fit(custom_logger, module, ones(2), ones(1), max_epochs=2)
    moving, scale, printed = None, 2.0, []
    for epoch in (1, 2):
        for _ in range(2):
            moving = scale if moving is None else 0.05 * scale + 0.95 * moving
            scale -= 0.01
        printed.append(f"Epoch {epoch}: {moving:.2f}")
    assert capsys.readouterr().out.splitlines() == printed
    assert adapter.states["custom_logger"] == pytest.approx(moving, rel=1e-6)


def test_gradient_clipper_of_the_paper() -> None:
    """Gradients are clipped between the backward pass and the optimizer's step."""

    def initialize(self: Any, max_norm: float, norm_type: float) -> None:
        self.norms = []
        self.max_norm = max_norm
        self.norm_type = norm_type

    def on_after_backward(self: Any) -> None:
        norm = nn.utils.clip_grad_norm_(self.ctx.network.parameters(), self.max_norm, self.norm_type)
        self.norms.append(norm.item())

    gradient_clipper = torch_callback(
        "gradient_clipper",
        initialize=initialize,
        on_after_backward=on_after_backward,
        state_dict=lambda self: self.norms,
        load_state_dict=lambda self, state_dict: setattr(self, "norms", state_dict),
    )
    gradient_clipper.param_set.set_values(max_norm=0.5, norm_type=2)

    module = Tiny()
    before = nn.utils.parameters_to_vector(module.parameters()).detach().clone()
    adapter = fit(gradient_clipper, module, ones(1), max_epochs=1)
    moved = nn.utils.parameters_to_vector(module.parameters()) - before
    [norm] = adapter.states["gradient_clipper"]
    assert moved.norm().item() == pytest.approx(0.01 * min(norm, 0.5), rel=1e-4)


def test_schedule_of_learning_rate_weight_decay_and_dropout() -> None:
    """In every step, three hyperparameters move linearly from their first to their last value."""
    seen = []

    def initialize(self: Any, lr: Any, weight_decay: Any, p: Any) -> None:
        self.lr, self.weight_decay, self.p = lr, weight_decay, p

    def on_batch_begin(self: Any) -> None:
        progress = (self.ctx.global_step - 1) / (self.ctx.total_steps - 1)

        def at(first: float, last: float) -> float:
            return first + (last - first) * progress

        for group in self.ctx.optimizer.param_groups:
            group["lr"] = at(*self.lr)
            group["weight_decay"] = at(*self.weight_decay)
        for layer in self.ctx.network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = at(*self.p)

    def on_after_backward(self: Any) -> None:
        [group] = self.ctx.optimizer.param_groups
        seen.append((group["lr"], group["weight_decay"], self.ctx.network[1].p))

    schedule = torch_callback(
        "schedule", initialize=initialize, on_batch_begin=on_batch_begin, on_after_backward=on_after_backward
    )
    schedule.param_set.set_values(lr=(0.1, 0.0), weight_decay=(0.0, 0.5), p=(0.5, 0.0))
    fit(schedule, Tiny(nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 1))), ones(3), max_epochs=2)
    expected = [(0.1 - 0.02 * step, 0.1 * step, 0.5 - 0.1 * step) for step in range(6)]
    assert [pytest.approx(row) for row in expected] == seen


def test_a_callback_that_reaches_another() -> None:
    """One counts the batches with a high loss, the other stops training when these are too many."""

    def on_batch_end(self: Any) -> None:
        self.n_high = getattr(self, "n_high", 0) + (self.ctx.last_loss > 1)

    def on_epoch_end(self: Any) -> None:
        if self.ctx.callbacks["counter"].n_high >= 3:
            self.ctx.terminate = True

    module = Tiny()
    module.loss = lambda batch: module.network(batch).mean() * 0 + 2
    callbacks = [
        torch_callback("counter", on_batch_end=on_batch_end),
        torch_callback("watchdog", on_epoch_end=on_epoch_end),
    ]
    adapter = fit(callbacks, module, ones(2), max_epochs=9)
    assert str(adapter.stopped_by) == "callback 'watchdog' set ctx.terminate in on_epoch_end, epoch 2 was the last"


def test_predictions_of_the_validation_set() -> None:
    """The predictions of every epoch's validation, as a part of the state."""

    def initialize(self: Any) -> None:
        self.predictions = []

    def on_before_valid(self: Any) -> None:
        self.batches = []

    def on_batch_valid_end(self: Any) -> None:
        self.batches.append(self.ctx.y_hat.argmax(dim=1).cpu())

    def on_valid_end(self: Any) -> None:
        self.predictions.append(torch.cat(self.batches))

    predictions = torch_callback(
        "predictions",
        initialize=initialize,
        on_before_valid=on_before_valid,
        on_batch_valid_end=on_batch_valid_end,
        on_valid_end=on_valid_end,
        state_dict=lambda self: self.predictions,
        load_state_dict=lambda self, state_dict: setattr(self, "predictions", state_dict),
    )
    torch.manual_seed(0)
    x, y = torch.randn(30, 4), torch.randint(3, (30,))
    network = nn.Linear(4, 3)
    module = SupervisedModule(network, nn.CrossEntropyLoss(), lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    adapter = CallbackSetAdapter(predictions)
    batches = Batches([(x[:20], y[:20]), (x[20:], y[20:])])
    quiet(max_epochs=3, callbacks=[adapter]).fit(module, batches, batches)
    kept = adapter.states["predictions"]
    assert [len(epoch) for epoch in kept] == [30, 30, 30]
    assert torch.equal(kept[-1], network(x).argmax(dim=1))
