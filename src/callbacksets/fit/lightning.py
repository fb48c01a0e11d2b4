"""Every use of Lightning's private names, with its reason and the test that detects a change."""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from callbacksets.fit.position import Continuation, Counts, Point, Progress

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer

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
    """Whether the last batch of the epoch has been announced. If it `is_processed()` too, all have been trained.

    tests/test_resume.py: test_a_run_that_counts_in_steps_goes_on_from_its_own_checkpoint
    """
    progress = batch_progress(trainer)
    return bool(progress.is_last_batch or progress.current.ready >= trainer.num_training_batches)


def is_processed(trainer: "Trainer") -> bool:
    """Whether the current batch has been trained, though its last hooks may still be running."""
    current = batch_progress(trainer).current
    return bool(current.ready == current.processed)


def hook_under_way(trainer: "Trainer") -> str | None:
    """The name of the hook that Lightning is calling, on callbacks or on the module.

    If a callback saves in a hook such as `on_train_epoch_end`, Lightning considers the epoch complete.
    tests/test_resume.py: test_saved_by_a_callback_before_the_adapter
    """
    name: str | None = trainer.lightning_module._current_fx_name
    return name


def overrides(module: "LightningModule", hook: str) -> bool:
    """Whether a module has a hook of its own, and not that of the base class, which does nothing.

    tests/test_resumed_modules.py
    """
    return getattr(getattr(module, hook), "__qualname__", "") != f"ModelHooks.{hook}"


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


def forget_sanity_check(trainer: "Trainer") -> None:
    """Forget the names that the sanity check has logged. They would come first, whatever the validations log first.

    tests/callbacks/test_monitor.py
    """
    logged_values(trainer, "valid").clear()  # type: ignore[attr-defined]


LOGGED_WITH = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "add_dataloader_idx", "metric_attribute")
"""The arguments of `self.log` that Lightning keeps beside a value, as its `meta`."""


def add_logged(trainer: "Trainer", key: str, meta: Mapping[str, Any]) -> Any:
    """Register a value in the training loop as if it had been logged.

    tests/test_resumed_exactly.py, tests/fit/test_lightning.py
    """
    collection: Any = logged_values(trainer, "train")
    result = sys.modules[type(collection).__module__]

    class Restored(result._Metadata):  # type: ignore[name-defined, misc]
        def __ne__(self, other: object) -> bool:
            entry.meta = other  # the module may log the value with other arguments now
            return False

    told = Restored(**{name: meta[name] for name in (*LOGGED_WITH, "reduce_fx")})
    told.sync = result._Sync(_should=meta["sync_dist"], fn=trainer.strategy.reduce)
    metric = meta["metric_attribute"]
    collection[key] = entry = result._ResultMetric(told, metric is None)
    if metric is not None:
        entry.value = trainer.lightning_module.get_submodule(metric)
    return entry


def keep_logged(trainer: "Trainer") -> None:
    """Let the next batch count as a later one of the epoch. Lightning forgets what was logged before the first.

    tests/test_resumed_exactly.py
    """
    trainer._logger_connector._first_loop_iter = True


def has_whole_weights(trainer: "Trainer") -> bool:
    """Whether each rank has all weights. No rank alone has those of a sharded module, and the others may be gone.

    tests/fit/test_saving.py
    """
    return trainer.world_size == 1 or "DDP" in type(trainer.strategy).__name__


def gradient_scaler(trainer: "Trainer") -> Any:
    """The gradient scaler of 16-mixed precision; None with other precisions."""
    return getattr(trainer.precision_plugin, "scaler", None)


LOADERS_ARE_SET_UP = "_load_combined_loader_states"
"""The method of the fit loop that Lightning calls when it has the loaders, before it makes the first iterator of a fit.

tests/fit/test_data.py
"""


def set_epoch_of_samplers(trainer: "Trainer") -> None:
    """Tell samplers which epoch comes. In a resumed run Lightning does so when the first iterator has been made.

    A distributed sampler draws its order from the epoch, and a loader with workers asks for that order at once.
    tests/test_ranks_resumed.py
    """
    from lightning.fabric.utilities.data import _set_sampler_epoch  # the function that Lightning calls itself

    for loader in combined_loader(trainer).flattened:
        _set_sampler_epoch(loader, epoch_progress(trainer).current.processed)


