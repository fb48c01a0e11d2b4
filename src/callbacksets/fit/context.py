"""The context of a callback, `self.ctx`: what it can see and set of the training loop."""

import difflib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.optim import Optimizer

from callbacksets.checks import did_you_mean, listed
from callbacksets.fit.capture import why_no_output
from callbacksets.fit.lightning import is_mock
from callbacksets.fit.limits import limit, total_steps
from callbacksets.fit.loop import Loop
from callbacksets.fit.named import named_loss_fn, named_module
from callbacksets.fit.reader import as_scores
from callbacksets.fit.step import NOTHING, Step
from callbacksets.scores import Measures, Scores

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_REMEDIES = {
    **dict.fromkeys(
        ("total_epochs", "total_steps"),
        "To stop earlier, set ctx.terminate = True; to train longer, set Trainer(max_epochs=...).",
    ),
    **dict.fromkeys(("step", "step_valid", "global_step", "dataloader_idx"), "The Trainer counts."),
    "epoch": "The Trainer counts. To stop, set ctx.terminate = True.",
    "loss_fn": "Wrap the module's own in on_begin: ctx.learner.loss_fn = ... .",
    "network": "Change it in place, or set the module's attribute in on_begin.",
    **dict.fromkeys(("optimizer", "optimizers"), "Change the param_groups in place."),
    **dict.fromkeys(("y_hat", "y_hats"), "Change it in place, or change the network."),
    "outputs": "It is what the step returned.",
    "last_loss": "It is the loss that training_step() returned.",
}
_SETTABLE = ("terminate", "batch", "last_scores_train", "last_scores_valid")
_BEFORE_FORWARD = ("on_batch_begin", "on_batch_valid_begin")
_OTHER_NAMES = {
    "current_epoch": "ctx.epoch, which counts from 1",
    "logger": "ctx.trainer.logger",
    "loss": "ctx.last_loss",
    "max_epochs": "ctx.total_epochs",
    "metrics": "ctx.last_scores_train and ctx.last_scores_valid",
    "model": "ctx.network, or ctx.learner for the LightningModule",
    "module": "ctx.learner",
    "pl_module": "ctx.learner",
    "preds": "ctx.y_hat",
}
"""The names that other libraries have for a field."""


