"""The current batch."""

from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

NOTHING: Any = object()
"""The value if the network or the step has not been called; None could be an output."""


@dataclass(slots=True)
class Step:
    """The inputs and results of the step of a batch, in training or validation."""

    batch: Any = None
    is_exchanged: bool = False  # the step gets the batch here, not the batch of the loader
    is_running: bool = False  # the module's step is running, so the step and not a callback calls the network
    is_done: bool = False
    depth: int = 0  # the depth of nested calls of the network
    y_hats: Any = NOTHING
    outputs: Any = NOTHING  # of the step; those of a training step may still have their graph
    returned: Any = None  # the same as Lightning gives it to the hooks at the end of a training batch
    loss: Any = None  # the result of the training step; it becomes `last_loss` at the end of the batch
    last_loss: Any = None
    valid: int | None = None  # the number of the batch in the validation loader, from 1
    loader: int = 0  # the number of that loader, from 0
    optimizer: Optimizer | None = None  # in `on_after_backward`, the optimizer that is about to step

    def start(self, batch: Any) -> None:
        """Start a batch, and forget the batch before."""
        self.batch = batch
        self.is_exchanged = self.is_done = False
        self.y_hats = self.outputs = NOTHING
        self.returned = None

    def end(self, batch: Any, returned: Any = None) -> None:
        """End the batch. If its training step returned a loss, this is `last_loss` now.

        Args:
            batch: The batch. With a module that takes the `dataloader_iter`, it is not known earlier.
            returned: What Lightning gives its hooks.
        """
        self.returned = returned
        if not self.is_exchanged:
            self.batch = batch
        if self.loss is not None:
            self.last_loss, self.loss = self.loss, None
