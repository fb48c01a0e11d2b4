import math
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib
import pytest

from callbacksets import CallbackSetAdapter, CallbackSetEarlyStopping, CallbackSetHistory, plot_history
from callbacksets.show.plotting import picture
from tests.helpers import Tiny, fit, ones

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_hex

STATE = {
    "epoch": [1, 2, 3],
    "train.loss": [3.0, 2.0, 1.0],
    "valid.loss": [3.5, None, 2.5],
    "valid.acc": [0.1, None, 0.3],
}


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def test_a_panel_for_each_score_with_a_line_for_each_loop() -> None:
    fig, axes = plot_history(STATE, best_epoch=3)
    assert [ax.get_title() for ax in axes] == ["loss", "acc"]
    train, valid, best = axes[0].get_lines()
    assert train.get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert valid.get_xydata().tolist() == [[1, 3.5], [3, 2.5]]
    assert best.get_xdata() == [3, 3]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["training", "validation", "best epoch, 3"]
    assert axes[0].get_xlabel() == "epoch"
    assert axes[0].figure is fig


def test_draws_where_it_is_told() -> None:
    own_fig, own = plt.subplots()
    fig, ax = plot_history(STATE, own)
    assert (fig, ax) == (own_fig, own)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["loss, training", "loss, validation", "acc, validation"]
    own_fig, two = plt.subplots(2)
    _, axes = plot_history(STATE, list(two))
    assert [ax.get_title() for ax in axes] == ["loss", "acc"]


def test_the_figure_of_a_subfigure_is_the_whole() -> None:
    whole = plt.figure()
    axes = whole.subfigures(1, 2)[1].subplots()
    assert plot_history({"epoch": [1], "train.loss": [0.5]}, axes) == (whole, axes)


def test_runs_that_are_compared_in_one_panel() -> None:
    _, own = plt.subplots()
    _, ax = plot_history(RUNS, own)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[0] == "loss, sgd, training"
    assert labels[-1] == "acc, adam, validation"


def test_one_score_gives_one_axes() -> None:
    _, ax = plot_history({"epoch": [1], "train.loss": [2.0]})
    assert ax.get_title() == "loss"


def test_the_history_marks_the_best_epoch_of_early_stopping() -> None:
    history = CallbackSetHistory()
    fit([history, CallbackSetEarlyStopping(3)], Tiny(), ones(2), ones(2), max_epochs=3)
    _, ax = history.plot()
    assert ax.get_lines()[-1].get_label() == "best epoch, 3"


RUNS = {
    "sgd": {"epoch": [1, 2], "train.loss": [3.0, 2.0], "valid.loss": [3.5, 2.5]},
    "adam": {
        "epoch": [1, 2, 3],
        "train.loss": [3.0, 1.0, 0.5],
        "valid.loss": [3.1, 1.1, 1.0],
        "valid.acc": [0, 0.5, 1.0],
    },
}


def test_runs_are_compared_with_a_colour_each() -> None:
    fig, axes = plot_history(RUNS, best_epoch={"adam": 3})
    assert [ax.get_title() for ax in axes] == ["loss", "acc"]
    *loss, best = axes[0].get_lines()
    assert [line.get_label() for line in loss] == [
        "sgd, training",
        "sgd, validation",
        "adam, training",
        "adam, validation",
    ]
    assert [line.get_color() for line in loss] == ["C0", "C0", "C1", "C1"]
    thin, strong = {line.get_linewidth() for line in loss[::2]}, {line.get_linewidth() for line in loss[1::2]}
    assert max(thin) < min(strong)
    assert (best.get_label(), best.get_color()) == ("adam, best epoch, 3", "C1")
    assert [line.get_label() for line in axes[1].get_lines()] == ["adam, validation", "adam, best epoch, 3"]
    legend = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert legend == ["sgd", "adam, best epoch 3", "training", "validation"]
    assert axes[0].figure is fig


def test_more_than_ten_runs_are_told_apart() -> None:
    runs = {f"run {i}": {"epoch": [1, 2], "train.loss": [3.0, i], "valid.loss": [2.0, i]} for i in range(25)}
    fig, ax = plot_history(runs)
    lines = ax.get_lines()[1::2]
    assert len({(to_hex(line.get_color()), line.get_linestyle()) for line in lines}) == 25
    entries = ax.get_legend().get_lines()[:25]
    assert [one.get_linestyle() for one in entries] == [one.get_linestyle() for one in lines]
    fig.canvas.draw()
    assert ax.get_window_extent().height > fig.bbox.height / 3  # the legend leaves room


