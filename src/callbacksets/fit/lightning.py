"""Every use of Lightning's private names, with its reason and the test that detects a change."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

WEIGHTS = "lightning_module_state_dict"
"""The strategy's method that Lightning calls first when it saves a checkpoint. No earlier hook announces a checkpoint.

tests/test_resume.py: test_saved_by_a_callback_before_the_adapter
"""


def is_a(thing: object, name: str) -> bool:
    """Whether an object is an instance of a class with this name, or of a subclass.

    Both namespaces have such classes, and some are private. tests/fit/test_lightning.py
    """
    return name in (cls.__name__ for cls in type(thing).__mro__)


def is_mock(optimizer: object) -> bool:
    """Whether it is the mock that Lightning inserts if `configure_optimizers()` returned None.

    tests/test_adapter.py: test_without_an_optimizer
    """
    return type(optimizer).__name__ == "_MockOptimizer"


def check_namespace(trainer: object, expected: type) -> None:
    """Raise a `TypeError` for a Trainer of the other namespace. The two have separate class hierarchies."""
    if not isinstance(trainer, expected):
        other = "callbacksets" if "pytorch_lightning" in expected.__module__ else "callbacksets.pytorch_lightning"
        raise TypeError(
            f"Expected a Trainer of {expected.__module__.split('.trainer')[0]} but got one of "
            f"{type(trainer).__module__.split('.trainer')[0]}. Use: from {other} import CallbackSetAdapter."
        )


def callbacks_of(trainer: "Trainer") -> "list[Callback]":
    """All callbacks of a Trainer."""
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]  # set where mypy does not look
    return callbacks  # type: ignore[no-any-return]


def batch_progress(trainer: "Trainer") -> Any:
    """Lightning's counter of batches: `total` over all epochs and resumed runs, `current` in the epoch.

    No other counter is exact in a resumed run: an interrupted batch is `ready` but not `processed`.
    `trainer.fit_loop.total_batch_idx` counts such a batch twice.
    tests/test_resume.py: test_mid_epoch
    """
    return trainer.fit_loop.epoch_loop.batch_progress


def epoch_progress(trainer: "Trainer") -> Any:
    """Lightning's counter of epochs. `trainer.current_epoch` is its `current.completed`, behind two properties."""
    return trainer.fit_loop.epoch_progress


def has_all_batches(trainer: "Trainer") -> bool:
    """Whether all batches of the epoch have been trained. Training may also stop inside an epoch.

    tests/test_resume.py: test_a_run_that_counts_in_steps_goes_on_from_its_own_checkpoint
    """
    progress = batch_progress(trainer)
    return bool(progress.is_last_batch or progress.current.ready >= trainer.num_training_batches)


def is_processed(trainer: "Trainer") -> bool:
    """Whether the current batch has been trained, though its last hooks may still be running."""
    current = batch_progress(trainer).current
    return bool(current.ready == current.processed)


def takes_batch_for_done(trainer: "Trainer") -> bool:
    """Whether a run that is resumed from a checkpoint written now continues with the next batch.

    Lightning 2.4 trains the batch again if the checkpoint was written in the hook at its end.
    tests/fit/test_kept.py: test_an_end_of_a_batch_that_anothers_exception_prevented
    """
    return is_processed(trainer) and hasattr(trainer.fit_loop.epoch_loop, "restarted_on_train_batch_end")


def hook_under_way(trainer: "Trainer") -> str | None:
    """The name of the hook that Lightning is calling, on callbacks or on the module.

    If a callback saves in a hook such as `on_train_epoch_end`, Lightning considers the epoch complete.
    tests/test_resume.py: test_saved_by_a_callback_before_the_adapter
    """
    name: str | None = trainer.lightning_module._current_fx_name
    return name


def skips_backward(trainer: "Trainer") -> Callable[[], bool]:
    """A function that tells whether steps have no backward call, as in the last epoch of stochastic weight averaging.

    tests/test_adapter.py: test_no_after_backward_where_an_optimizer_step_is_announced_without_gradients
    """
    optimization = trainer.fit_loop.epoch_loop.automatic_optimization
    return lambda: optimization._skip_backward


def logged_step(trainer: "Trainer") -> int:
    """The step under which Lightning logs the metrics of an epoch. `trainer.global_step` counts optimizer steps.

    tests/test_scores_reach_lightning.py
    """
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def logged_values(trainer: "Trainer", loop: str) -> Mapping[str, Any]:
    """Every value given to `self.log` in the training or the validation loop, before it is reduced.

    `trainer.callback_metrics` is not sufficient: the training scores of an epoch enter it after validation, training
    and validation share its names, and it does not tell which `Metric` a value comes from. `fit.reader` uses the
    `values()` of the collection, and of each value `compute()`, `has_reset`, `is_tensor`, `value` (the logged `Metric`,
    if not `is_tensor`) and `meta` with `name`, `fx`, `on_epoch`, `dataloader_idx`, `add_dataloader_idx`.
    tests/fit/test_reader.py
    """
    epoch_loop = trainer.fit_loop.epoch_loop
    collection: Any = epoch_loop._results if loop == "train" else epoch_loop.val_loop._results
    return collection  # type: ignore[no-any-return]


def gradient_scaler(trainer: "Trainer") -> Any:
    """The gradient scaler of 16-mixed precision; None with other precisions."""
    return getattr(trainer.precision_plugin, "scaler", None)


FAST_FORWARD = "increment_progress_to_evaluation_end"
"""The method of the validation loop that Lightning calls before the first batch of an epoch that it repeats.

It draws a random number. Lightning 2.4 has no such method.
tests/fit/test_random_state.py: test_resumed_is_uninterrupted
"""


def draws_order_again(trainer: "Trainer") -> bool:
    """Whether Lightning makes the data iterator a second time for the first epoch of a resumed run, as 2.4 does.

    tests/fit/test_random_state.py: test_resumed_is_uninterrupted
    """
    return not hasattr(trainer.fit_loop, "is_resuming")


LOAD_LOADERS = "_load_combined_loader_states"
"""The method of the fit loop that Lightning calls when it has the loaders, before it makes the first iterator of a fit.

tests/test_ranks_resumed.py
"""


def set_epoch_of_samplers(trainer: "Trainer") -> None:
    """Tell samplers which epoch comes. In a resumed run Lightning does so when the first iterator has been made.

    A distributed sampler draws its order from the epoch, and a loader with workers asks for that order at once.
    tests/test_ranks_resumed.py
    """
    from lightning.fabric.utilities.data import _set_sampler_epoch  # the function that Lightning calls itself

    for loader in trainer.fit_loop._combined_loader.flattened:  # type: ignore[union-attr]
        _set_sampler_epoch(loader, epoch_progress(trainer).current.processed)


def validation_loop(trainer: "Trainer") -> object:
    """The validation loop of a fit."""
    return trainer.fit_loop.epoch_loop.val_loop


class Taps:
    """Replaces methods of an object until they are restored, where Lightning has no sufficient hook."""

    def __init__(self, target: object) -> None:
        self._target = target
        self._before: dict[str, Any] = {}

    def put(self, name: str, tapped: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace a method by the result of a function that gets the method."""
        self._before[name] = vars(self._target).get(name)
        setattr(self._target, name, tapped(getattr(self._target, name)))

    def remove(self) -> None:
        """Restore the former methods: those of the class, or those that somebody else had set."""
        for name, before in self._before.items():
            if before is None:
                vars(self._target).pop(name, None)
            else:
                setattr(self._target, name, before)
        self._before = {}