# Some fields are None only before they exist, or in an epoch without validation. Their types omit the None, like that
# of `CallbackSet.ctx`: otherwise a type checker would refuse `self.ctx.last_scores_valid["acc"]`.
class ContextTorch:
    """The state of the training loop, as `self.ctx` in the stages of a callback.

    Every field is computed when it is read. A callback can set `terminate`, `batch`, `last_scores_train` and
    `last_scores_valid`. It can also set fields of its own, which all callbacks of the run share.

    Example:
        >>> from callbacksets import CallbackSet
        >>> class CallbackSetStopEarly(CallbackSet):
        ...     def on_epoch_end(self):
        ...         if self.ctx.last_scores_train["loss"] < 0.1:
        ...             self.ctx.terminate = True

    mlr3torch: `ContextTorch`.
    """

    def __init__(
        self,
        trainer: "Trainer",
        learner: "LightningModule",
        loop: Loop,
        step: Step,
        callbacks: Mapping[str, Any],
        *,
        network: str | None = None,
        loss_fn: str | None = None,
    ) -> None:
        self._trainer = trainer
        self._learner = learner
        self._loop = loop
        self._step = step
        self._callbacks = callbacks
        self._network_name = network
        self._loss_fn_name = loss_fn

    # --- what trains -------------------------------------------------------------------------------------------------

    @property
    def learner(self) -> "LightningModule":
        """The LightningModule."""
        return self._learner

    @property
    def trainer(self) -> "Trainer":
        """The Trainer."""
        return self._trainer

    @property
    def network(self) -> nn.Module:
        """The submodule named by the adapter's `network`; else the module's attribute `network`; else the module."""
        if self._network_name is not None:
            return named_module(self._learner, self._network_name)
        network = getattr(self._learner, "network", None)
        return network if isinstance(network, nn.Module) else self._learner

    @property
    def loss_fn(self) -> Callable[..., Any] | None:
        """The attribute named by the adapter's `loss_fn`; else the module's `loss_fn` or `criterion`; else None."""
        if self._loss_fn_name is not None:
            return named_loss_fn(self._learner, self._loss_fn_name)
        loss_fn = getattr(self._learner, "loss_fn", None)
        return getattr(self._learner, "criterion", None) if loss_fn is None else loss_fn

    @property
    def optimizer(self) -> Optimizer:
        """The torch optimizer; in `on_after_backward` the optimizer that is about to step. None before it exists.

        Raises:
            RuntimeError: If there are several optimizers, outside of `on_after_backward`.
        """
        if self._loop.stage == "on_after_backward" and self._step.optimizer is not None:
            return self._step.optimizer
        optimizers = self.optimizers
        if len(optimizers) > 1:
            raise RuntimeError(f"There are {len(optimizers)} optimizers. Use ctx.optimizers, a list.")
        return optimizers[0] if optimizers else None  # type: ignore[return-value]

    @property
    def optimizers(self) -> list[Optimizer]:
        """The torch optimizers."""
        # Lightning inserts a mock if configure_optimizers() returned None
        return [optimizer for optimizer in self._trainer.optimizers if not is_mock(optimizer)]

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self._learner.device

    @property
    def prediction_encoder(self) -> Callable[..., Any] | None:
        """The module's attribute of that name, a callable `(network_output, task)`; else None."""
        return getattr(self._learner, "prediction_encoder", None)

    # --- what it trains on -------------------------------------------------------------------------------------------

    @property
    def loader_train(self) -> Any:
        """The training loader, or the list or dict of loaders; None before it exists."""
        return self._trainer.train_dataloader

    @property
    def loader_valid(self) -> Any:
        """The validation loader, or the list or dict of loaders; None before it exists and without validation."""
        return self._trainer.val_dataloaders

    @property
    def task_train(self) -> Any:
        """The dataset of the training loader."""
        return datasets(self.loader_train)

    @property
    def task_valid(self) -> Any:
        """The dataset of the validation loader."""
        return datasets(self.loader_valid)

    @property
    def validates(self) -> bool:
        """Whether a validation is running. In `on_before_valid`: True if one follows, False if the epoch ends."""
        return bool(self._trainer.validating)

    @property
    def eval_freq(self) -> int | None:
        """The number of epochs between validations: `Trainer(check_val_every_n_epoch=...)`."""
        return self._trainer.check_val_every_n_epoch

    # --- where it is -------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch, counted from 1. In `on_begin`, the number of epochs trained so far."""
        return self._loop.now[0]

    @property
    def total_epochs(self) -> int | None:
        """The number of epochs of the whole run, `Trainer(max_epochs=...)`; None if unlimited."""
        return limit(self._trainer.max_epochs)

    @property
    def step(self) -> int:
        """The number of the batch in the epoch, from 1; None before the first batch."""
        return self._trainer.fit_loop.batch_idx + 1 if "on_batch_begin" in self._loop.ran else None  # type: ignore[return-value]

    @property
    def step_valid(self) -> int:
        """The number of the batch in the validation loader, from 1; None before the first batch."""
        return self._step.valid  # type: ignore[return-value]

    @property
    def dataloader_idx(self) -> int | None:
        """The number of the validation loader that the batch comes from, from 0 as in Lightning.

        It is None outside of `on_batch_valid_begin` and `on_batch_valid_end`.
        """
        return self._step.loader if self._loop.stage.startswith("on_batch_valid") else None

    @property
    def global_step(self) -> int:
        """The number of training batches so far, over all epochs, fits and resumed runs.

        It does not count optimizer steps.
        """
        return self._loop.now[1]

    @property
    def total_steps(self) -> int | None:
        """The batches of the whole run, unless `max_time` or a loader ends it earlier; None if unlimited or unknown."""
        return total_steps(self._trainer, self._learner.automatic_optimization)

    @property
    def resumed(self) -> bool:
        """Whether this fit continues a checkpoint."""
        return self._loop.resumed

    @property
    def callbacks(self) -> Mapping[str, Any]:
        """The callbacks of this run by id, in the order in which they run."""
        return self._callbacks

    @property
    def terminate(self) -> bool:
        """Set it to True to stop training. It is checked after `on_begin` and when an epoch ends.

        True on any rank stops all ranks.
        """
        return self._loop.terminate

    @terminate.setter
    def terminate(self, value: bool) -> None:
        if hasattr(value, "dtype"):
            value = bool(value)  # the result of a comparison in NumPy or torch
        if not isinstance(value, bool):
            raise TypeError(f"Expected ctx.terminate to be True or False but got {value!r}.")
        loop = self._loop
        if value and not loop.terminate:
            loop.terminated_by = (loop.caller, loop.stage if loop.caller else "")
        loop.terminate = value

    # --- the batch ---------------------------------------------------------------------------------------------------

    @property
    def batch(self) -> Any:
        """The current batch, on the device, in the form in which the loader returned it.

        `on_batch_begin` and `on_batch_valid_begin` can change it in place or assign a new one. The step gets the
        changed batch.

        Raises:
            RuntimeError: If it is assigned in another stage, or if the step fetches its batches itself.
        """
        return self._step.batch

    @batch.setter
    def batch(self, value: Any) -> None:
        step = self._step
        if self._loop.stage not in _BEFORE_FORWARD:
            raise RuntimeError(
                "ctx.batch can only be assigned in on_batch_begin and on_batch_valid_begin, before the forward call."
            )
        if isinstance(step.batch, list) and isinstance(value, list | tuple):
            step.batch[:] = value  # in place, so that the hooks of the module see it as well
        elif isinstance(step.batch, dict) and isinstance(value, Mapping):
            contents = dict(value)
            step.batch.clear()
            step.batch.update(contents)
        elif step.batch is None:
            raise RuntimeError(
                "ctx.batch cannot be assigned, because the step fetches its batches itself, from dataloader_iter."
            )
        else:
            step.batch, step.is_exchanged = value, True

    @property
    def y_hats(self) -> Any:
        """The complete output of the network for the current batch, in training and validation.

        It is the result of the last call of the network in the step. It is available from the forward call until the
        next batch starts.

        Raises:
            RuntimeError: Before the forward call; if the step did not call the network; or if all callbacks of the run
                have `reads_y_hats = False`.
        """
        step = self._step
        if step.y_hats is not NOTHING:
            return step.y_hats
        self._check_step_has_run("network output")
        if not any(callback.reads_y_hats for callback in self._callbacks.values()):
            raise RuntimeError(
                "The network's output is not kept, because all callbacks of this run have reads_y_hats = False. "
                "Set reads_y_hats = True in the class of the callback that reads it."
            )
        raise RuntimeError(why_no_output(self._learner, self.network, self._network_name))

    @property
    def y_hat(self) -> Any:
        """The first element of `y_hats` (list, tuple), its `logits` or first value (dict), else `y_hats` itself."""
        return first_output(self.y_hats)

    @property
    def outputs(self) -> Any:
        """The value that `training_step()` or `validation_step()` returned for the current batch; tensors are detached.

        It is available from the end of the step until the next batch starts.

        Raises:
            RuntimeError: Before the end of the step.
        """
        step = self._step
        if step.outputs is NOTHING:
            self._check_step_has_run("output of the step")
        step.outputs = apply_to_collection(step.outputs, Tensor, Tensor.detach, allow_frozen=True)
        return step.outputs

    def _check_step_has_run(self, what: str) -> None:
        if self._loop.stage in _BEFORE_FORWARD:
            raise RuntimeError(f"There is no {what} yet: {self._loop.stage} runs before the forward call.")
        if not self._step.is_done:
            raise RuntimeError(f"There is no {what} yet: no batch has started, or the batch has failed.")

    @property
    def last_loss(self) -> float:
        """The loss of the last training batch that had a loss, as `training_step()` returned it.

        It is not divided by `accumulate_grad_batches`. It is copied from the device when it is read.
        """
        step = self._step
        if isinstance(step.last_loss, Tensor):
            # with manual optimization a step may return anything
            step.last_loss = step.last_loss.item() if step.last_loss.numel() == 1 else None
        return step.last_loss  # type: ignore[no-any-return]

    # --- scores ------------------------------------------------------------------------------------------------------

    @property
    def last_scores_train(self) -> Scores:
        """The scores that the module logged for the epoch in the training loop: name -> float.

        A key is a name, the full logged name or a position.
        """
        self._loop.scores_train = scores = as_scores(self._loop.scores_train)
        return scores  # type: ignore[return-value]

    @last_scores_train.setter
    def last_scores_train(self, value: Mapping[str, float] | None) -> None:
        self._loop.scores_train = _as_scores("last_scores_train", value, self.measures_train)

    @property
    def last_scores_valid(self) -> Scores:
        """The scores of the last validation; empty before the first.

        From the end of an epoch without validation until the next validation it is None.
        """
        self._loop.scores_valid = scores = as_scores(self._loop.scores_valid)
        return scores  # type: ignore[return-value]

    @last_scores_valid.setter
    def last_scores_valid(self, value: Mapping[str, float] | None) -> None:
        self._loop.scores_valid = _as_scores("last_scores_valid", value, self.measures_valid)

    @property
    def measures_train(self) -> Measures:
        """Name -> the torchmetrics `Metric` that was logged in training; None if a number was logged."""
        return self._loop.measures_train

    @property
    def measures_valid(self) -> Measures:
        """The same for validation. In `on_begin` they are known if the sanity check ran."""
        return self._loop.measures_valid

    def minimize(self, name: str | int = 0) -> bool | None:
        """Whether lower is better for a score; None if unknown.

        Args:
            name: The name or position of a validation score, else of a training score.

        Returns:
            The opposite of the metric's `higher_is_better`, else True for a name that ends in `loss`, else None.
        """
        for known in (self.last_scores_valid, self.measures_valid, self.last_scores_train, self.measures_train):
            if known:
                with suppress(LookupError):
                    name = known.name(name)
                    break
        return self._loop.is_minimized(name) if isinstance(name, str) else None

    # --- itself ------------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        known = getattr(type(self), name, None)
        if known is not None and getattr(known, "fset", None) is None:
            remedy = _REMEDIES.get(name, "It shows the state of the Trainer.")
            raise AttributeError(f"ctx.{name} cannot be set. {remedy} You can set {listed(_SETTABLE)}.")
        if known is None and name not in vars(self) and (near := difflib.get_close_matches(name, _SETTABLE, 1, 0.85)):
            raise AttributeError(
                f"ctx has no field {name!r}. Did you mean {near[0]!r}? Give a field of your own a name that is less "
                "similar."
            )
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if isinstance(known := getattr(type(self), name, None), property):
            return known.fget(self)  # type: ignore[misc]  # the field itself raised AttributeError: raise it again
        fields = [name for name in dir(self) if not name.startswith("_")]
        meant = f" Here it is {_OTHER_NAMES[name]}." if name in _OTHER_NAMES else did_you_mean(name, fields)
        raise AttributeError(f"ctx has no field {name!r}.{meant} It has {', '.join(fields)}.")

    def __repr__(self) -> str:
        total = "" if self.total_epochs is None else f"/{self.total_epochs}"
        return f"<ContextTorch: epoch {self.epoch}{total}, step {self.step}, global_step {self.global_step}>"


def first_output(y_hats: Any) -> Any:
    """The prediction in a network's output, if the output has several elements."""
    if isinstance(y_hats, Mapping):
        return y_hats["logits"] if "logits" in y_hats else next(iter(y_hats.values()))
    return y_hats[0] if isinstance(y_hats, list | tuple) else y_hats


def datasets(loaders: Any) -> Any:
    """The dataset of a loader, or the datasets of a list or dict of loaders; None if a loader has no dataset."""
    if isinstance(loaders, Mapping):
        return {name: datasets(loader) for name, loader in loaders.items()}
    if isinstance(loaders, list | tuple):
        return [datasets(loader) for loader in loaders]
    return getattr(loaders, "dataset", None)


def _as_scores(name: str, value: Mapping[str, float] | None, measures: Measures) -> Scores | None:
    if value is None or isinstance(value, Scores):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"Expected ctx.{name} to be a mapping of names to numbers or None but got {value!r}.")
    return Scores(value, logged=measures.logged)
