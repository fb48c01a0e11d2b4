"""One fit of CallbackSets: calling their stages, handing over and collecting their states."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from lightning.pytorch.utilities import rank_zero_warn
from torch.nn.parameter import is_lazy

from callbacksets.base import STAGES, CallbackSet, check_instance
from callbacksets.fit.capture import Capture
from callbacksets.fit.context import ContextTorch, Loop
from callbacksets.fit.lightning import is_a
from callbacksets.fit.reader import ScoreReader
from callbacksets.fit.states import Saved, SavedState, nothing_saved, save_run, unloadable

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


T = TypeVar("T")
Call = tuple[str, Callable[[], None], Mapping[str, Any]]
"""A callback's part in a stage: its id, its method, and what is set on the instance, which may have changed since."""


class Run:
    """What begins with a fit, in `setup`, and ends with it, in `exit`."""

    def __init__(self, trainer: "Trainer", module: "LightningModule", sets: dict[str, CallbackSet], **names: Any):
        self.trainer = trainer
        self.sets = sets
        self.loop = Loop()
        self.ctx = ContextTorch(trainer, module, self.loop, sets, **names)
        self.reader = ScoreReader(trainer)
        self.capture = Capture(trainer, module, self.loop)
        self._keeps_outputs = any(callback.reads_y_hats for callback in sets.values())
        self.given: Saved | None = None  # what the checkpoint that this fit continues has saved
        self.result: Saved | None = None  # what would be saved after the last stage of training
        self._calls: dict[str, list[Call]] = {}
        self._warned: set[str] = set()
        self._noting = _Noting(self)
        self.check_stages()
        self.find_stages()
        for callback in sets.values():
            if "ctx" in vars(callback):  # the instance has served a fit before
                callback.start_over()
            callback.ctx = self.ctx

    def watch_network(self) -> None:
        """Keep the outputs of what is the network now, if a callback may read them."""
        if self._keeps_outputs:
            self.capture.watch_network(self.ctx.network)

    # --- stages ------------------------------------------------------------------------------------------------------

    def find_stages(self) -> None:
        """Look again which callback has which stage, and bind the methods: a batch should only have to call them."""
        profiler = self.trainer.profiler  # type: ignore[attr-defined]  # set where mypy does not look
        is_profiled = not is_a(profiler, "PassThroughProfiler")
        for stage in STAGES:
            self._calls[stage] = [
                (id, _profiled(id, callback, stage, profiler), {}) if is_profiled else (id, method, vars(callback))
                for id, callback in self.sets.items()
                if (method := getattr(callback, stage, None)) is not None
            ]

    def check_stages(self) -> None:
        """Raise a `TypeError` for what was set on an instance as a stage and cannot be one."""
        for callback in self.sets.values():
            check_instance(callback)

    def has_stage(self, stage: str) -> bool:
        """Whether any callback has the stage."""
        return bool(self._calls[stage])

    def call(self, stage: str) -> None:
        """Run a stage of all callbacks."""
        self._call(stage, self._calls[stage])

    def _call(self, stage: str, calls: Iterable[Call]) -> None:
        """The only place where the stages of callbacks are called."""
        loop = self.loop
        loop.stage = stage
        with self._noting:
            for loop.caller, method, own in calls:
                if stage in own:
                    method = own[stage]
                    if method is None:  # switched off
                        continue
                method()
        loop.caller = None

    def exit(self, error: BaseException | None = None) -> None:
        """Run the last stage of all callbacks, whatever happens in it, and let go of them.

        Raises:
            BaseException: The first that is raised here, unless one is under way already. It tells of the others.
        """
        failures: list[BaseException] = []

        def attempt(do: Callable[..., T], *arguments: Any) -> T | None:
            try:
                return do(*arguments)
            except BaseException as failure:  # what comes after has to be done as well
                failures.append(failure)
                return None

        if self.result is None:
            self.result = attempt(self.save, failures)
        before = attempt(_versions, self.ctx.learner)
        attempt(self.find_stages)
        for call in self._calls["on_exit"]:
            attempt(self._call, "on_exit", [call])
        if self.result is not None and attempt(_versions, self.ctx.learner) != before:
            self.result["exact"] = False
        self.capture.stop()
        for callback in self.sets.values():
            callback.ctx = None  # type: ignore[assignment]
        first = error or (failures.pop(0) if failures else None)
        if first is None:
            return
        for failure in failures:
            notes = "; ".join(getattr(failure, "__notes__", ()))
            first.add_note(f"There was also {type(failure).__name__}: {failure} ({notes})")
        if error is None:
            raise first

    # --- states ------------------------------------------------------------------------------------------------------

    def load_states(self) -> None:
        """Give the callbacks the states of the checkpoint that this fit continues."""
        given = self.given["callbacks"] if self.given is not None else {}
        for id, callback in self.sets.items():
            if id in given:
                with _Noting(self, id, "load_state_dict"):
                    callback.load_state_dict(copy.deepcopy(given[id]["state"]))

    def save(self, failures: list[BaseException] | None = None) -> Saved:
        """What a checkpoint written now keeps.

        A callback that has not begun is not asked for its state: what was loaded for it is passed on.

        Args:
            failures: Where to put what states raise, so that one that fails does not cost the others; None to raise.
        """
        begun = self._begun()
        if not begun and self.loop.stage != "on_begin":
            return self.given or nothing_saved()
        given = self.given["callbacks"] if self.given is not None else {}
        callbacks: dict[str, SavedState] = {}
        for id, callback in self.sets.items():
            if id not in begun:
                callbacks |= {id: given[id]} if id in given else {}
                continue
            try:
                with _Noting(self, id, "state_dict"):
                    state = copy.deepcopy(callback.state_dict())
            except BaseException as error:
                if failures is None:
                    raise
                failures.append(error)
                continue
            if state is not None:
                callbacks[id] = {"cls": type(callback).__name__, "state": state}
                self._warn_of_unloadable(id, state)
        return save_run(self.loop, self.ctx, callbacks)

    def _begun(self) -> list[str]:
        ids = list(self.sets)
        if not self.loop.begun and self.loop.stage == "on_begin" and self.loop.caller is not None:
            return ids[: ids.index(self.loop.caller)]  # while one begins, those before it have
        return ids if self.loop.begun else []

    def _warn_of_unloadable(self, id: str, state: object) -> None:
        for path in unloadable(state):
            if f"{id}{path}" not in self._warned:
                self._warned.add(f"{id}{path}")
                rank_zero_warn(
                    f"The state of callback {id!r} holds, at {path}, what torch.load(..., weights_only=True) refuses, "
                    "and so does a Trainer that resumes. Keep numbers, strings, tensors, and lists, tuples, dicts and "
                    "sets of these."
                )


