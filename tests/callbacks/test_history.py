import sys
from typing import Any

import pandas as pd
import pytest

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetEarlyStopping, CallbackSetHistory
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


def test_a_subclass_may_add_to_the_state() -> None:
    class CallbackSetMore(CallbackSetHistory):
        seconds = 1.5

        def state_dict(self) -> Any:
            return super().state_dict() | {"seconds": self.seconds, "names": ["a"]}

        def load_state_dict(self, state_dict: Any) -> None:
            self.seconds = state_dict["seconds"]
            super().load_state_dict(state_dict)

    more = CallbackSetMore()
    fit([more], max_epochs=2)
    assert repr(more).startswith("<CallbackSetMore: 2 epochs>\nepoch  train.loss")
    assert "<img" in more._repr_html_()
    assert len(more.plot()) == 2
    again = CallbackSetMore()
    again.load_state_dict(more.state_dict())
    assert again.state_dict() == more.state_dict()


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


def test_shows_its_table_and_its_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    history = CallbackSetHistory()
    assert repr(history) == "<CallbackSetHistory: on_epoch_end, on_exit>"
    assert "Keeps the training and validation scores" in history._repr_html_()
    fit([history, CallbackSetEarlyStopping(patience=2)], Tiny(), ones(2), ones(1), max_epochs=2)
    head, columns, *rows = repr(history).splitlines()
    assert head == "<CallbackSetHistory: 2 epochs>"
    assert columns.split() == ["epoch", "train.loss", "valid.loss"]
    first, second = history.state_dict()["valid.loss"]
    assert [row.endswith("best") for row in rows] == [first <= second, second < first]
    html = history._repr_html_()
    assert html.count("<tr") == 3
    assert '<img alt="The scores over the epochs." src="data:image/png;base64,iVBOR' in html
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert history._repr_html_() == html.partition("<img")[0] + "</div>"


def test_the_best_epoch_is_that_of_any_callback_that_stops_early() -> None:
    class CallbackSetOwnStop(CallbackSet):
        patience, stagnation, best_epochs = 3, 1, 1

    history = CallbackSetHistory()
    fit([history, CallbackSetOwnStop()], max_epochs=2)
    assert [line.endswith("best") for line in repr(history).splitlines()[2:]] == [True, False]
