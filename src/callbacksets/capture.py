"""Taking the network's output from its own forward call, for `ctx.y_hats`."""

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from callbacksets.context import Loop

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class OutputCapture:
    """Forward hooks on the network of one fit; what they see they keep in the loop until the next batch starts."""

    def __init__(self, trainer: "Trainer", learner: "LightningModule", loop: Loop) -> None:
        self._trainer = trainer
        self._learner = learner
        self._loop = loop
        self._network: nn.Module | None = None
        self._handles: list[RemovableHandle] = []

    def watch(self, network: nn.Module) -> None:
        """Keep the outputs of this network, and of none that was watched before."""
        if network is self._network:
            return
        self.stop()
        self._network = network
        if network is self._learner and self._trainer.model is not self._learner:
            # A wrapped module (DDP, FSDP) is called twice: the wrapper's call is redirected to the whole step and
            # returns the loss; the step's own call lies inside it.
            self._handles = [
                network.register_forward_pre_hook(self._enter),
                network.register_forward_hook(self._keep_inner),
            ]
        else:
            self._handles = [network.register_forward_hook(self._keep)]

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._network, self._handles = None, []

    def _keep(self, network: nn.Module, inputs: Any, output: Any) -> None:
        if self._loop.in_step:
            self._loop.outputs = output

    def _enter(self, network: nn.Module, inputs: Any) -> None:
        self._loop.depth += 1

    def _keep_inner(self, network: nn.Module, inputs: Any, output: Any) -> None:
        self._loop.depth -= 1
        if self._loop.depth > 0:
            self._keep(network, inputs, output)
