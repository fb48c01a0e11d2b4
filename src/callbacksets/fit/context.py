"""What a callback sees of the training loop: `self.ctx`."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from callbacksets.checks import did_you_mean, listed
from callbacksets.fit.lightning import callbacks_of, is_a
from callbacksets.fit.reader import Reading
from callbacksets.scores import ByName, Measures, Scores, short_name

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from callbacksets.base import CallbackSet

NOTHING: Any = object()
"""Where None could be a value: the network has not been called."""


@dataclass(slots=True)
class Loop:
    """What the adapter has counted and seen in a fit. The adapter writes it, the context shows it."""

    epoch: int = 0
    step: int | None = None
    step_valid: int | None = None
    global_step: int = 0

    begun: bool = False  # the stage `begin` has run
    in_epoch: bool = False  # between `epoch_begin` and `epoch_end`
    in_batch: bool = False  # between `batch_begin` and `batch_end`
    in_validation: bool = False  # between the start of a validation and `valid_end`
    validation_ends: bool = False  # all its batches are done
    repeats_validation: bool = False  # the one under way had ended when the checkpoint was written
    validated: bool = False  # validation started in this epoch
    ahead: str = ""  # the hook whose part has been done before it came, so that it could be saved
    epoch_ends: bool = False  # Lightning has ended the epoch, and `before_valid` runs, as it did not validate
    complete: bool = True  # the last epoch that ended had all its batches
    ended_epoch: int | None = None  # the one that the resumed run begins once more, though it had ended
    epochs_processed: int = 0  # what Lightning had counted when the epoch began
    missed_epoch_begin: bool = False  # the run was resumed inside this epoch
    resumed: bool = False

    batch: Any = None
    batch_open: bool = False  # what is assigned to the batch still reaches the forward call
    exchanged: bool = False  # the step is to be called with the batch here, not with the loader's
    in_step: bool = False  # while the module's step runs, so that it and not a callback calls the network
    depth: int = 0  # of calls of the network inside each other
    stepped: bool = False  # the step of the current batch has been made
    outputs: Any = NOTHING
    loss_of_step: Any = None  # what the step has returned, to be `loss` at the end of the batch
    loss: Any = None
    backward: int = 0  # the global step of the last backward call since the gradients were zeroed or stepped on
    optimizer: Optimizer | None = None  # the one about to step
    automatic: bool = True  # the module's `automatic_optimization`

    scores_train: Scores | Reading | None = field(default_factory=Scores)
    scores_valid: Scores | Reading | None = field(default_factory=Scores)
    scored_at: int = 0  # the global step of the training scores
    measures_train: Measures = field(default_factory=Measures)
    measures_valid: Measures = field(default_factory=Measures)
    minimize: dict[str, bool | None] = field(default_factory=dict)  # what the measures of the resumed run have said

    stage: str = ""  # the stage that runs
    caller: str | None = None  # the id of the callback that runs
    terminate: bool = False
    terminated_by: tuple[str | None, str] | None = None  # the id and the stage
    stops: bool = False  # it was looked at, and training ends


_REMEDIES = {
    "total_epochs": "To stop earlier, set ctx.terminate = True; to train longer, set Trainer(max_epochs=...).",
    "total_steps": "To stop earlier, set ctx.terminate = True; to train longer, set Trainer(max_epochs=...).",
    "epoch": "The Trainer counts. To stop, set ctx.terminate = True.",
    "step": "The Trainer counts.",
    "step_valid": "The Trainer counts.",
    "global_step": "The Trainer counts.",
    "loss_fn": "Wrap the module's own in begin: ctx.learner.loss_fn = ... .",
    "network": "Change it in place, or the module's attribute in begin.",
    "optimizer": "Change its param_groups in place.",
    "optimizers": "Change their param_groups in place.",
    "y_hat": "Change it in place, or the network.",
    "y_hats": "Change it in place, or the network.",
    "last_loss": "It is what training_step() returned.",
}
_SETTABLE = ("terminate", "batch", "last_scores_train", "last_scores_valid")


class ContextTorch:
    """The state of the training loop, as `self.ctx` in the stages of a callback.

    Every field is computed when it is read. `terminate`, `batch`, `last_scores_train` and `last_scores_valid` can be
    set, and so can fields of one's own, which all callbacks of the run share.

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
        callbacks: Mapping[str, "CallbackSet"],
        *,
        network: str | None = None,
        loss_fn: str | None = None,
    ) -> None:
        self._trainer = trainer
        self._learner = learner
        self._loop = loop
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
            return _named_module(self._learner, self._network_name)
        network = getattr(self._learner, "network", None)
        return network if isinstance(network, nn.Module) else self._learner

    @property
    def loss_fn(self) -> Callable[..., Any] | None:
        """The one named by the adapter's `loss_fn`; else the module's `loss_fn` or `criterion`; else None."""
        if self._loss_fn_name is not None:
            return _named_loss_fn(self._learner, self._loss_fn_name)
        loss_fn = getattr(self._learner, "loss_fn", None)
        return getattr(self._learner, "criterion", None) if loss_fn is None else loss_fn

    @property
    def optimizer(self) -> Optimizer | None:
        """The torch optimizer; in `after_backward` the one about to step. None before there is one.

        Raises:
            RuntimeError: With several optimizers, outside of `after_backward`.
        """
        if self._loop.optimizer is not None:
            return self._loop.optimizer
        optimizers = self.optimizers
        if len(optimizers) > 1:
            raise RuntimeError(f"There are {len(optimizers)} optimizers, so ctx.optimizer is none: see ctx.optimizers.")
        return optimizers[0] if optimizers else None

    @property
    def optimizers(self) -> list[Optimizer]:
        """The torch optimizers."""
        # Lightning puts a mock where configure_optimizers() returned None
        return [optimizer for optimizer in self._trainer.optimizers if not is_a(optimizer, "_MockOptimizer")]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._learner.device

    @property
    def prediction_encoder(self) -> Callable[..., Any] | None:
        """The module's attribute of that name, a callable `(network_output, task)`; else None."""
        return getattr(self._learner, "prediction_encoder", None)

    # --- what it trains on -------------------------------------------------------------------------------------------

    @property
    def loader_train(self) -> Any:
        """The training loader, or the list or dict of them; None before it exists."""
        return self._trainer.train_dataloader

    @property
    def loader_valid(self) -> Any:
        """The validation loader, or the list or dict of them; None before it exists and without validation."""
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
    def eval_freq(self) -> int | None:
        """Every how many epochs validation runs: `Trainer(check_val_every_n_epoch=...)`."""
        return self._trainer.check_val_every_n_epoch

    # --- where it is -------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch, from 1; in `begin` the epochs trained so far."""
        return self._loop.epoch

    @property
    def total_epochs(self) -> int | None:
        """The epochs of the whole run, `Trainer(max_epochs=...)`; None when unlimited."""
        return _limit(self._trainer.max_epochs)

    @property
    def step(self) -> int | None:
        """The batch in the epoch, from 1."""
        return self._loop.step

    @property
    def step_valid(self) -> int | None:
        """The batch in the validation loader, from 1."""
        return self._loop.step_valid

    @property
    def global_step(self) -> int:
        """Batches over all epochs, fits and resumed runs; not optimizer steps."""
        return self._loop.global_step

    @property
    def total_steps(self) -> int | None:
        """The batches of the whole run, with every limit of the Trainer applied; None when unlimited or unknown."""
        return _total_steps(self._trainer, self._loop.automatic)

    @property
    def resumed(self) -> bool:
        """Whether this fit continues a checkpoint."""
        return self._loop.resumed

    @property
    def validates(self) -> bool:
        """In `before_valid`: whether a validation follows now; outside of it, whether one is under way."""
        return self._loop.in_validation

    @property
    def callbacks(self) -> Mapping[str, "CallbackSet"]:
        """The callbacks of this run by id, in the order in which they run."""
        return self._callbacks

    @property
    def terminate(self) -> bool:
        """Whether training is to stop; looked at after `begin` and when an epoch ends. True on any rank stops all."""
        return self._loop.terminate

    @terminate.setter
    def terminate(self, value: bool) -> None:
        if hasattr(value, "dtype"):
            value = bool(value)  # a comparison of numpy's or torch's
        if not isinstance(value, bool):
            raise TypeError(f"Expected ctx.terminate to be True or False but got {value!r}.")
        loop = self._loop
        if value and not loop.terminate:
            loop.terminated_by = (loop.caller, loop.stage if loop.caller else "")
        loop.terminate = value

    # --- the batch ---------------------------------------------------------------------------------------------------

    @property
    def batch(self) -> Any:
        """The current batch, on the device, in the loader's own form.

        What `batch_begin` and `batch_valid_begin` change in it, or assign to it, reaches the forward call.

        Raises:
            RuntimeError: When it is assigned in another stage.
            TypeError: When it is assigned and is a tuple, which others may hold.
        """
        return self._loop.batch

    @batch.setter
    def batch(self, value: Any) -> None:
        loop = self._loop
        if not loop.batch_open:
            raise RuntimeError("ctx.batch can only be assigned in batch_begin and batch_valid_begin: else it is late.")
        if isinstance(loop.batch, list) and isinstance(value, list | tuple):
            loop.batch[:] = value  # in place, so that the hooks of the module see it as well
        elif isinstance(loop.batch, dict) and isinstance(value, Mapping):
            contents = dict(value)
            loop.batch.clear()
            loop.batch.update(contents)
        elif isinstance(loop.batch, tuple) or loop.batch is None:
            raise TypeError(
                f"The batch is a {type(loop.batch).__name__}, which cannot be exchanged. Change its tensors in place "
                "(tensor.copy_(...)), or let the loader give lists or dicts."
            )
        else:
            loop.batch, loop.exchanged = value, True

    @property
    def y_hats(self) -> Any:
        """The network's output for the current batch as it is, in training and validation.

        Taken from the network's own call, the last one in the step. There from the forward call until the next batch
        starts.

        Raises:
            RuntimeError: Before the forward call, when the step did not call the network, or when no callback of the
                run says that it reads the output: `CallbackSet.reads_y_hats`.
        """
        loop = self._loop
        if loop.outputs is not NOTHING:
            return loop.outputs
        if loop.batch_open:
            raise RuntimeError(f"There is no network output yet: in {loop.stage} the forward call is still to come.")
        if not loop.stepped:
            raise RuntimeError("There is no network output yet: no batch has started, or it has failed.")
        if not any(callback.reads_y_hats for callback in self._callbacks.values()):
            raise RuntimeError(
                "The network's output is not kept, as all callbacks of this run have reads_y_hats = False. "
                "Set reads_y_hats = True in the class of the one that reads it."
            )
        network = f"{type(self.network).__name__} {self._network_name or ''}".rstrip()
        names = [name for name, _ in self._learner.named_children()]
        raise RuntimeError(
            f"The step did not call the network ({network}), so it has no output. If another part of the module is "
            f"the network, name it: CallbackSetAdapter(..., network=...). It has {listed(names)}."
        )

    @property
    def y_hat(self) -> Any:
        """The first element of `y_hats` (list, tuple), its `logits` or else first value (dict), or itself."""
        return first_output(self.y_hats)

    @property
    def last_loss(self) -> float | None:
        """The loss of the last training batch that had one, as `training_step()` returned it.

        Not divided by `accumulate_grad_batches`. Taken off the device when it is read.
        """
        loop = self._loop
        if isinstance(loop.loss, Tensor):
            # under manual optimization a step may return anything
            loop.loss = loop.loss.item() if loop.loss.numel() == 1 else None
        return loop.loss  # type: ignore[no-any-return]

    # --- scores ------------------------------------------------------------------------------------------------------

    @property
    def last_scores_train(self) -> Scores | None:
        """What the module logged for the epoch in the training loop: name -> float; takes a position as well."""
        loop = self._loop
        if isinstance(loop.scores_train, Reading):
            loop.scores_train = loop.scores_train.scores
        return loop.scores_train

    @last_scores_train.setter
    def last_scores_train(self, value: Mapping[str, float] | None) -> None:
        self._loop.scores_train = _as_scores("last_scores_train", value, self.measures_train)

    @property
    def last_scores_valid(self) -> Scores | None:
        """What the module logged in the validation loop; None from the end of an epoch that did not validate."""
        loop = self._loop
        if isinstance(loop.scores_valid, Reading):
            loop.scores_valid = loop.scores_valid.scores
        return loop.scores_valid

    @last_scores_valid.setter
    def last_scores_valid(self, value: Mapping[str, float] | None) -> None:
        self._loop.scores_valid = _as_scores("last_scores_valid", value, self.measures_valid)

    @property
    def measures_train(self) -> Measures:
        """Name -> the torchmetrics `Metric` that was logged in training, None where a number was."""
        return self._loop.measures_train

    @property
    def measures_valid(self) -> Measures:
        """The same for validation; known at `begin` when the sanity check ran."""
        return self._loop.measures_valid

    def minimize(self, name: str | int = 0) -> bool | None:
        """Whether lower is better for a score; None when unknown.

        Args:
            name: The name of a validation score, or else a training score, or its position.

        Returns:
            What the metric's `higher_is_better` says, else True for a name that ends in `loss`, else None.
        """
        for known in (self.last_scores_valid, self.measures_valid, self.last_scores_train, self.measures_train):
            if known:
                with suppress(LookupError):
                    name = known.name(name)
                    break
        if isinstance(name, int):
            return None
        metric = self.measures_valid.get(name, self.measures_train.get(name))
        higher: bool | None = getattr(metric, "higher_is_better", None)
        return self._loop.minimize.get(name, _is_loss(name)) if higher is None else not higher

    # --- itself ------------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        known = getattr(type(self), name, None)
        if known is not None and getattr(known, "fset", None) is None:
            remedy = _REMEDIES.get(name, "It shows what the Trainer has.")
            raise AttributeError(f"ctx.{name} cannot be set. {remedy} Settable are {listed(_SETTABLE)}.")
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if isinstance(known := getattr(type(self), name, None), property):
            return known.fget(self)  # type: ignore[misc]  # an AttributeError in a field led here: let it be seen
        fields = [name for name in dir(self) if not name.startswith("_")]
        raise AttributeError(f"ctx has no field {name!r}.{did_you_mean(name, fields)} It has {', '.join(fields)}.")

    def __repr__(self) -> str:
        total = "" if self.total_epochs is None else f"/{self.total_epochs}"
        return f"<ContextTorch: epoch {self.epoch}{total}, step {self.step}, global_step {self.global_step}>"


