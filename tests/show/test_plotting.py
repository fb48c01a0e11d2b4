from collections.abc import Iterator

import matplotlib
import pytest

from callbacksets import CallbackSetEarlyStopping, CallbackSetHistory, plot_history
from tests.helpers import Tiny, fit, ones

matplotlib.use("agg")
import matplotlib.pyplot as plt

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


def test_one_score_gives_one_axes() -> None:
    _, ax = plot_history({"epoch": [1], "train.loss": [2.0]})
    assert ax.get_title() == "loss"


def test_the_history_marks_the_best_epoch_of_early_stopping() -> None:
    history = CallbackSetHistory()
    fit([history, CallbackSetEarlyStopping(3)], Tiny(), ones(2), ones(2), max_epochs=3)
    _, ax = history.plot()
    assert ax.get_lines()[-1].get_label() == "best epoch, 3"


@pytest.mark.parametrize(
    ("state", "axes", "message"),
    [({"epoch": []}, 1, "has no scores to plot"), (STATE, 3, "Expected one Axes, or 2 for loss, acc, but got 3")],
)
def test_bad_input(state: dict[str, list[float]], axes: int, message: str) -> None:
    _, own = plt.subplots(1, axes, squeeze=False)
    with pytest.raises(ValueError, match=message):
        plot_history(state, list(own[0]))