def _profiled(id: str, callback: CallbackSet, stage: str, profiler: Any) -> Callable[[], None]:
    """The method of a stage, as a row of its own in the profiler's table."""

    def profiled() -> None:
        if (method := getattr(callback, stage, None)) is not None:
            with profiler.profile(f"[CallbackSet]{id}.{stage}"):
                method()

    return profiled


class _Noting:
    """Notes on an error that leaves a callback where that was: by default, in the stage and callback that run."""

    def __init__(self, run: Run, id: str | None = None, method: str | None = None) -> None:
        self._run, self._id, self._method = run, id, method

    def __enter__(self) -> None: ...

    def __exit__(self, cls: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, StopIteration):
            # Lightning would take it for the end of the data, and training would end without a word
            raised = RuntimeError("A callback raised StopIteration.")
            raised.add_note(self._where())
            raise raised from error
        if error is not None:
            error.add_note(self._where())

    def _where(self) -> str:
        loop, trainer = self._run.loop, self._run.trainer
        id = self._id or loop.caller or ""
        where = f"in callback {id!r} ({type(self._run.sets.get(id)).__name__}), {self._method or loop.stage}"
        where += f", epoch {loop.epoch}, step {loop.step}, rank {trainer.global_rank} of {trainer.world_size}"
        if loop.missed_epoch_begin:
            where += "; on_epoch_begin did not run, as the run was resumed inside the epoch"
        return where


def _versions(learner: "LightningModule") -> list[int]:
    """Counters that change when a tensor of the module is written to."""
    tensors = (*learner.parameters(), *learner.buffers())
    return [tensor._version for tensor in tensors if not (is_lazy(tensor) or tensor.is_inference())]