def may_stop(trainer: "Trainer", loop: Loop) -> bool:
    """Whether the Trainer's minimum of epochs and steps is met."""
    trained = loop.epoch - loop.in_epoch
    return trained >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)


def check_names(learner: "LightningModule", network: str | None, loss_fn: str | None) -> None:
    """Raise an `AttributeError` unless the module has what the adapter was told to use."""
    if network is not None:
        _named_module(learner, network)
    if loss_fn is not None:
        _named_loss_fn(learner, loss_fn)


def _named_module(learner: "LightningModule", name: str) -> nn.Module:
    try:
        return learner.get_submodule(name)
    except AttributeError:
        names = [module for module, _ in learner.named_modules() if module]
        raise AttributeError(
            f"{type(learner).__name__} has no submodule {name!r} to be the network.{did_you_mean(name, names)} "
            f"It has {listed(names)}."
        ) from None


def _named_loss_fn(learner: "LightningModule", name: str) -> Callable[..., Any]:
    loss_fn = getattr(learner, name, None)
    if not callable(loss_fn):
        names = [key for key in (*vars(learner), *dict(learner.named_children())) if not key.startswith("_")]
        names = [key for key in names if callable(getattr(learner, key))]
        raise AttributeError(
            f"{type(learner).__name__} has no callable {name!r} to be the loss_fn.{did_you_mean(name, names)} "
            f"It has {listed(names)}."
        )
    return loss_fn  # type: ignore[no-any-return]


