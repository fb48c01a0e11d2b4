"""The position of training: a logbook of the moment at which each stage last began. Also the scores read so far."""

from dataclasses import dataclass, field

from callbacksets.fit.reader import Reading
from callbacksets.scores import NOT_VALIDATED, Measures, Scores

Moment = tuple[int, int]
"""The epoch, from 1, and the number of batches until then over all epochs."""

NEVER: Moment = (-1, -1)

RESUMED = "resumed"
"""An entry of the logbook that is not a stage: the moment inside an epoch at which a run was resumed."""

REOPENED = "reopened"
"""Another such entry: the moment at which an interrupted epoch continued. Its end follows after another batch."""


@dataclass(frozen=True)
class StoppedBy:
    """Who stopped training through `ctx.terminate`, and when.

    Attributes:
        callback: The id of the callback; None if `terminate` was set outside of a callback or on another rank.
        stage: The stage in which `terminate` was set; `""` if unknown.
        epoch: The last epoch.
    """

    callback: str | None
    stage: str
    epoch: int

    def __str__(self) -> str:
        who = f"callback {self.callback!r}" if self.callback else "code outside of this rank's callbacks"
        where = f" in {self.stage}" if self.stage else ""
        return f"{who} set ctx.terminate{where}, epoch {self.epoch} was the last"


@dataclass(slots=True)
class Loop:
    """The counters, stages and scores of a fit. The context shows them, and a checkpoint keeps them.

    Two fields give the position of training. `now` is the moment, counted as Lightning counts; the fit sets it. `ran`
    is the logbook, in which the dispatch records the moment at which each stage last began. When a hook is called, its
    stage runs unless `ran[stage]` is `now`. So a stage that the logbook of a checkpoint contains does not run again.
    """

    now: Moment = (0, 0)
    ran: dict[str, Moment] = field(default_factory=dict)
    resumed: bool = False  # the fit continues a checkpoint

    stage: str = ""  # the stage that runs
    caller: str | None = None  # the id of the callback that runs

    terminate: bool = False
    terminated_by: tuple[str | None, str] | None = None  # the id and the stage
    stopped_by: StoppedBy | None = None  # set when `terminate` took effect

    scores_train: Scores | Reading | None = field(default_factory=Scores)
    scores_valid: Scores | Reading | None = field(default_factory=lambda: Scores(empty=NOT_VALIDATED))
    measures_train: Measures = field(default_factory=Measures)
    measures_valid: Measures = field(default_factory=Measures)
    minimize: dict[str, bool | None] = field(default_factory=dict)  # whether lower is better, by measure

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
        """Whether an epoch is running, including an epoch that had begun before the run was resumed."""
        has_begun = self.ran_in_epoch("on_epoch_begin") or self.is_resumed_inside_epoch
        return has_begun and not self.ran_in_epoch("on_epoch_end")

    @property
    def in_batch(self) -> bool:
        """Whether a training batch is running."""
        return self.ran.get("on_batch_begin") == self.now != self.ran.get("on_batch_end")

    @property
    def in_validation(self) -> bool:
        """Whether a validation is running."""
        return self.ran.get("on_before_valid") == self.now != self.ran.get("on_valid_end")

    @property
    def is_resumed_inside_epoch(self) -> bool:
        """Whether this epoch had begun before the run was resumed, so that `on_epoch_begin` did not run again."""
        return self.ran_in_epoch(RESUMED)
