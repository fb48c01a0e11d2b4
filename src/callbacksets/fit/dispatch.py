"""The only place that calls the stages of callbacks."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from callbacksets.base import STAGES, CallbackSet, check_instance
from callbacksets.fit.lightning import is_a
from callbacksets.fit.loop import Loop

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

T = TypeVar("T")
Call = tuple[str, Callable[[], None], Mapping[str, Any]]
"""A callback's part in a stage: its id, its method, and the dict of the instance, where the stage may be replaced."""


class Dispatch:
    """Calls each stage of all callbacks in their order, and records in the logbook when it did."""

    def __init__(self, trainer: "Trainer", sets: Mapping[str, CallbackSet], loop: Loop) -> None:
        self._trainer = trainer
        self._sets = sets
        self._loop = loop
        self._calls: dict[str, list[Call]] = {}
        self._rest: Iterator[Call] = iter([])  # the calls of the current stage that are still to come
        self.check_stages()
        self.find_stages()

    def check_stages(self) -> None:
        """Raise a `TypeError` if an instance has an attribute that looks like a stage but cannot be one."""
        for callback in self._sets.values():
            check_instance(callback)

    def find_stages(self) -> None:
        """Find again which callback has which stage, and bind the methods, so that a batch only has to call them."""
        profiler = self._trainer.profiler  # type: ignore[attr-defined]  # set where mypy does not look
        is_profiled = not is_a(profiler, "PassThroughProfiler")
        for stage in STAGES:
            self._calls[stage] = [
                (id, _profiled(id, callback, stage, profiler), {}) if is_profiled else (id, method, vars(callback))
                for id, callback in self._sets.items()
                if (method := getattr(callback, stage, None)) is not None
            ]

    def has(self, stage: str) -> bool:
        """Whether any callback has the stage."""
        return bool(self._calls[stage])

    def run(self, stage: str, calls: Iterable[Call] | None = None) -> None:
        """Run a stage of all callbacks, or only these calls."""
        loop = self._loop
        loop.stage = stage
        loop.ran[stage] = loop.now
        self._rest = rest = iter(self._calls[stage] if calls is None else calls)
        try:
            # A callback that saves a checkpoint lets the others go first, see `finish`: then nothing is left here.
            for loop.caller, method, own in rest:
                if stage in own:
                    method = own[stage]
                    if method is None:  # switched off
                        continue
                method()
        except BaseException as error:
            self.note(error)
            raise
        loop.stage, loop.caller = "", None

    def run_for(self, stage: str, ids: Iterable[str] | None) -> None:
        """Run a stage for some callbacks, which had not run it when a checkpoint was saved; None for all."""
        self.run(stage, [call for call in self._calls[stage] if ids is None or call[0] in ids])

    def finish(self) -> None:
        """Run the current stage for the callbacks that have not run it yet, because one of them saves a checkpoint."""
        stage, caller = self._loop.stage, self._loop.caller
        self.run(stage, self._rest)
        self._loop.stage, self._loop.caller = stage, caller

    def attempt(self, stage: str, ids: Iterable[str]) -> list[BaseException]:
        """Run a stage for some callbacks, even if one of them fails. Return the exceptions."""
        failures: list[BaseException] = []
        for call in [call for call in self._calls[stage] if call[0] in ids]:
            try:
                self.run(stage, [call])
            except BaseException as failure:  # the other callbacks must run as well
                failures.append(failure)
        return failures

    def to_come(self) -> list[str]:
        """The ids of the callbacks that have not run the current stage yet."""
        return [] if self._loop.caller is None else [id for id, *_ in copy.copy(self._rest)]

    def noting(self, call: Callable[[], T], id: str, method: str) -> T:
        """Call a method that is not a stage. An error that it raises gets a note."""
        try:
            return call()
        except BaseException as error:
            self.note(error, id, method)
            raise

    def note(self, error: BaseException, id: str | None = None, method: str | None = None) -> None:
        """Add a note to an error that says where it came from; by default, from the current callback and stage.

        Raises:
            RuntimeError: Instead of a `StopIteration`, which Lightning would take for the end of the data.
        """
        if isinstance(error, StopIteration):
            raised = RuntimeError("A callback raised StopIteration.")
            raised.add_note(self._where(id, method))
            raise raised from error
        if (where := self._where(id, method)) not in getattr(error, "__notes__", ()):  # `finish` has added it
            error.add_note(where)
        is_of_none = isinstance(error, TypeError | AttributeError) and "NoneType" in str(error)
        if is_of_none and self._loop.scores_valid is None:
            error.add_note("ctx.last_scores_valid is None, because this epoch had no validation")

    def _where(self, id: str | None, method: str | None) -> str:
        loop, trainer = self._loop, self._trainer
        id = id or loop.caller or ""
        step = trainer.fit_loop.batch_idx + 1 or None
        where = f"in callback {id!r} ({type(self._sets.get(id)).__name__}), {method or loop.stage}"
        where += f", epoch {loop.now[0]}, step {step}, rank {trainer.global_rank} of {trainer.world_size}"
        if loop.resumed_in == loop.now[0]:
            where += "; on_epoch_begin did not run, because the run was resumed inside the epoch"
        return where


def _profiled(id: str, callback: CallbackSet, stage: str, profiler: Any) -> Callable[[], None]:
    """The method of a stage, with its own row in the profiler's table."""

    def profiled() -> None:
        if (method := getattr(callback, stage, None)) is not None:
            with profiler.profile(f"[CallbackSet]{id}.{stage}"):
                method()

    return profiled
