"""The position of training: when each stage last began, and where a resumed run goes on.

Nothing here knows a Trainer. `continuation()` only decides; `callbacksets.fit.resume` carries it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

Moment = tuple[int, int]
"""The epoch, from 1, and the number of batches until then over all epochs."""

NEVER: Moment = (-1, -1)

KEPT = ("on_epoch_begin", "on_before_valid", "on_valid_end", "on_epoch_end")
"""The stages whose moments a checkpoint keeps. A batch or validation that was interrupted runs again."""

NOT_REPEATED = (*KEPT, "on_batch_end")
"""The stages whose hooks Lightning does not call again if they are interrupted, so that we finish them ourselves.

For `on_before_valid` this holds only at the end of an epoch.
"""


@dataclass(slots=True)
class Position:
    """The position of training in a fit.

    Two fields describe it. `now` is the moment, counted as Lightning counts; the fit sets it. `ran` is the logbook, in
    which the dispatch records the moment at which each stage last began. A stage that must not run twice asks the
    logbook: once an epoch for `on_epoch_begin` and `on_epoch_end`, once a moment for the others. The stages of a batch
    and of a validation that begin again always run.
    """

    now: Moment = (0, 0)
    ran: dict[str, Moment] = field(default_factory=dict)
    stage: str = ""  # the stage that runs, or that has failed
    caller: str | None = None  # the id of the callback that runs, or that has failed

    def ran_now(self, stage: str) -> bool:
        """Whether a stage has run at this moment."""
        return self.ran.get(stage) == self.now

    def ran_in_epoch(self, stage: str) -> bool:
        """Whether a stage has run in this epoch."""
        return self.ran.get(stage, NEVER)[0] == self.now[0]

    @property
    def begun(self) -> bool:
        """Whether `on_begin` has run or is running."""
        return "on_begin" in self.ran

    @property
    def in_epoch(self) -> bool:
        """Whether an epoch is running."""
        return self.ran_in_epoch("on_epoch_begin") and not self.ran_in_epoch("on_epoch_end")

    @property
    def in_batch(self) -> bool:
        """Whether a training batch is running."""
        return self.ran.get("on_batch_begin") == self.now != self.ran.get("on_batch_end")

    @property
    def in_validation(self) -> bool:
        """Whether a validation is running, or an epoch without one is ending."""
        return self.ran.get("on_before_valid") == self.now != self.ran.get("on_valid_end")


class Counts(NamedTuple):
    """How often Lightning has announced, started, processed and completed something."""

    ready: int
    started: int
    processed: int
    completed: int


class Progress(NamedTuple):
    """Lightning's own counts in a checkpoint."""

    epoch: Counts
    batch: Counts  # of the epoch under way, or of the last one
    batches: int  # over all epochs
    is_last_batch: bool = False


class Point(Enum):
    """Where a resumed run goes on."""

    EPOCH = "the next epoch begins"
    BATCH = "the next batch of the epoch comes"
    VALIDATION = "a validation begins"  # `data` lets Lightning run it, from its first batch, with its random numbers
    EPOCH_END = "the epoch ends"


@dataclass(frozen=True)
class Continuation:
    """What a resumed run does first.

    Attributes:
        point: Where it goes on.
        epochs: The number of epochs that have ended.
        batch: The number of batches of the epoch under way that have been trained.
        batches: The same over all epochs.
        has_all: Whether no batch of that epoch is left.
        rest: Whether Lightning still has to do what follows a batch: to validate, and to advance its
            counters of logging.
        step_again: Whether the step of the next batch had run in part, and runs again.
        plateau: Whether a schedule of the module still has to see the scores of the epoch that has ended.
        ran: The logbook.
        due: The stages that callbacks still have to run before training goes on, with their ids; None for all.
    """

    point: Point
    epochs: int
    batch: int
    batches: int
    has_all: bool = False
    rest: bool = False
    step_again: bool = False
    plateau: bool = False
    ran: Mapping[str, Moment] = field(default_factory=dict)
    due: tuple[tuple[str, list[str] | None], ...] = ()

    @property
    def inside(self) -> bool:
        """Whether it goes on inside an epoch."""
        return self.point is not Point.EPOCH

    @property
    def now(self) -> Moment:
        return (self.epochs + self.inside, self.batches)


def continuation(saved: Mapping[str, Any], progress: Progress, *, has_steps: bool) -> Continuation:
    """Decide where a run goes on that is resumed from a checkpoint. docs/design.md tells what follows from each point.

    Args:
        saved: Our part of the checkpoint, see `callbacksets.fit.states.SavedLoop`.
        progress: Lightning's part.
        has_steps: Whether the resumed run is limited by `max_steps`, and has steps left.
    """
    epoch, batch = progress.epoch, progress.batch
    if saved["has_all"] is None:  # written by an older version: Lightning knows it where the loader has a length
        rest = batch.processed > batch.completed
        saved = {**saved, "has_all": progress.is_last_batch, "rest": rest}
    ran: dict[str, Moment] = {stage: (moment[0], moment[1]) for stage, moment in saved["ran"].items()}
    stage, ids = saved["to_come"]
    due: list[tuple[str, list[str] | None]] = [(stage, ids)] if stage in NOT_REPEATED and ids else []
    at: dict[str, Any] = {"epochs": epoch.processed, "batch": batch.processed, "batches": progress.batches}
    if epoch.started > epoch.processed:
        # Inside an epoch. A batch that is only announced, or was interrupted, comes again: it is the next one.
        is_open = batch.ready > batch.processed
        has_all = saved["has_all"] and not is_open
        at |= {"has_all": has_all, "rest": saved["rest"] and not is_open, "step_again": saved["in_step"]}
        if saved["validates"] and not is_open:
            # it runs from its first batch, whether it had begun or not, and so do its stages
            if ran.get("on_before_valid", NEVER)[1] == progress.batches:
                del ran["on_before_valid"]
            due = [one for one in due if one[0] != "on_before_valid"]
            return Continuation(Point.VALIDATION, **at, ran=ran, due=tuple(due))
        return Continuation(Point.EPOCH_END if has_all else Point.BATCH, **at, ran=ran, due=tuple(due))
    has_ended = ran.get("on_epoch_end", NEVER)[0] == epoch.processed
    begins = epoch.ready > epoch.started
    if not begins and has_steps and not saved["has_all"] and batch.processed:
        # The epoch was ended before its last batch, by a limit of steps or a stop. Its other batches come now, and it
        # ends once more.
        ran.pop("on_epoch_end", None)
        return Continuation(Point.BATCH, **at | {"epochs": epoch.processed - 1}, ran=ran)
    ends = epoch.processed > epoch.completed
    if ends and not has_ended and stage not in NOT_REPEATED:
        # a Lightning callback failed in `on_train_epoch_end` before the adapter's turn: the epoch ends again
        return Continuation(Point.EPOCH_END, **at | {"epochs": epoch.processed - 1, "has_all": True}, ran=ran)
    if stage == "on_before_valid":
        due.append(("on_epoch_end", None))  # Lightning takes the epoch for ended
    return Continuation(Point.EPOCH, **at, plateau=ends, ran=ran, due=tuple(due))
