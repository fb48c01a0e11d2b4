"""Plots of one history or of several."""

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from callbacksets.checks import did_you_mean, listed, names_of, shown

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Mapping[str, Sequence[Any]]
_LOOPS = {"train": "training", "valid": "validation"}
_STYLES: dict[str, dict[str, Any]] = {"train": {"linewidth": 0.8, "alpha": 0.7}, "valid": {"linewidth": 2}}
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")
_PANEL = (4.5, 3.6)  # inches


def plot_history(
    state: "History | Mapping[str, History]",
    ax: "Axes | Sequence[Axes] | None" = None,
    *,
    best_epoch: int | Mapping[str, int] | None = None,
    log: bool | str | Sequence[str] = False,
) -> "tuple[Figure, Axes | Sequence[Axes]]":
    """Plot the scores of a history over the epochs, or compare the scores of several runs.

    There is a panel for each score. With one run, training and validation have different colours. With several runs,
    each run has a colour and, after ten runs, another kind of line. Training is a thin line and validation a thick one.
    A run of one epoch is a marker.

    Example:
        >>> fig, ax = plot_history({"epoch": [1, 2], "train.loss": [0.7, 0.5], "valid.loss": [0.8, None]})
        >>> ax.get_title()
        'loss'
        >>> sgd, adam = {"epoch": [1, 2], "valid.loss": [0.8, 0.7]}, {"epoch": [1, 2], "valid.loss": [0.6, 0.3]}
        >>> fig, ax = plot_history({"sgd": sgd, "adam": adam}, log=True)

    Args:
        state: The state of a history, `adapter.states["history"]`, or a mapping from names of runs to states.
        ax: Where to draw: one Axes for each score, or a single Axes for all; by default a new figure.
        best_epoch: The epoch to mark, `adapter.states["early_stopping"]["best_epochs"]`. With several runs, a mapping
            from their names to epochs.
        log: Which scores get a logarithmic axis: True for all positive scores, or the names of some.

    Returns:
        The figure and its Axes: one Axes, or a sequence with one for each score.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        TypeError: If `state` is not the state of a history, or if another argument has the wrong type.
        ValueError: If the history has no scores, if the number of Axes is wrong, or if `log` names a score that does
            not exist or is not positive.
    """
    need_matplotlib()
    from matplotlib.axes import Axes

    runs, scores = _runs(state)
    best = _best_epochs(best_epoch, runs)
    logarithmic = _logarithmic(log, runs, scores)
    if ax is None:
        import matplotlib.pyplot as plt

        width, height = _PANEL
        size = (width * len(scores), height + len(runs) / 20)  # the names of the runs stand above each panel
        _, grid = plt.subplots(1, len(scores), figsize=size, layout="constrained", squeeze=False)
        axes = list(grid[0])
    elif isinstance(ax, Axes):
        axes = [ax] * len(scores)
    else:
        axes = list(getattr(ax, "flat", ax)) if isinstance(ax, Iterable) else [ax]  # plt.subplots() returns an array
        if not all(isinstance(one, Axes) for one in axes):
            raise TypeError(f"Expected ax to be one Axes of matplotlib, or one for each score, but got {shown(ax)}.")
    if len(axes) != len(scores):
        raise ValueError(f"Expected one Axes, or {len(scores)} for {', '.join(scores)}, but got {len(axes)}.")
    _draw(runs, scores, axes, best, logarithmic)
    return axes[0].figure.figure, axes[0] if axes[0] is axes[-1] else axes


def picture(state: History, *, best_epoch: int | None = None) -> bytes:
    """The same for one run as a PNG, without pyplot, which would show the figure a second time."""
    need_matplotlib()
    from matplotlib.figure import Figure

    panels = len(_runs(state)[1])
    width, height = _PANEL
    fig = Figure(figsize=(width * panels, height), layout="constrained")
    plot_history(state, fig.subplots(1, panels), best_epoch=best_epoch)
    file = io.BytesIO()
    fig.savefig(file, format="png", dpi=80)
    return file.getvalue()


