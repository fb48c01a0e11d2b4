"""The recorder of stages."""

import numpy as np
import pytest

from callbacksets.base import STAGES
from callbacksets.testing import StageRecorder, make_context
from tests.helpers import fit, ones


def test_recorder() -> None:
    recorder = StageRecorder("epoch", "step", "last_scores_valid", "y_hat")
    fit(recorder, None, ones(1), ones(1), max_epochs=2)
    assert [row[0] for row in recorder.rows[:11]] == [*STAGES[:10], "on_epoch_begin"]
    assert [values[:2] for values in recorder.at("on_batch_end")] == [(1, 1), (2, 1)]
    first, second = (scores for _, _, scores, _ in recorder.at("on_valid_end"))
    assert first != second
    assert recorder.at("on_begin")[0][3] is None
    assert recorder.at("on_batch_end")[0][3].shape == (2, 1)


def test_recorder_of_some_stages() -> None:
    recorder = StageRecorder(stages=["on_end", "on_exit"])
    assert recorder.stages == ["on_end", "on_exit"]
    fit(recorder)
    assert recorder.rows == [("on_end",), ("on_exit",)]


def test_recorder_keeps_copies() -> None:
    recorder = StageRecorder("seen", "array", "loader_train", stages="on_batch_end")
    recorder.ctx = ctx = make_context(loader_train=(loader := ones(1)))
    ctx.seen, ctx.array = {1}, np.zeros(1)
    recorder.on_batch_end()
    ctx.seen.add(2)
    ctx.array[0] = 7
    assert recorder.rows == [("on_batch_end", {1}, np.zeros(1), loader)]


def test_recorder_of_a_field_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match=r"ctx has no field 'epohc'. Did you mean 'epoch'"):
        fit(StageRecorder("epohc"))
