"""The batch under way."""

from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

NOTHING: Any = object()
"""Where None could be a value: the network has not been called."""


@dataclass(slots=True)
class Step:
    """What goes into the step of a batch, in training or validation, and what comes out of it."""

    batch: Any = None
    is_open: bool = False  # what is assigned to the batch still reaches the forward call
    is_exchanged: bool = False  # the step is to be called with the batch here, not with the loader's
    is_running: bool = False  # while the module's step runs, so that it and not a callback calls the network
    is_done: bool = False
    depth: int = 0  # of calls of the network inside each other
    outputs: Any = NOTHING
    loss: Any = None  # what the training step has returned, to be `last_loss` at the end of the batch
    last_loss: Any = None
    valid: int | None = None  # the batch in the validation loader, from 1
    optimizer: Optimizer | None = None  # the one about to step

    def start(self, batch: Any) -> None:
        """Begin with a batch, and forget the one before."""
        self.batch = batch
        self.is_open = True
        self.is_exchanged = self.is_done = False
        self.outputs = NOTHING

    def end(self) -> None:
        """Make the loss of the training step the last one, if it had one."""
        if self.loss is not None:
            self.last_loss, self.loss = self.loss, None

    def see(self, batch: Any) -> None:
        """Take the batch at its end: it is only known by then if the module takes the `dataloader_iter`."""
        if not self.is_exchanged:
            self.batch = batch