def first_output(y_hats: Any) -> Any:
    """The tensor of a network's output that is its prediction, where it has several."""
    if isinstance(y_hats, Mapping):
        return y_hats["logits"] if "logits" in y_hats else next(iter(y_hats.values()))
    return y_hats[0] if isinstance(y_hats, list | tuple) else y_hats


def datasets(loaders: Any) -> Any:
    """The dataset of a loader, None if it has none, or those of a list or dict of loaders."""
    if isinstance(loaders, Mapping):
        return {name: datasets(loader) for name, loader in loaders.items()}
    if isinstance(loaders, list | tuple):
        return [datasets(loader) for loader in loaders]
    return getattr(loaders, "dataset", None)


def _limit(limit: int | None) -> int | None:
    return None if limit is None or limit == -1 else limit


def _total_steps(trainer: "Trainer", automatic: bool) -> int | None:
    per_epoch = trainer.num_training_batches
    if trainer.limit_train_batches == 0 or per_epoch == 0:
        return 0  # with such a limit, Lightning leaves num_training_batches alone
    epochs, steps = _limit(trainer.max_epochs), _limit(trainer.max_steps)
    totals = []
    if epochs is not None and per_epoch != float("inf"):
        totals.append(epochs * int(per_epoch))
    if steps is not None:
        window = trainer.accumulate_grad_batches
        if not automatic or any(is_a(native, "GradientAccumulationScheduler") for native in callbacks_of(trainer)):
            return None  # how often an optimizer steps is the module's, or changes
        if per_epoch == float("inf"):
            if window > 1:
                return None  # the last window of an epoch may be shorter, and where epochs end is unknown
            totals.append(steps)
        else:
            whole, rest = divmod(steps, -(-int(per_epoch) // window))  # Lightning steps on the last batch of an epoch
            totals.append(whole * int(per_epoch) + rest * window)
    return min(totals, default=None)


def _is_loss(name: str) -> bool | None:
    return True if short_name(name.split("/dataloader_idx_")[0]).lower().endswith("loss") else None


def _as_scores(name: str, value: Mapping[str, float] | None, measures: Measures) -> Scores | None:
    if value is None or isinstance(value, ByName):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"Expected ctx.{name} to be a mapping of names to numbers or None but got {value!r}.")
    return Scores(value, logged=measures.logged)