def need_matplotlib() -> None:
    """Raise a `ModuleNotFoundError` with the remedy if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("A plot needs matplotlib: pip install 'callbacksets[plot]'.") from error


def _draw(
    runs: Mapping[str, History],
    scores: Sequence[str],
    axes: "Sequence[Axes]",
    best: Mapping[str, int],
    logarithmic: Sequence[str],
) -> None:
    from matplotlib.ticker import MaxNLocator

    together = len(scores) > 1 and axes[0] is axes[-1]
    for panel, score in zip(axes, scores, strict=True):
        for i, (run, state) in enumerate(runs.items()):
            for loop, words in _LOOPS.items():
                if points := _points(state, f"{loop}.{score}"):
                    label = ", ".join([*([score] if together else []), *([run] if run else []), words])
                    style = {**_run_style(i), **_STYLES[loop]} if len(runs) > 1 else {}
                    marker = "." if len(runs) == 1 else _MARKERS[i // 10 % 4] if len(points) == 1 else ""
                    panel.plot(*zip(*points, strict=True), label=label, marker=marker, **style)
        panel.set_title("" if together else score)
        if score in logarithmic:
            panel.set_yscale("log")
    for panel in dict.fromkeys(axes):
        for i, run in enumerate(runs):
            if run in best:
                colour = "grey" if len(runs) == 1 else f"C{i}"
                name = f"{run}, best epoch" if run else "best epoch"
                panel.axvline(best[run], color=colour, linestyle="--", linewidth=1, label=f"{name}, {best[run]}")
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.spines[["top", "right"]].set_visible(False)
        if len(runs) == 1 or together:
            _legend(panel, panel.get_legend_handles_labels()[0], columns=2 if together else 3)
        else:
            _legend(panel, [*_names(runs, best), *_loops()], columns=2 if best else 3)


def _run_style(run: int) -> dict[str, Any]:
    return {"color": f"C{run}", "linestyle": _DASHES[run // 10 % 4]}  # matplotlib has ten colours, then the first again


def _names(runs: Iterable[str], best: Mapping[str, int]) -> "Iterator[Artist]":
    """Legend entries for the runs, in their colours, with their best epochs."""
    from matplotlib.lines import Line2D

    for i, run in enumerate(runs):
        label = f"{run}, best epoch {best[run]}" if run in best else run
        yield Line2D([], [], label=label, **_run_style(i), **_STYLES["valid"])


def _loops() -> "Iterator[Artist]":
    """Legend entries for training and validation, in grey."""
    from matplotlib.lines import Line2D

    for loop, words in _LOOPS.items():
        yield Line2D([], [], label=words, color="grey", **_STYLES[loop])


def _legend(panel: "Axes", entries: "Sequence[Artist]", columns: int) -> None:
    """Place the legend above the panel, where it covers no line, and below the title."""
    legend = panel.legend(
        handles=entries,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=columns,
        frameon=False,
        fontsize="small",
        columnspacing=1.2,
        handlelength=1.5,
        borderaxespad=0.2,
    )
    size = float(legend.get_texts()[0].get_fontsize()) if entries else 0.0
    panel.set_title(panel.get_title(), pad=8 + 1.6 * size * math.ceil(len(entries) / columns))


def _points(state: History, column: str) -> list[tuple[Any, float]]:
    # some epochs may have no validation: the line connects the epochs that have a value
    values = zip(state["epoch"], state.get(column, ()), strict=False)
    return [(epoch, value) for epoch, value in values if value is not None]


def _runs(state: Any) -> tuple[dict[str, History], list[str]]:
    """The runs by name, and the names of their scores. A single run has the name `""`."""
    may_be_several = isinstance(state, Mapping) and "epoch" not in state
    several = may_be_several and any(isinstance(run, Mapping) for run in state.values())
    runs: dict[str, History] = {str(name): run for name, run in state.items()} if several else {"": state}
    for name, run in runs.items():
        which = f"state[{name!r}]" if several else "state"
        if not isinstance(run, Mapping) or "epoch" not in run:
            raise TypeError(
                f"Expected {which} to be the state of a history, adapter.states['history'] or history.state_dict(), "
                f"or a mapping from names of runs to states, but got {shown(run)}."
            )
        # a subclass may have added to its state
        runs[name] = run = {column: run[column] for column in run if column == "epoch" or "." in str(column)}
        if wrong := [column for column, values in run.items() if isinstance(values, str | float | int)]:
            raise TypeError(f"Expected the columns of {which} to be lists but {wrong[0]!r} is {shown(run[wrong[0]])}.")
    scores = list(dict.fromkeys(name.partition(".")[2] for run in runs.values() for name in run if "." in name))
    if not scores:
        raise ValueError("The history has no scores to plot: the module logged none for the epoch.")
    return runs, scores


def _best_epochs(given: Any, runs: Mapping[str, History]) -> dict[str, int]:
    if given is None:
        return {}
    by_run = {str(name): epoch for name, epoch in given.items()} if isinstance(given, Mapping) else {"": given}
    if unknown := [name for name in by_run if name not in runs]:
        wanted = "an epoch, because there is one run," if "" in runs else f"a mapping from {listed(runs)} to epochs"
        error = ValueError if isinstance(given, Mapping) and "" not in runs else TypeError
        raise error(f"Expected best_epoch to be {wanted} but got {shown(given)}.{did_you_mean(unknown[0], runs)}")
    return {name: epoch for name, epoch in by_run.items() if epoch is not None}


def _logarithmic(log: Any, runs: Mapping[str, History], scores: Sequence[str]) -> list[str]:
    """The names of the scores that get a logarithmic axis."""
    columns = {f"{loop}.{score}": score for score in scores for loop in _LOOPS}
    others = {columns[one] for one in columns for run in runs.values() for _, value in _points(run, one) if value <= 0}
    positive = [score for score in scores if score not in others]
    if isinstance(log, bool):
        return positive if log else []
    names = names_of("log", log)
    if wrong := [name for name in names if name not in positive]:
        raise ValueError(
            f"Expected log to have names of scores that are always positive but got {wrong[0]!r}."
            f"{did_you_mean(wrong[0], positive)} There are {listed(positive)}."
        )
    return names
