import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacksets import CallbackSetHistory, CallbackSetTB
from tests.helpers import Act, Tiny, fit, ones


def scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads: tag -> (step, value)."""
    reader = EventAccumulator(str(path))
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_scores_at_the_epoch(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "first"
    history = CallbackSetHistory()
    adapter = fit([CallbackSetTB(path), history], Tiny(), ones(2), ones(1), max_epochs=4, check_val_every_n_epoch=2)
    state = adapter.states["history"]
    read = scalars(path)
    assert list(read) == ["train.loss", "valid.loss"]
    assert [step for step, _ in read["train.loss"]] == [1, 2, 3, 4]
    assert [step for step, _ in read["valid.loss"]] == [2, 4]
    assert [value for _, value in read["train.loss"]] == pytest.approx(state["train.loss"])
    assert [value for _, value in read["valid.loss"]] == pytest.approx(state["valid.loss"][1::2])
    assert all(entry.name.startswith("events.out.tfevents.") for entry in path.iterdir())


def test_loss_at_the_global_step(tmp_path: Path) -> None:
    losses: list[float] = []
    callbacks = [
        CallbackSetTB(str(tmp_path), log_train_loss=True),
        Act(on_batch_end=lambda c: losses.append(c.last_loss)),
    ]
    fit(callbacks, Tiny(), ones(3), max_epochs=2)
    read = scalars(tmp_path)
    assert list(read) == ["train.last_loss", "train.loss"]
    assert [step for step, _ in read["train.last_loss"]] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in read["train.last_loss"]] == pytest.approx(losses)


def test_scores_of_other_callbacks(tmp_path: Path) -> None:
    def add(ctx: Any) -> None:
        ctx.last_scores_valid["gain"] = 0.5

    fit([CallbackSetTB(tmp_path), Act(on_valid_end=add)], Tiny(), ones(1), ones(1))
    assert scalars(tmp_path)["valid.gain"] == [(1, 0.5)]


def test_a_folder_with_events_is_continued(tmp_path: Path) -> None:
    callback = CallbackSetTB(tmp_path)
    for _ in range(2):
        fit([callback], Tiny(), ones(1), max_epochs=2)
    assert [step for step, _ in scalars(tmp_path)["train.loss"]] == [1, 2, 1, 2]


def test_nothing_trained_creates_nothing(tmp_path: Path) -> None:
    fit([CallbackSetTB(tmp_path / "new", log_train_loss=True)], Tiny(), max_epochs=0)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()  # nor is the folder looked at
    fit(CallbackSetTB(tmp_path, log_train_loss=True), Tiny(), ones(2), ones(1), fast_dev_run=True)
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]


def test_what_was_logged_until_a_failure_is_there(tmp_path: Path) -> None:
    def boom(ctx: Any) -> None:
        if ctx.epoch == 3:
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fit([CallbackSetTB(tmp_path), Act(on_epoch_begin=boom)], Tiny(), ones(1), max_epochs=4)
    assert [step for step, _ in scalars(tmp_path)["train.loss"]] == [1, 2]


def test_stages() -> None:
    assert CallbackSetTB("runs").stages == ["on_begin", "on_epoch_end", "on_exit"]
    assert "on_batch_end" in CallbackSetTB("runs", log_train_loss=True).stages


def test_refuses_what_is_no_folder_of_events(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"contains other files than TensorBoard's events, such as 'notes\.txt'"):
        fit([CallbackSetTB(tmp_path)])
    with pytest.raises(FileExistsError, match=r"to be a folder for TensorBoard's events but .*notes\.txt is a file"):
        fit([CallbackSetTB(tmp_path / "notes.txt")])
    with pytest.raises(FileExistsError, match=r"for TensorBoard's events but .*notes\.txt is a file"):
        fit([CallbackSetTB(tmp_path / "notes.txt" / "run")])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CallbackSetTB(), TypeError, "path"),
        (lambda: CallbackSetTB(3), TypeError, "path to be the path of a folder but got 3"),
        (lambda: CallbackSetTB(None), TypeError, "path to be the path of a folder but got None"),
        (lambda: CallbackSetTB(""), ValueError, "path of a folder on this machine but got ''"),
        (lambda: CallbackSetTB("s3://bucket/runs"), ValueError, "on this machine but got 's3://bucket/runs'"),
        (lambda: CallbackSetTB("runs", log_train_loss=1), TypeError, "log_train_loss to be True or False but got 1"),
        (lambda: CallbackSetTB("runs", log_train_loss=None), TypeError, "log_train_loss to be True or False"),
    ],
)
def test_bad_argument(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        CallbackSetTB("runs")


def test_the_norm_of_the_gradients_and_the_rate_are_scores_like_others(tmp_path: Path) -> None:
    history = CallbackSetHistory()
    fit(["grad_norm", "lr_monitor", history, CallbackSetTB(tmp_path)], Tiny(), ones(2), ones(1), max_epochs=2)
    read, state = scalars(tmp_path), history.state_dict()
    for name in ("train.grad_norm", "train.lr"):
        assert [value for _, value in read[name]] == pytest.approx(state[name])
    _, axes = history.plot()
    assert {"grad_norm", "lr"} <= {ax.get_ylabel() or ax.get_title() for ax in axes}