def combined_loader(trainer: "Trainer") -> Any:
    """The training loaders, as Lightning reads them together: `flattened`, and `_iterator.iterators` in an epoch.

    tests/fit/test_data.py
    """
    return trainer.fit_loop._combined_loader


def iterators(trainer: "Trainer") -> list[Any]:
    """The iterators of the training loaders in the epoch under way."""
    return combined_loader(trainer)._iterator.iterators  # type: ignore[no-any-return]


def fetcher(trainer: "Trainer") -> Any:
    """What reads the training loaders; None before they are set up. `batches` has what it has read ahead."""
    return trainer.fit_loop._data_fetcher


@contextmanager
def only_orders(iterators: list[Any]) -> Iterator[None]:
    """Let iterators of torch's `DataLoader` draw the order of their data, and read none of it.

    Others, of worker processes or of an `IterableDataset`, are left as they are. tests/fit/test_data.py
    """
    readers = [one for one in iterators if type(one).__name__ == "_SingleProcessDataLoaderIter"]
    before = [one._dataset_fetcher for one in readers]
    for one in readers:
        if one._dataset_kind == 0:  # with indices
            one._dataset_fetcher = _ReadsNothing()
    try:
        yield
    finally:
        for one, reads in zip(readers, before, strict=True):
            one._dataset_fetcher = reads


class _ReadsNothing:
    def fetch(self, indices: Any) -> None: ...


def validation_is_due(trainer: "Trainer") -> bool:
    """Whether Lightning validates after the last batch that was trained.

    tests/test_resumed_exactly.py
    """
    reads = fetcher(trainer)
    return reads is not None and bool(trainer.fit_loop.epoch_loop._should_check_val_fx(reads))


def is_window_open(trainer: "Trainer") -> bool:
    """Whether gradients are being accumulated for the next step of the optimizer. A module that steps by itself may.

    tests/test_resumed_exactly.py
    """
    if not trainer.lightning_module.automatic_optimization:
        return True
    trained = batch_progress(trainer).current.processed
    return bool(trained % trainer.accumulate_grad_batches) and not (is_processed(trainer) and has_all_batches(trainer))


def finish_batch(trainer: "Trainer", *, validates: bool) -> None:
    """Do what Lightning does after the hooks of a batch: validate, step schedules on scores, count what is logged.

    tests/test_resumed_exactly.py
    """
    epoch_loop = trainer.fit_loop.epoch_loop
    with ExitStack() as taps:
        tap(taps, epoch_loop, "_should_check_val_fx", lambda *args: validates)
        epoch_loop.on_advance_end(fetcher(trainer))


def step_plateaus(trainer: "Trainer") -> None:
    """Step the module's `ReduceLROnPlateau`. Lightning does so after the hooks of an epoch's end, where others save.

    tests/test_resumed_exactly.py
    """
    completed = epoch_progress(trainer).current
    completed.completed -= 1  # a schedule may count the epochs
    trainer.fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
    completed.completed += 1


def announces_epoch_again(trainer: "Trainer") -> bool:
    """Whether a run that is resumed inside an epoch calls `on_train_epoch_start` again, as before Lightning 2.5.

    tests/test_resumed_modules.py
    """
    return not hasattr(trainer.fit_loop, "restarted_mid_epoch")


def go_on_as_usual(trainer: "Trainer") -> None:
    """Let Lightning treat the loops as if no checkpoint had been loaded: their counts are right already.

    Otherwise it would not make a new iterator for the next epoch, would repeat an epoch that counts steps without its
    batches, and would not step the module's `ReduceLROnPlateau`.
    tests/test_resumed_exactly.py
    """
    for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop, validation_loop(trainer)):
        loop._restarting = loop._resuming_from_checkpoint = False


def last_reloads(trainer: "Trainer") -> list[int | None]:
    """The epochs in which the loaders were made: of training and of validation.

    tests/test_resumed_exactly.py
    """
    epochs = trainer.fit_loop._last_train_dl_reload_epoch, validation_loop(trainer)._last_val_dl_reload_epoch
    return [None if epoch == float("-inf") else int(epoch) for epoch in epochs]


def set_last_reloads(trainer: "Trainer", epochs: list[int | None]) -> None:
    """Restore what `last_reloads()` returned. Lightning does not save it."""
    of_train, of_valid = (float("-inf") if epoch is None else epoch for epoch in epochs)
    trainer.fit_loop._last_train_dl_reload_epoch = of_train
    validation_loop(trainer)._last_val_dl_reload_epoch = of_valid


