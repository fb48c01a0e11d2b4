"""Pictures of a history."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from callbacksets.checks import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOPS = {"train": "training", "valid": "validation"}


def plot_history(
    state: Mapping[str, Sequence[Any]],
    ax: "Axes | Sequence[Axes] | None" = None,
    *,
    best_epoch: int | None = None,
) -> "tuple[Figure, Axes | Sequence[Axes]]":
    """Draw the scores of a history over the epochs, training and validation of a score in one panel.

    Example:
        >>> fig, ax = plot_history({"epoch": [1, 2], "train.loss": [0.7, 0.5], "valid.loss": [0.8, None]})
        >>> ax.get_title()
        'loss'

    Args:
        state: The state of a history, `adapter.states["history"]`.
        ax: Where to draw: as many Axes as there are scores, or a single one for all; by default a new figure.
        best_epoch: An epoch to mark, `adapter.states["early_stopping"]["best_epochs"]`.

    Returns:
        The figure and its Axes: one, or a sequence with one for each score.

    Raises:
        ModuleNotFoundError: Without matplotlib.
        TypeError: For what is no state of a history, or no Axes.
        ValueError: When the history has no scores, or the number of Axes is not theirs.
    """
    try:
        import matplotlib.pyplot as plt
        from matplotlib.axes import Axes
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("A plot needs matplotlib: pip install 'callbacksets[plot]'.") from error

    if not isinstance(state, Mapping) or "epoch" not in state:
        raise TypeError(
            "Expected state to be the state of a history, adapter.states['history'] or history.state_dict(), but got "
            f"{listed(map(str, state)) if isinstance(state, Mapping) else repr(state)}."
        )
    panels = list(dict.fromkeys(column.split(".", 1)[1] for column in state if "." in column))
    if not panels:
        raise ValueError("The history has no scores to plot: the module logged none for the epoch.")
    if wrong := [column for column, values in state.items() if isinstance(values, str | float | int)]:
        raise TypeError(f"Expected the columns of state to be lists but {wrong[0]!r} is {state[wrong[0]]!r}.")
    if ax is None:
        _, grid = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.4), layout="constrained", squeeze=False)
        axes = list(grid[0])
    elif isinstance(ax, Axes):
        axes = [ax] * len(panels)
    else:
        axes = list(getattr(ax, "flat", ax)) if isinstance(ax, Iterable) else [ax]  # plt.subplots() gives an array
        if not all(isinstance(one, Axes) for one in axes):
            raise TypeError(f"Expected ax to be one Axes of matplotlib, or one for each score, but got {ax!r}.")
    if len(axes) != len(panels):
        raise ValueError(f"Expected one Axes, or {len(panels)} for {', '.join(panels)}, but got {len(axes)}.")

    together = len(panels) > 1 and axes[0] is axes[-1]
    for panel, score in zip(axes, panels, strict=True):
        for loop, label in _LOOPS.items():
            # validation may be rare: a line through the epochs that have a value
            values = zip(state["epoch"], state.get(f"{loop}.{score}", ()), strict=False)
            points = [(epoch, value) for epoch, value in values if value is not None]
            if points:
                panel.plot(*zip(*points, strict=True), marker=".", label=f"{score}, {label}" if together else label)
        panel.set_title("" if together else score)
    for panel in dict.fromkeys(axes):
        if best_epoch is not None:
            panel.axvline(best_epoch, color="grey", linestyle="--", linewidth=1, label=f"best epoch, {best_epoch}")
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(framealpha=0.9, edgecolor="none")
    return axes[0].figure.figure, axes[0] if axes[0] is axes[-1] else axes
