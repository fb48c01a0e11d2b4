"""What an adapter says after a fit."""

import re
from typing import Any

import lightning as L
import pytest
import torch
from torchmetrics.classification import BinaryAccuracy

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


def test_an_interruption() -> None:
    def interrupt(ctx: Any) -> None:
        raise KeyboardInterrupt

    adapter = CallbackSetAdapter([Act(on_batch_end=interrupt)])
    with pytest.raises(SystemExit):  # Lightning makes this of a KeyboardInterrupt
        fit(adapter, max_epochs=3)
    shown = r"<CallbackSetAdapter: interrupted in epoch 1 after [0-9.]+ s>\nended by +KeyboardInterrupt\n"
    assert re.match(shown, repr(adapter))


class Measured(Worse):
    """Its first measure is one of which higher is better."""

    def __init__(self) -> None:
        super().__init__()
        self.acc = BinaryAccuracy()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        right = self.current_epoch == 1
        self.acc.update(torch.tensor([1.0]), torch.tensor([int(right)]))
        L.LightningModule.log(self, "val_acc", self.acc, on_step=False, on_epoch=True)
        super().validation_step(batch, batch_idx)


@pytest.mark.parametrize(("module", "best"), [(Worse, "loss 0.0000 in epoch 1"), (Measured, "acc 1.0000 in epoch 2")])
def test_the_best_epoch_without_early_stopping(module: type[Tiny], best: str) -> None:
    assert lines(fit(["history"], module(), ones(2), ones(1), max_epochs=3))["best"] == best


def test_no_best_epoch_of_a_score_without_a_direction() -> None:
    class Unknown(Worse):
        def log(self, name: str, value: Any, **kwargs: Any) -> None:
            super().log(name.replace("loss", "gain"), value, **kwargs)

    shown = lines(fit(["history"], Unknown(), ones(2), ones(1), max_epochs=2))
    assert "valid.gain" in shown["last scores"]
    assert "best" not in shown


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


@pytest.mark.parametrize(
    "state",
    [
        {"epoch": [1], "valid.loss": [0.5], "count": 1, "more": {}},
        {"epoch": [1], "x.y": []},
        {"epoch": [1, 2], "train.loss": [0.5]},
        {"epoch": [1], 3: [1]},
        {"best_epochs": 2, "best_score": None, "measure": "loss"},
    ],
    ids=str,
)
def test_a_state_of_ones_own_may_look_like_that_of_a_history(state: Any) -> None:
    class CallbackSetOwn(CallbackSet):
        def on_end(self) -> None: ...

        def state_dict(self) -> Any:
            return state

    adapter = fit(CallbackSetOwn())
    assert lines(adapter)["states"] == "own"
    assert ("valid.loss 0.5000" in repr(adapter)) is ("valid.loss" in state)
    assert "own" in Cells(adapter._repr_html_()).texts
    quiet(callbacks=[adapter])  # a Trainer shows its arguments when it is made
