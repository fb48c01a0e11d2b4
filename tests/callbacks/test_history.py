from typing import Any

import pandas as pd
import pytest

from callbacksets import CallbackSetAdapter, CallbackSetHistory
from tests.helpers import Act, Tiny, fit, ones, quiet


def test_a_row_for_each_epoch_with_none_where_there_is_nothing() -> None:
    states = fit([CallbackSetHistory()], Tiny(), ones(2), ones(2), max_epochs=4, check_val_every_n_epoch=2).states
    history = states["history"]
    assert history["epoch"] == [1, 2, 3, 4]
    assert [value is None for value in history["valid.loss"]] == [True, False, True, False]
    assert None not in history["train.loss"]
    assert pd.DataFrame(history)["valid.loss"].isna().tolist() == [True, False, True, False]


def test_sees_what_callbacks_add_and_puts_training_columns_first() -> None:
    def add(loop: str, name: str) -> Any:
        return lambda ctx: getattr(ctx, f"last_scores_{loop}").update({name: float(ctx.epoch)})

    def late(ctx: Any) -> None:
        if ctx.epoch == 2:
            add("train", "late")(ctx)

    extra = Act(on_before_valid=late, on_valid_end=add("valid", "extra"))
    history = fit([CallbackSetHistory(), extra], Tiny(), ones(2), ones(2), max_epochs=2).states["history"]
    assert list(history) == ["epoch", "train.loss", "train.late", "valid.loss", "valid.extra"]
    assert history["train.late"] == [None, 2.0]
    assert history["valid.extra"] == [1.0, 2.0]


def test_no_scores_no_rows() -> None:
    class Silent(Tiny):
        def log(self, *args: Any, **kwargs: Any) -> None: ...

    assert fit([CallbackSetHistory()], Silent(), ones(2), max_epochs=2).states == {"history": {"epoch": []}}


def test_an_instance_starts_over_in_every_fit() -> None:
    adapter = CallbackSetAdapter([CallbackSetHistory()])
    for epochs in (3, 2):
        quiet(max_epochs=epochs, callbacks=[adapter]).fit(Tiny(), ones(1))
        assert adapter.states["history"]["epoch"] == list(range(1, epochs + 1))


@pytest.mark.parametrize("state", [{"epoch": []}, {"epoch": [1, 2], "train.a": [None, 1.0], "valid.b": [2.0, None]}])
def test_state_round_trips(state: dict[str, Any]) -> None:
    history = CallbackSetHistory()
    history.load_state_dict(state)
    assert history.state_dict() == state