def test_a_run_of_one_epoch_is_a_marker() -> None:
    runs = {"short": {"epoch": [1], "valid.loss": [2.0]}, "long": {"epoch": [1, 2], "valid.loss": [3.0, 1.0]}}
    _, ax = plot_history(runs)
    assert [line.get_marker() for line in ax.get_lines()] == ["o", ""]


def test_one_run_with_a_name_is_a_run() -> None:
    _, ax = plot_history({"sgd": RUNS["sgd"]})
    assert [line.get_label() for line in ax.get_lines()] == ["sgd, training", "sgd, validation"]


def test_the_legend_covers_no_line_and_no_title() -> None:
    for state, best in ((STATE, 3), (RUNS, {"adam": 3})):
        fig, axes = plot_history(state, best_epoch=best)
        fig.canvas.draw()
        for ax in axes:
            legend = ax.get_legend().get_window_extent()
            assert not legend.overlaps(ax.get_window_extent())
            assert not legend.overlaps(ax.title.get_window_extent())
            assert fig.bbox.containsx(legend.x0)
            assert fig.bbox.containsx(legend.x1)


@pytest.mark.parametrize(
    ("log", "scales"), [(False, ["linear"] * 2), (True, ["log", "linear"]), ("loss", ["log", "linear"])]
)
def test_a_logarithmic_axis_on_request(log: bool | str, scales: list[str]) -> None:
    _, axes = plot_history(RUNS, log=log)  # the accuracy begins at 0
    assert [ax.get_yscale() for ax in axes] == scales


def test_a_picture_leaves_pyplot_alone() -> None:
    assert picture(STATE, best_epoch=3).startswith(b"\x89PNG")
    assert not plt.get_fignums()


def test_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"A plot needs matplotlib: pip install 'callbacksets\[plot\]'"):
        plot_history(STATE)


@pytest.mark.parametrize(
    ("state", "arguments", "error", "message"),
    [
        ({"sgd": RUNS["sgd"], "adam": {"loss": []}}, {}, TypeError, r"Expected state\['adam'\] to be the state of a"),
        ({"sgd": RUNS["sgd"], "adam": []}, {}, TypeError, r"Expected state\['adam'\] to be the state of a history"),
        ({}, {}, TypeError, "but got {}"),
        ([STATE, STATE], {}, TypeError, "a mapping from names of runs to states, but got"),
        (
            {"a": {"epoch": [1], "train.loss": 3}},
            {},
            TypeError,
            r"the columns of state\['a'\] to be lists but 'train.loss' is 3",
        ),
        (
            RUNS,
            {"best_epoch": 3},
            TypeError,
            "Expected best_epoch to be a mapping from 'sgd', 'adam' to epochs but got 3",
        ),
        (RUNS, {"best_epoch": {"adan": 3}}, ValueError, "but got {'adan': 3}. Did you mean 'adam'"),
        (STATE, {"best_epoch": {"adam": 3}}, TypeError, "Expected best_epoch to be an epoch"),
        (STATE, {"log": "los"}, ValueError, "positive but got 'los'. Did you mean 'loss'"),
        (STATE, {"log": 3}, TypeError, "Expected log to be a non-empty string or several"),
        (RUNS, {"log": ["acc"]}, ValueError, "always positive but got 'acc'. There are 'loss'."),
    ],
)
def test_bad_input_says_what_is_wrong(state: Any, arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plot_history(state, **arguments)


def test_an_adapter_in_the_place_of_a_state() -> None:
    adapter: Any = CallbackSetAdapter(["history"])
    fit(adapter, max_epochs=1)
    with pytest.raises(TypeError, match=r"adapter\.states\['history'\]") as caught:
        plot_history(adapter)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("state", "axes", "message"),
    [({"epoch": []}, 1, "has no scores to plot"), (STATE, 3, "Expected one Axes, or 2 for loss, acc, but got 3")],
)
def test_bad_input(state: dict[str, list[float]], axes: int, message: str) -> None:
    _, own = plt.subplots(1, axes, squeeze=False)
    with pytest.raises(ValueError, match=message):
        plot_history(state, list(own[0]))


def test_runs_may_have_numbers_as_names_and_epochs_without_a_number() -> None:
    folds = {fold: {"epoch": [1, 2], "valid.loss": [math.nan, 0.5]} for fold in range(2)}
    _, ax = plot_history(folds, best_epoch={0: 2, 1: 2}, log="loss")
    assert ax.get_yscale() == "log"
    assert "1, best epoch 2" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_what_a_subclass_adds_to_its_state_is_not_drawn() -> None:
    _, ax = plot_history({"epoch": [1], "valid.loss": [0.5], "count": 10, "more": {"a": 1}})
    assert ax.get_title() == "loss"
