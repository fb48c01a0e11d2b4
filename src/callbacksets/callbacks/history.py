"""Keeping the scores of every epoch."""

from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from callbacksets.base import CallbackSet
from callbacksets.callbacks.best import early_stopping
from callbacksets.show import epochs, html
from callbacksets.show.plotting import picture, plot_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class CallbackSetHistory(CallbackSet):
    """Keeps the training and validation scores of every epoch.

    Its state is a dict of lists of equal length: `epoch`, `train.<name>`, `valid.<name>`. A missing score is None.
    `pandas.DataFrame(state)` makes a table of it. The epochs of a resumed run are appended. A run without any score has
    no rows, as in mlr3torch. In a notebook, the callback shows its table and, with matplotlib, its plot.

    Example:
        >>> from callbacksets import CallbackSetHistory
        >>> history = CallbackSetHistory()
        >>> history.load_state_dict({"epoch": [1, 2], "train.loss": [0.7, 0.5], "valid.loss": [0.8, None]})
        >>> history.state_dict()["valid.loss"]
        [0.8, None]
        >>> history
        <CallbackSetHistory: 2 epochs>
        epoch  train.loss  valid.loss
            1      0.7000      0.8000
            2      0.5000           -

    mlr3torch: `t_clbk("history")`.
    """

    reads_y_hats: bool = False

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        self.rows: epochs.Rows = []
        self._best_epoch: int | None = None

    def on_epoch_end(self) -> None:
        row = epochs.row_of(self.ctx.epoch, self.ctx.last_scores_train, self.ctx.last_scores_valid)
        epochs.add(self.rows, row)

    def on_exit(self) -> None:
        self._best_epoch = getattr(early_stopping(self.ctx), "best_epochs", None)

    def plot(
        self, ax: "Axes | Sequence[Axes] | None" = None, *, log: bool | str | Sequence[str] = False
    ) -> "tuple[Figure, Axes | Sequence[Axes]]":
        """Plot the scores over the epochs. With early stopping, the best epoch is marked.

        Args:
            ax: Where to draw: one Axes for each score, or a single Axes for all; by default a new figure.
            log: Which scores get a logarithmic axis: True for all positive scores, or the names of some.

        Returns:
            The figure and its Axes: one Axes, or a sequence with one for each score.

        Raises:
            ModuleNotFoundError: If matplotlib is not installed.
            ValueError: If the history has no scores, if the number of Axes is wrong, or if `log` names a score that
                does not exist or is not positive.
        """
        return plot_history(CallbackSetHistory.state_dict(self), ax, best_epoch=self._best_epoch, log=log)

    def state_dict(self) -> dict[str, list[Any]]:
        columns = epochs.as_columns(self.rows)
        return columns if len(columns) > 1 else {"epoch": []}

    def load_state_dict(self, state_dict: dict[str, list[Any]]) -> None:
        self.rows = epochs.as_rows(epochs.columns_of(state_dict))
        if not self.rows and self.ctx is not None:
            # earlier epochs without scores count as epochs too
            self.rows = [{"epoch": epoch} for epoch in range(1, self.ctx.epoch + 1)]

    def __repr__(self) -> str:
        columns = CallbackSetHistory.state_dict(self)  # a subclass may have added to the state
        if not columns["epoch"]:
            return super().__repr__()
        table = epochs.as_text(columns, best_epoch=self._best_epoch)
        return f"<{type(self).__name__}: {len(columns['epoch'])} epochs>\n{table}"

    def _repr_html_(self) -> str:
        columns = CallbackSetHistory.state_dict(self)
        if not columns["epoch"]:
            return super()._repr_html_()
        image, about = "", f"{len(columns['epoch'])} epochs"
        with suppress(ModuleNotFoundError):  # without matplotlib, only the table is shown
            png = b64encode(picture(columns, best_epoch=self._best_epoch)).decode()
            image = f'<img alt="The scores over the epochs." src="data:image/png;base64,{png}">'
        return html.titled(type(self).__name__, about, epochs.as_html(columns, best_epoch=self._best_epoch) + image)
