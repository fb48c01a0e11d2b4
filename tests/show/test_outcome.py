"""What an adapter says after a fit."""

import re
from typing import Any

import pytest

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetEarlyStopping, CallbackSetHistory, t_clbk
from tests.helpers import Act, Tiny, fit, ones, quiet
from tests.show.test_html import Cells


def lines(adapter: CallbackSetAdapter) -> dict[str, str]:
    first, *others = re.sub(r"[0-9.]+ s>", "x s>", repr(adapter)).splitlines()
    return {"": first} | dict(re.split(r"  +", line, maxsplit=1) for line in others)


class Worse(Tiny):
    """Its validation loss rises by one in each epoch."""

    def log(self, name: str, value: Any, **kwargs: Any) -> None:
        super().log(name, value.detach() * 0 + self.current_epoch, **kwargs)


def test_who_stopped_it_and_its_best_epoch() -> None:
    stop = CallbackSetEarlyStopping(patience=2, restore_best_weights=True)
    adapter = fit(["history", stop], Worse(), ones(2), ones(1), max_epochs=9)
    assert lines(adapter) == {
        "": "<CallbackSetAdapter: trained 3 epochs in x s>",
        "ended by": "callback 'early_stopping' set ctx.terminate in on_valid_end, epoch 3 was the last",
        "last scores": "train.loss 2.0000, valid.loss 2.0000",
        "best": "loss 0.0000 in epoch 1, whose weights were restored",
        "callbacks": "history, early_stopping",
        "states": "history, early_stopping",
    }
    texts = Cells(adapter._repr_html_()).texts
    assert texts[:2] == ["CallbackSetAdapter", f"T{repr(adapter).splitlines()[0].split(': t')[1][:-1]}."]
    assert dict(zip(texts[2::2], texts[3::2], strict=True)) == {k: v for k, v in lines(adapter).items() if k}


def test_the_trainer_ended_it_and_nothing_was_learned() -> None:
    adapter = fit([CallbackSet()], max_epochs=1)
    assert lines(adapter) == {
        "": "<CallbackSetAdapter: trained 1 epoch in x s>",
        "ended by": "the Trainer",
        "callbacks": "callback_set",
        "states": "none",
    }


def test_best_weights_that_were_not_restored() -> None:
    adapter = fit([t_clbk("early_stopping", patience=2)], Worse(), ones(2), ones(1), max_epochs=2)
    assert lines(adapter)["best"] == "loss 0.0000 in epoch 1"


def test_a_failure() -> None:
    def fail(ctx: Any) -> None:
        if ctx.epoch == 2:
            raise RuntimeError("boom")

    adapter = CallbackSetAdapter([CallbackSetHistory(), Act(on_epoch_end=fail)])
    with pytest.raises(RuntimeError, match="boom"):
        fit(adapter, max_epochs=3)
    assert re.match(r"<CallbackSetAdapter: failed in epoch 2 after [0-9.]+ s>\nended by +RuntimeError\n", repr(adapter))


def test_the_plan_is_shown_before_a_fit_and_in_it() -> None:
    seen = []
    adapter = CallbackSetAdapter({"look": Act(on_epoch_end=lambda ctx: seen.append(repr(adapter)))})
    plan = repr(adapter)
    assert plan.startswith("<CallbackSetAdapter: 1 callback>\n")
    for _ in range(2):
        quiet(max_epochs=1, callbacks=[adapter]).fit(Tiny(), ones(1))
        assert repr(adapter).startswith("<CallbackSetAdapter: trained 1 epoch in ")
    assert seen == [plan, plan]


def test_showing_makes_no_callback() -> None:
    made = []

    class Counted(CallbackSet):
        def __init__(self) -> None:
            made.append(self)

    adapter = fit([Counted])
    made.clear()
    assert "counted" in repr(adapter) + adapter._repr_html_()
    assert not made


def test_states_of_any_form() -> None:
    class Odd(CallbackSet):
        def __init__(self, state: Any) -> None:
            self.state = state

        def state_dict(self) -> Any:
            return self.state

    states = [
        3,
        "epoch",
        [1],
        {"epoch": 3},
        {"epoch": []},
        {"epoch": [1]},
        {"best_epochs": 1},
        {"epoch": [1], "a.b": 2},
    ]
    adapter = fit({f"odd_{i}": Odd(state) for i, state in enumerate(states)})
    assert lines(adapter)["states"].startswith("odd_0, odd_1, ")
    assert {"last scores", "best"}.isdisjoint(lines(adapter))