def known_metrics(trainer: "Trainer") -> dict[str, Any]:
    """What `trainer.callback_metrics` holds, without the values of the loop under way, which reading it may compute.

    At the end of a batch or an epoch it has these as well: Lightning adds them after its hooks, or for a schedule.
    tests/test_resumed_exactly.py
    """
    ends = [one.current.processed > one.current.completed for one in (batch_progress(trainer), epoch_progress(trainer))]
    is_whole = any(ends) and not trainer.interrupted
    return dict(trainer.callback_metrics if is_whole else trainer._logger_connector._callback_metrics)


_LOOPS = ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress")


def progress_in(loops: Mapping[str, Any]) -> Progress:
    """Lightning's counts in a checkpoint.

    Args:
        loops: `checkpoint["loops"]["fit_loop"]`.
    """
    epoch, batch = (Counts(**loops[name]["current"]) for name in _LOOPS[:2])
    of_batches = loops[_LOOPS[1]]
    return Progress(epoch, batch, of_batches["total"]["processed"], of_batches["is_last_batch"])


def set_progress(loops: dict[str, Any], to: Continuation) -> None:
    """Write into a checkpoint where training goes on, before Lightning restores its loops from it.

    tests/fit/test_lightning.py
    """
    epochs, batches, validation = (loops[name] for name in _LOOPS)
    for counts in epochs.values():
        counts |= dict.fromkeys(("processed", "completed"), to.epochs)
        counts |= dict.fromkeys(("ready", "started"), to.epochs + to.inside)
    batches["current"] |= dict.fromkeys(Counts._fields, to.batch)
    batches["total"] |= dict.fromkeys(Counts._fields, to.batches)
    batches["is_last_batch"] &= to.has_all or not to.inside  # the last batch may have been announced only
    if to.point is Point.VALIDATION:  # the batches of a validation that had begun come again
        before = validation["total"]["completed"] - validation["current"]["completed"]
        validation["total"] |= dict.fromkeys(Counts._fields, before)
        validation["current"] |= dict.fromkeys(Counts._fields, 0)
    _settle(loops)


def _settle(counts: Any) -> None:
    """Set back the counts of what was begun and not completed, so that Lightning does it again."""
    for value in counts.values() if isinstance(counts, dict) else ():
        if isinstance(value, dict) and {"ready", "completed"} <= value.keys():
            if "processed" not in value:
                value |= {name: value["completed"] for name in ("ready", "started") if name in value}
        else:
            _settle(value)


def validation_loop(trainer: "Trainer") -> Any:
    """The validation loop of a fit."""
    return trainer.fit_loop.epoch_loop.val_loop


class Tap(partial[Any]):
    """A method of an object that is replaced by a function, which gets the method first, where Lightning has no hook.

    A copy, or the saved form, of the object has its own method there: a copy is not part of the fit.
    """

    where: tuple[object, str]

    def __reduce__(self) -> Any:
        return getattr, self.where


def watch_training(taps: ExitStack, trainer: "Trainer", leave: Callable[[BaseException], None]) -> None:
    """Call a function with the exception that ends training in a child process, where no `on_exception` is called.

    `_run_stage` is all of training, with the sanity check.
    tests/fit/test_handover.py: test_states_come_back_from_child_processes
    """

    def watched(stage: Callable[[], Any]) -> Any:
        try:
            return stage()
        except BaseException as error:
            with _sigterm_waits():  # the parent sends it as soon as the process of another rank has ended
                leave(error)
            raise

    tap(taps, trainer, "_run_stage", watched)


@contextmanager
def _sigterm_waits() -> Iterator[None]:
    """Handle SIGTERM later. Lightning's handler communicates with other ranks, which may be gone."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: came.append(signum))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        if came:
            signal.raise_signal(signal.SIGTERM)


def tap(taps: ExitStack, owner: object, name: str, around: Callable[..., Any]) -> None:
    """Replace a method until the stack is closed. Then the former one is back: the class's, or what somebody had set.

    Args:
        taps: The stack.
        owner: The object.
        name: The method.
        around: The function. Its first argument is the method, the others are those of the call.
    """
    before = vars(owner).get(name)
    made = Tap(around, getattr(owner, name))
    made.where = (owner, name)

    def remove() -> None:
        if before is None:
            vars(owner).pop(name, None)
        else:
            setattr(owner, name, before)

    setattr(owner, name, made)
    taps.callback(remove)
