"""What a fit has counted and read so far. The context shows it, and a checkpoint keeps it."""

from dataclasses import dataclass, field

from callbacksets.fit.position import Position
from callbacksets.fit.reader import Reading
from callbacksets.scores import NOT_VALIDATED, Measures, Scores, short_name


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
class Loop(Position):
    """The position of training, requests to stop, and scores."""

    resumed: bool = False  # the fit continues a checkpoint
    resumed_in: int | None = None  # the epoch inside of which it was resumed

    terminate: bool = False
    terminated_by: tuple[str | None, str] | None = None  # the id and the stage
    stopped_by: StoppedBy | None = None  # set when `terminate` took effect

    scores_train: Scores | Reading | None = field(default_factory=Scores)
    scores_valid: Scores | Reading | None = field(default_factory=lambda: Scores(empty=NOT_VALIDATED))
    measures_train: Measures = field(default_factory=Measures)
    measures_valid: Measures = field(default_factory=Measures)
    minimize: dict[str, bool | None] = field(default_factory=dict)  # whether lower is better, as far as metrics tell

    def is_minimized(self, name: str) -> bool | None:
        """Whether lower is better for a score; None if unknown."""
        told = self.minimize.get(name)
        is_loss = short_name(name.split("/dataloader_idx_")[0]).lower().endswith("loss")
        return told if told is not None else is_loss or None
