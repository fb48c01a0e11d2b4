"""Capturing the inputs and results of the steps of a fit: the batch, the loss and the network's output."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from callbacksets.checks import listed
from callbacksets.fit.lightning import tap
from callbacksets.fit.step import Step

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_STEPS = ("training_step", "validation_step")


class Capture:
    """Captures the steps of one fit through the strategy, which calls them, and the network through its hooks.

    The hooks of a Lightning callback are not sufficient. They see a loss that is divided by `accumulate_grad_batches`,
    which rounds it. Other callbacks may call the network in between. And a hook cannot exchange the batch.
    """

    def __init__(self, trainer: "Trainer", learner: "LightningModule", step: Step) -> None:
        self._trainer = trainer
        self._learner = learner
        self._step = step
        self._network: nn.Module | None = None
        self._hooks: list[tuple[Callable[[Any], RemovableHandle], _Hook]] = []
        self._handles: list[RemovableHandle] = []

    def watch_steps(self, taps: ExitStack) -> None:
        """Capture the inputs and results of the steps from now on."""
        tap(taps, self._trainer.strategy, "training_step", self._train)
        tap(taps, self._trainer.strategy, "validation_step", self._run)

    def _train(self, call: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
        output = self._run(call, batch, *args, **kwargs)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        self._step.loss = loss.detach() if isinstance(loss, Tensor) else loss
        return output

    def _run(self, call: Callable[..., Any], batch: Any, *args: Any, **kwargs: Any) -> Any:
        step = self._step
        step.is_running, step.depth = True, 0
        handles = [register(hook) for register, hook in self._hooks]
        try:
            output = call(step.batch if step.is_exchanged else batch, *args, **kwargs)
        finally:
            step.is_running = False
            for handle in handles:
                handle.remove()
        step.is_done, step.outputs = True, output
        return output

    def watch_network(self, network: nn.Module) -> None:
        """Keep the output of this network until the next batch starts. A network watched before is released.

        The network has our hooks only while a step runs, so that a stage can script it: `torch.jit.script` refuses
        Python hooks. Compiled code ignores hooks that are added later, so a compiled network keeps them all the time.
        """
        if network is self._network:
            return
        self.let_go()
        self._network = network
        if isinstance(network, torch.jit.ScriptModule):
            return  # it has no hooks
        is_compiled = _has_compiled_steps(self._learner)
        if network is self._learner and self._trainer.model is not self._learner:
            # A wrapped module (DDP, FSDP) is called twice. The call of the wrapper runs the whole step and returns the
            # loss. The step calls the module once more inside it.
            self._hooks = [
                (network.register_forward_pre_hook, _Hook(self._enter)),
                (partial(network.register_forward_hook, always_call=True), _Hook(self._keep_inner)),
            ]
        else:
            # in a compiled step, the hooks of the wrapper of `torch.compile` do not run
            inner = getattr(network, "_orig_mod", network) if is_compiled else network
            self._hooks = [(inner.register_forward_hook, _Hook(self._keep))]
        if is_compiled or any(map(_is_compiled, self._learner.modules())):
            self._handles, self._hooks = [register(hook) for register, hook in self._hooks], []

    def let_go(self) -> None:
        """Release the network."""
        for handle in self._handles:
            handle.remove()
        self._network, self._hooks, self._handles = None, [], []

    def _keep(self, network: nn.Module, inputs: Any, output: Any) -> None:
        if self._step.is_running:
            self._step.y_hats = output

    def _enter(self, network: nn.Module, inputs: Any) -> None:
        self._step.depth += 1

    def _keep_inner(self, network: nn.Module, inputs: Any, output: Any) -> None:
        self._step.depth -= 1
        if self._step.depth > 0 and output is not None:  # the output of a failed call is None
            self._keep(network, inputs, output)


class _Hook:
    """A hook that is not copied or pickled with the network: the copy has a hook that does nothing."""

    def __init__(self, hook: Callable[..., None]) -> None:
        self._hook = hook

    def __call__(self, *args: Any) -> None:
        self._hook(*args)

    def __reduce__(self) -> Any:
        return _Hook, (_nothing,)


def why_no_output(learner: "LightningModule", network: nn.Module, name: str | None) -> str:
    """The message for a step that has run and left no output of the network.

    Args:
        learner: The module of the fit.
        network: The network whose output is missing.
        name: Its name in the module, if it has one.
    """
    if isinstance(network, torch.jit.ScriptModule):
        return "The output of a scripted network (torch.jit) is not available, because it does not run hooks."
    described = f"{type(network).__name__} {name or ''}".rstrip()
    what = f"The step did not call the network ({described}), so it has no output."
    if _has_compiled_steps(learner):
        what = (
            f"The compiled step has no output of the network ({described}). If the module ran before this fit, its "
            "compiled code ignores the adapter's hook: call torch.compiler.reset() before the fit."
        )
    return (
        f"{what} If another part of the module is the network, name it: CallbackSetAdapter(..., network=...). The "
        f"module has {listed(name for name, _ in learner.named_children())}. If the step calls forward() directly, "
        "call the network instead, self(x) or self.network(x): the output is taken from a hook, and forward() does "
        "not run hooks."
    )


def _has_compiled_steps(learner: "LightningModule") -> bool:
    return any(hasattr(getattr(learner, name), "_torchdynamo_orig_callable") for name in _STEPS)


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _nothing(*args: Any) -> None: ...
