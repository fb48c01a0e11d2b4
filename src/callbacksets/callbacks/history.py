"""Keeping the scores of every epoch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from callbacksets.base import CallbackSet
from callbacksets.callbacks.early_stopping import CallbackSetEarlyStopping
from callbacksets.show.plotting import plot_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class CallbackSetHistory(CallbackSet):
    """Keeps the training and validation scores of every epoch.

    Its state is a dict of equally long lists: `epoch`, `train.<name>`, `valid.<name>`, with None where there was no
    score. `pandas.DataFrame(state)` makes a table of it. The epochs of a resumed run are appended. A run without any
    score has no rows.

    Example:
        >>> from callbacksets import CallbackSetHistory
        >>> history = CallbackSetHistory()
        >>> history.load_state_dict({"epoch": [1, 2], "train.loss": [0.7, 0.5], "valid.loss": [0.8, None]})
        >>> history.state_dict()["valid.loss"]
        [0.8, None]

    mlr3torch: `t_clbk("history")`.
    """

    reads_y_hats = False

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._best_epoch: int | None = None

    def on_begin(self) -> None:
        if self.ctx.resumed and not self.rows:
            # a run without scores until here has had its epochs nevertheless
            self.rows = [{"epoch": epoch} for epoch in range(1, self.ctx.epoch + 1)]

    def on_epoch_end(self) -> None:
        row: dict[str, Any] = {"epoch": self.ctx.epoch}
        for loop, scores in (("train", self.ctx.last_scores_train), ("valid", self.ctx.last_scores_valid)):
            row |= {f"{loop}.{name}": score for name, score in (scores or {}).items()}
        if self.rows and self.rows[-1]["epoch"] == self.ctx.epoch:
            self.rows.pop()  # the epoch was cut short, and a resumed run has trained the rest of it
        self.rows.append(row)

    def on_exit(self) -> None:
        for callback in self.ctx.callbacks.values():
            if isinstance(callback, CallbackSetEarlyStopping):
                self._best_epoch = callback.best_epochs

    def plot(self, ax: "Axes | Sequence[Axes] | None" = None) -> "tuple[Figure, Axes | Sequence[Axes]]":
        """Draw the scores over the epochs, with the best epoch marked when early stopping took part.

        Args:
            ax: Where to draw: as many Axes as there are scores, or a single one for all; by default a new figure.

        Returns:
            The figure and its Axes: one, or a sequence with one for each score.

        Raises:
            ModuleNotFoundError: Without matplotlib.
            ValueError: When the history has no scores, or the number of Axes is not theirs.
        """
        return plot_history(self.state_dict(), ax, best_epoch=self._best_epoch)

    def state_dict(self) -> dict[str, list[Any]]:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        scores = [name for name in columns if name != "epoch"]
        if not scores:
            return {"epoch": []}
        ordered = ["epoch", *sorted(scores, key=lambda name: name.startswith("valid."))]
        return {name: [row.get(name) for row in self.rows] for name in ordered}

    def load_state_dict(self, state_dict: dict[str, list[Any]]) -> None:
        names = list(state_dict)
        self.rows = [
            {name: value for name, value in zip(names, values, strict=True) if value is not None}
            for values in zip(*state_dict.values(), strict=True)
        ]
