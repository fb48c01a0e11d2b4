"""Scores: what a module logs, under which names, when, and what is said of what cannot be one."""

import copy
import math
import pickle
import re
import warnings
from collections.abc import Callable
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy
from torchmetrics.regression import R2Score

from callbacksets import CallbackSetAdapter, CallbackSetEarlyStopping, CallbackSetHistory
from callbacksets.scores import NOT_VALIDATED, ById, Scores, short_name
from tests.helpers import Act, Batches, StageLog, Tiny, fit, ones, quiet

EPOCH = {"on_step": False, "on_epoch": True, "batch_size": 1}


class Logging(Tiny):
    """Logs what it is told: `train(module, batch)`, `valid(module, batch)`."""

    def __init__(
        self, train: Callable[..., Any] = lambda *args: None, valid: Callable[..., Any] = lambda *args: None
    ) -> None:
        super().__init__()
        self.train_logs, self.valid_logs = train, valid

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.train_logs(self, batch)
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.valid_logs(self, batch)


def logs(**kwargs: Any) -> Callable[[Tiny, torch.Tensor], None]:
    """Logs one value under each name: 1 in the first batch, 2 in the second, ..."""
    names = kwargs.pop("names")

    def log(module: Tiny, batch: torch.Tensor) -> None:
        for name in names:
            module.log(name, batch.mean(), **(EPOCH | kwargs))

    return log


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_logged_name_or_a_position_sets_what_it_gets() -> None:
    scores = Scores({"acc": 0.9, "loss": 0.2}, logged={"val_acc": "acc", "val_loss": "loss"})
    scores["val_acc"] = 0.8
    scores[1] = 0.3
    scores.update({"val_loss": 0.4}, val_new=1.0)
    assert dict(scores) == {"acc": 0.8, "loss": 0.4, "val_new": 1.0}
    with pytest.raises(IndexError, match=r"Position 3 does not exist. There are 3 names"):
        scores[3] = 1.0


def test_every_way_to_set_a_score_takes_the_logged_name() -> None:
    scores = Scores({"acc": 0.9}, logged={"val_acc": "acc"})
    same = scores
    scores |= {"val_acc": 0.5, "f1": 1}
    assert scores is same
    assert scores.setdefault("val_acc", 0.1) == 0.5
    assert scores.setdefault(0, 0.1) == 0.5
    assert scores.setdefault("new", 2) == 2.0
    assert dict(scores) == {"acc": 0.5, "f1": 1.0, "new": 2.0}
    merged, copied = scores | {"val_acc": 0.25}, scores.copy()
    assert (merged["val_acc"], copied["val_acc"], scores["acc"]) == (0.25, 0.5, 0.5)
    assert dict(merged) == {"acc": 0.25, "f1": 1.0, "new": 2.0}
    assert type(merged) is type(copied) is type(Scores.fromkeys(["a"], 0)) is Scores
    assert type(Scores.fromkeys(["a"], 0)["a"]) is float
    assert scores.pop("val_acc") == 0.5
    assert scores.pop("val_acc", None) is None
    with pytest.raises(KeyError, match=r"'val_acc' does not exist\. There are 'f1', 'new'"):
        scores.pop("val_acc")


@pytest.mark.parametrize(
    "remake", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), lambda x: x.copy()]
)
def test_copies_and_pickles_know_the_logged_names(remake: Callable[[Any], Any]) -> None:
    scores = Scores({"val_acc": 0.9, "loss": 0.2}, logged={"val_loss": "loss"}, empty="nothing yet.")
    again = remake(scores)
    again["val_loss"] = 0.3
    assert (type(again), dict(again), again.empty) == (Scores, {"val_acc": 0.9, "loss": 0.3}, "nothing yet.")
    assert scores["loss"] == 0.2


class Name(str, Enum):  # noqa: UP042
    LOSS = "loss"


def test_scores_are_floats_under_plain_names(tmp_path: Path) -> None:
    numbers = (1, True, np.float64(1), np.float32(1), np.int64(1), torch.tensor(1), torch.ones(1, 1), Fraction(1))
    for number in numbers:
        scores = Scores({"a": number, np.str_("b"): 1.0})
        scores[Name.LOSS] = number
        scores |= {"c": number}
        assert list(scores.items()) == [("a", 1.0), ("b", 1.0), ("loss", 1.0), ("c", 1.0)]
        assert {type(one) for item in scores.items() for one in item} == {str, float}
        assert scores.name(Name.LOSS) == scores.name(np.str_("loss")) == "loss"
    torch.save(dict(scores), tmp_path / "scores.pt")
    assert torch.load(tmp_path / "scores.pt", weights_only=True) == dict(scores)
    assert math.isnan(Scores({"a": np.float32("nan")})["a"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0.5", "but got '0.5'."),
        (None, "but got None."),
        (torch.ones(2, 3), "but got <Tensor of shape (2, 3), torch.float32>."),
        (np.ones(2), "but got <ndarray of shape (2,), float64>."),
        (1j, "but got 1j."),
        (MeanMetric(), "but got MeanMetric(). Give the value: metric.compute()."),
    ],
)
def test_what_is_no_number_is_no_score(value: Any, message: str) -> None:
    for set_it in (
        lambda: Scores({"a": value}),
        lambda: Scores().update(a=value),
        lambda: Scores().setdefault("a", value),
    ):
        with pytest.raises(TypeError, match=re.escape(f"Expected score 'a' to be a number {message}")):
            set_it()


def test_what_is_empty_says_why() -> None:
    with pytest.raises(KeyError, match=r"'acc' does not exist. The module logged nothing for the epoch. Log it"):
        Scores()["acc"]
    with pytest.raises(KeyError, match=r"Position 0 does not exist. No validation has run yet\."):
        Scores(empty=NOT_VALIDATED)[0]
    scores = Scores(empty=NOT_VALIDATED)
    scores["acc"] = 1
    with pytest.raises(KeyError, match=r"'loss' does not exist\. There are 'acc'"):
        scores["loss"]


def test_states_by_id_are_a_dict_that_names_the_ids(tmp_path: Path) -> None:
    states = ById({"history": {"epoch": [1]}, "tb": 0})
    assert states == {"history": {"epoch": [1]}, "tb": 0}
    with pytest.raises(KeyError, match=r"'histroy' does not exist. Did you mean 'history'\? There are 'history', 'tb'"):
        states["histroy"]
    assert (states.get("typo"), "typo" in states) == (None, False)
    for again in (copy.deepcopy(states), pickle.loads(pickle.dumps(states))):
        assert again == states
    torch.save(states, tmp_path / "states.pt")
    assert torch.load(tmp_path / "states.pt", weights_only=True) == states


@pytest.mark.parametrize(
    ("logged", "short"),
    [
        ("loss", "loss"),
        *(
            (f"{loop}{sep}loss", "loss")
            for loop in ("train", "training", "val", "valid", "validation")
            for sep in "_/.-"
        ),
        *(
            (f"loss{sep}{loop}", "loss")
            for loop in ("train", "training", "val", "valid", "validation")
            for sep in "_/.-"
        ),
        ("Train_Loss", "Loss"),
        ("VAL/loss", "loss"),
        ("loss_VALID", "loss"),
        ("train", "train"),
        ("val", "val"),
        ("validity", "validity"),
        ("value_loss", "value_loss"),
        ("trainer_loss", "trainer_loss"),
        ("interval", "interval"),
        ("retrain_loss", "retrain_loss"),
        ("metrics/val_loss", "metrics/val_loss"),
        ("a_val_b", "a_val_b"),
        ("val_val_loss", "val_loss"),  # once
        ("val_loss_train", "loss_train"),
        ("test_loss", "test_loss"),
        ("valMAE", "MAE"),
        ("trainMAE", "MAE"),
        ("trainingLoss", "Loss"),
        ("ValidLoss", "Loss"),
        ("validationF1", "F1"),
        ("lossVal", "loss"),
        ("MAETrain", "MAE"),
        *((name, name) for name in ("value", "valley", "Value", "VALLEY", "VALUE", "trainer", "TrainableLoss")),
        *((name, name) for name in ("valueMAE", "validityScore", "interVal2", "retrainMAE", "maeval", "val1", "Val")),
    ],
)
def test_short_names(logged: str, short: str) -> None:
    assert short_name(logged) == short


def test_scores_bear_the_short_names_in_the_order_logged() -> None:
    log = StageLog("last_scores_train", "last_scores_valid", "measures_valid", stages=("on_epoch_end",))
    module = Logging(logs(names=("loss/train", "z", "train_a")), logs(names=("val_z", "validation.loss", "a-valid")))
    fit(log, module, ones(3), ones(2))
    train, valid, measures = log.at("epoch_end")[0]
    assert list(train.items()) == [("loss", 2.0), ("z", 2.0), ("a", 2.0)]
    assert list(valid.items()) == [("z", 1.5), ("loss", 1.5), ("a", 1.5)]
    assert list(measures) == ["z", "loss", "a"]
    assert valid["val_z"] == valid["a-valid"] == 1.5


def test_the_loop_tells_train_from_valid_and_not_the_name() -> None:
    log = StageLog("last_scores_train", "last_scores_valid", stages=("on_epoch_end",))
    fit(log, Logging(logs(names=("val_a", "b")), logs(names=("train_a", "b"))), ones(1), ones(3))
    assert log.at("epoch_end") == [({"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 2.0})]


def test_a_forked_name_is_one_score_of_the_epoch() -> None:
    log = StageLog("last_scores_train", "last_scores_valid", "measures_train", stages=("on_epoch_end",))
    forked = logs(names=("train_a",), on_step=True)
    adapter = CallbackSetAdapter(log)
    trainer = quiet(max_epochs=1, callbacks=[adapter])
    trainer.fit(Logging(forked, logs(names=("val_a",), on_step=True)), ones(3), ones(2))
    assert set(trainer.callback_metrics) >= {"train_a_step", "train_a_epoch", "val_a_epoch"}
    assert log.at("epoch_end") == [({"a": 2.0}, {"a": 1.5}, {"a": None})]
    train, _, _ = log.at("epoch_end")[0]
    assert train["train_a"] == 2.0


def said(record: Any, what: str) -> list[str]:
    """The warnings about something; Lightning may have had others."""
    return [str(warning.message) for warning in record if what in str(warning.message)]


def test_names_that_fall_together_are_kept_whole_with_one_warning_for_a_loop() -> None:
    log = StageLog("last_scores_train", "last_scores_valid", "measures_valid", stages=("on_epoch_end",))
    module = Logging(logs(names=("train_a", "val_a", "train_b")), logs(names=("val_a", "val_b")))
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        fit(log, module, ones(1), ones(1), max_epochs=3)
    train, valid, _ = log.at("epoch_end")[-1]
    assert list(train) == ["train_a", "val_a", "b"]
    assert list(valid) == ["a", "b"]
    assert said(record, "keep the full names") == [
        "'train_a', 'val_a' have the same short name 'a', so their scores keep the full names. "
        "Log them under names that differ in more than train and val."
    ]


def test_names_that_fall_together_in_validation_warn_once_also_through_the_sanity_check() -> None:
    log = StageLog("measures_valid", "last_scores_valid", stages=("on_begin", "on_valid_end"))
    module = Logging(valid=logs(names=("val_a", "a", "valid_b")))
    with pytest.warns(UserWarning, match="'val_a', 'a' have the same short name 'a'") as record:
        fit(log, module, ones(1), ones(1), max_epochs=2)
    assert len(said(record, "keep the full names")) == 1
    assert [list(names) for row in log.rows for names in row[1:] if names] == [["val_a", "a", "b"]] * 5


def test_several_validation_loaders() -> None:
    log = StageLog("last_scores_valid", "measures_valid", stages=("on_valid_end",))
    adapter = fit({"log": log, "history": CallbackSetHistory()}, None, ones(1), [ones(1), ones(2)])
    scores, measures = log.at("valid_end")[0]
    names = ["loss/dataloader_idx_0", "loss/dataloader_idx_1"]
    assert list(scores) == list(measures) == names
    assert scores["val_loss/dataloader_idx_1"] == scores[names[1]] == scores[1] != scores[0]
    assert list(adapter.states["history"]) == ["epoch", "train.loss", *(f"valid.{name}" for name in names)]


def test_several_validation_loaders_without_the_suffix() -> None:
    class Unsuffixed(Tiny):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log(f"val_{'ab'[dataloader_idx]}", batch.mean(), add_dataloader_idx=False, batch_size=1)

    log = StageLog("last_scores_valid", stages=("on_valid_end",))
    fit(log, Unsuffixed(), ones(1), [ones(1), ones(3)])
    assert log.at("valid_end") == [{"a": 1.0, "b": 2.0}]


def test_a_name_logged_in_two_hooks_is_one_score_and_the_later_counts() -> None:
    class Twice(Tiny):
        def on_validation_epoch_end(self) -> None:
            self.log("val_loss", 7.0)
            self.log("val_more", 8.0)

    log = StageLog("last_scores_valid", stages=("on_valid_end",))
    adapter = CallbackSetAdapter(log)
    trainer = quiet(max_epochs=1, callbacks=[adapter])
    trainer.fit(Twice(), ones(1), ones(1))
    assert log.at("valid_end") == [{"loss": 7.0, "more": 8.0}]
    assert trainer.callback_metrics["val_loss"] == 7.0


# --- what cannot be a score -----------------------------------------------------------------------------------------


def test_what_is_logged_per_step_only_is_explained_once() -> None:
    log = StageLog("last_scores_train", "measures_train", stages=("on_epoch_end",))

    def both(module: Tiny, batch: torch.Tensor) -> None:
        module.log("train_step", 1.0)  # in training, Lightning's default
        module.log("train_epoch", 2.0, **EPOCH)
        module.log("train_forked", 3.0, on_step=True, on_epoch=True, batch_size=1)

    with pytest.warns(UserWarning, match="per step only") as record:
        fit(log, Logging(both), ones(2), ones(1), max_epochs=3)
    assert said(record, "not a score") == [
        "'train_step' is logged per step only, so it is not a score. "
        "Log it for the epoch: self.log(..., on_epoch=True)."
    ]
    assert log.at("epoch_end") == [({"epoch": 2.0, "forked": 3.0}, {"epoch": None, "forked": None})] * 3


def test_what_is_logged_per_step_in_validation_is_explained_once() -> None:
    log = StageLog("last_scores_valid", stages=("on_valid_end",))
    module = Logging(valid=logs(names=("val_a",), on_step=True, on_epoch=False))
    with pytest.warns(UserWarning, match="'val_a' is logged per step only.*on_epoch=True") as record:
        fit(log, module, ones(1), ones(1), max_epochs=2)
    assert len(said(record, "not a score")) == 1
    assert log.at("valid_end") == [{}, {}]


class Late(Tiny):
    def on_train_epoch_end(self) -> None:
        self.log("train_late", 1.0)


def test_what_is_logged_in_on_train_epoch_end_is_explained_once() -> None:
    log = StageLog("last_scores_train", stages=("on_epoch_end",))
    with pytest.warns(UserWarning, match="late") as record:
        fit(log, Late(), ones(1), ones(1), max_epochs=3)
    assert said(record, "not a score") == [
        "'train_late' is logged in on_train_epoch_end, after the scores were read, so it is not a score. "
        "In a module, log it in training_step(), with on_epoch=True, or in on_validation_epoch_end(). "
        "In a CallbackSet, add it in on_before_valid: self.ctx.last_scores_train['train_late'] = ... ."
    ]
    assert [list(scores) for scores in log.at("epoch_end")] == [["loss"]] * 3


def test_it_is_explained_also_after_a_single_epoch() -> None:
    with pytest.warns(UserWarning, match="'train_late' is logged in on_train_epoch_end"):
        fit(StageLog(), Late(), ones(1))


def test_every_fit_explains_anew() -> None:
    adapter = CallbackSetAdapter(StageLog())
    for _ in range(2):
        with pytest.warns(UserWarning, match="'train_late'") as record:
            fit(adapter, Late(), ones(1))
        assert len(said(record, "not a score")) == 1


def test_what_is_logged_in_both_hooks_needs_no_explanation() -> None:
    class Both(Late):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("train_late", 3.0, **EPOCH)
            return super().training_step(batch, batch_idx)

    log = StageLog("last_scores_train", stages=("on_epoch_end",))
    fit(log, Both(), ones(1), max_epochs=2)
    assert [scores["late"] for scores in log.at("epoch_end")] == [3.0, 3.0]


class PerClass(Tiny):
    """Logs a metric of one number for each class, and then a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.acc = MulticlassAccuracy(3, average="none")

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.acc(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]))
        self.log("val_acc", self.acc, batch_size=1)
        super().validation_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:The value .* only .* scalar")
def test_a_metric_of_several_numbers_is_no_score_and_says_so_once() -> None:
    log = StageLog("last_scores_valid", "measures_valid", stages=("on_valid_end",))
    module = PerClass()
    with pytest.warns(UserWarning, match="'val_acc' is not a single number, so it is not a score") as record:
        fit(log, module, ones(1), ones(1), max_epochs=2)
    assert len(said(record, "not a score")) == 1
    assert [list(scores) for scores, _ in log.at("valid_end")] == [["loss"], ["loss"]]


@pytest.mark.filterwarnings("ignore:'val_acc' is not a single number")
@pytest.mark.parametrize("sanity", [0, 1])
def test_the_first_score_is_the_first_also_behind_a_metric_of_several_numbers(sanity: int) -> None:
    seen: list[Any] = []
    sets = {
        "look": Act(on_epoch_end=lambda ctx: seen.append((ctx.last_scores_valid.name(0), ctx.minimize(0)))),
        "early_stopping": CallbackSetEarlyStopping(patience=2),
    }
    adapter = fit(sets, PerClass(), ones(1), ones(1), num_sanity_val_steps=sanity)
    assert seen == [("loss", True)]
    assert adapter.states["early_stopping"]["measure"] == "loss"


# --- when -----------------------------------------------------------------------------------------------------------


def test_training_scores_are_there_before_validation() -> None:
    log = StageLog("last_scores_train", stages=("on_batch_end", "on_before_valid", "on_valid_end", "on_epoch_end"))
    fit(log, Logging(logs(names=("a",))), ones(3), ones(1), max_epochs=2, num_sanity_val_steps=0)
    assert log.rows == [
        *[("batch_end", {})] * 3,
        *[(stage, {"a": 2.0}) for stage in ("before_valid", "valid_end", "epoch_end")],
        *[("batch_end", {"a": 2.0})] * 3,
        *[(stage, {"a": 2.0}) for stage in ("before_valid", "valid_end", "epoch_end")],
    ]


def add(ctx: Any) -> None:
    ctx.last_scores_train["added"] = float(ctx.step)


@pytest.mark.parametrize("kind", ["number", "metric"])
def test_after_a_validation_in_the_middle_scores_are_those_of_the_whole_epoch(kind: str) -> None:
    class Means(Logging):
        def __init__(self) -> None:
            super().__init__(self.log_mean)
            self.mean = MeanMetric()

        def log_mean(self, module: Any, batch: torch.Tensor) -> None:
            self.mean(batch)
            self.log("train_a", self.mean if kind == "metric" else batch.mean(), **EPOCH)

    log = StageLog("last_scores_train", stages=("on_before_valid", "on_valid_end", "on_epoch_end"))
    act = Act(on_before_valid=add)
    adapter = CallbackSetAdapter({"act": act, "log": log, "history": CallbackSetHistory()})
    trainer = quiet(max_epochs=2, callbacks=[adapter], val_check_interval=2)
    trainer.fit(Means(), ones(5), ones(1))
    epoch = [
        *[(stage, {"a": 1.5, "added": 2.0}) for stage in ("before_valid", "valid_end")],
        *[(stage, {"a": 2.5, "added": 4.0}) for stage in ("before_valid", "valid_end")],
        ("epoch_end", {"a": 3.0, "added": 4.0}),  # and what the callback has added stays
    ]
    assert log.rows == epoch * 2
    assert adapter.states["history"]["train.a"] == [3.0, 3.0]
    assert trainer.callback_metrics["train_a"] == 3.0  # what Lightning itself shows is not touched


def test_what_callbacks_add_later_ones_see() -> None:
    def add_valid(ctx: Any) -> None:
        ctx.last_scores_valid["added"] = ctx.last_scores_valid["loss"] * 0 + 9

    sets = {
        "train": Act(on_before_valid=add),
        "valid": Act(on_valid_end=add_valid),
        "history": CallbackSetHistory(),
    }
    state = fit(sets, None, ones(2), ones(1), max_epochs=2).states["history"]
    assert state["train.added"] == [2.0, 2.0]
    assert state["valid.added"] == [9.0, 9.0]
    assert list(state) == ["epoch", "train.loss", "train.added", "valid.loss", "valid.added"]


def test_the_mapping_stays_the_same_until_it_is_replaced() -> None:
    log = StageLog("last_scores_valid", "last_scores_train", stages=("on_valid_end", "on_epoch_end"))
    fit(log, None, ones(1), ones(1), max_epochs=2)
    (_, *first), (_, *second), (_, *third), _ = log.rows
    assert all(a is b for a, b in zip(first, second, strict=True))
    assert all(a is not b for a, b in zip(first, third, strict=True))


@pytest.mark.parametrize("kind", ["number", "metric"])
def test_scores_of_an_epoch_are_not_changed_by_the_next(kind: str) -> None:
    class Counting(Logging):
        def __init__(self) -> None:
            super().__init__(valid=self.count)
            self.mean = MeanMetric()

        def count(self, module: Any, batch: torch.Tensor) -> None:
            value = torch.tensor(float(self.current_epoch))
            self.mean(value)
            self.log("val_a", self.mean if kind == "metric" else value, batch_size=1)

    log = StageLog("last_scores_valid", stages=("on_valid_end",))
    fit(log, Counting(), ones(1), ones(2), max_epochs=3)
    assert log.at("valid_end") == [{"a": 0.0}, {"a": 1.0}, {"a": 2.0}]


class OwnState(Metric):
    """Hands out its own state."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0))

    def update(self, value: torch.Tensor) -> None:
        self.total += value

    def compute(self) -> torch.Tensor:
        return self.total


def test_a_score_read_late_is_still_that_of_its_moment() -> None:
    class Module(Logging):
        def __init__(self) -> None:
            super().__init__(self.count)
            self.own = OwnState()

        def count(self, module: Any, batch: torch.Tensor) -> None:
            self.own(batch.mean())
            self.log("a", self.own, **EPOCH)

    log = StageLog("last_scores_train", stages=("on_batch_begin",))  # nobody has looked at it before
    fit(log, Module(), ones(2), max_epochs=2)
    assert log.at("batch_begin") == [{}, {}, {"a": 3.0}, {"a": 3.0}]


def test_a_name_that_is_not_logged_in_an_epoch_has_no_score_in_it() -> None:
    def odd(module: Tiny, batch: torch.Tensor) -> None:
        module.log("a", 1.0, **EPOCH)
        if module.current_epoch % 2:
            module.log("odd", 2.0, **EPOCH)

    log = StageLog("last_scores_train", "measures_train", stages=("on_epoch_end",))
    adapter = fit({"log": log, "history": CallbackSetHistory()}, Logging(odd), ones(1), max_epochs=3)
    assert [list(scores) for scores, _ in log.at("epoch_end")] == [["a"], ["a", "odd"], ["a"]]
    assert [list(measures) for _, measures in log.at("epoch_end")] == [["a"], ["a", "odd"], ["a"]]
    assert adapter.states["history"]["train.odd"] == [None, 2.0, None]


def test_a_second_fit_of_another_module_shows_nothing_of_the_first() -> None:
    log = StageLog("last_scores_train", "last_scores_valid", "measures_valid", stages=("on_end",))
    trainer = quiet(max_epochs=1, callbacks=[CallbackSetAdapter(log)])
    trainer.fit(Logging(logs(names=("a",)), logs(names=("b",))), ones(1), ones(1))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(Logging(logs(names=("c",)), logs(names=("d",))), ones(1), ones(1))
    assert [tuple(map(list, row)) for row in log.at("end")] == [(["a"], ["b"], ["b"]), (["c"], ["d"], ["d"])]


@pytest.mark.parametrize("value", [1, 1.5, True, torch.tensor([1.5]), torch.tensor(2.5).double()])
def test_scores_are_floats(value: Any) -> None:
    log = StageLog("last_scores_train", stages=("on_epoch_end",))
    fit(log, Logging(lambda module, batch: module.log("a", value, **EPOCH)), ones(1))
    (scores,) = log.at("epoch_end")
    assert type(scores["a"]) is float
    assert scores == {"a": float(value)}


def test_means_are_weighed_by_the_batch_size() -> None:
    def weighed(module: Tiny, batch: torch.Tensor) -> None:
        module.log("a", batch.mean(), on_step=False, on_epoch=True, batch_size=len(batch))

    log = StageLog("last_scores_train", stages=("on_epoch_end",))
    fit(log, Logging(weighed), Batches([torch.ones(3, 2), torch.full((1, 2), 5.0)]))
    assert log.at("epoch_end") == [{"a": 2.0}]


# --- measures -------------------------------------------------------------------------------------------------------


class Measured(Logging):
    def __init__(self) -> None:
        super().__init__(self.log_both, self.log_both)
        self.measures = torch.nn.ModuleDict({"train_m": BinaryAccuracy(), "val_m": BinaryAccuracy()})

    def log_both(self, module: Any, batch: torch.Tensor) -> None:
        loop = "train" if self.training else "val"
        measure = self.measures[f"{loop}_m"]
        measure(torch.tensor([0.9, 0.2]), torch.tensor([1, 1]))
        self.log(f"{loop}_acc", measure, **EPOCH)
        self.log(f"{loop}_loss", 0.5, **EPOCH)


@pytest.mark.parametrize("sanity", [0, 2])
def test_measures_are_the_metrics_and_none_for_numbers(sanity: int) -> None:
    log = StageLog("measures_train", "measures_valid", stages=("on_begin", "on_batch_end", "on_before_valid", "on_end"))
    module = Measured()
    fit(log, module, ones(1), ones(2), num_sanity_val_steps=sanity)
    train = {"acc": module.measures["train_m"], "loss": None}
    valid = {"acc": module.measures["val_m"], "loss": None}
    at_begin = valid if sanity else {}
    assert log.rows == [
        ("begin", {}, at_begin),
        ("batch_end", {}, at_begin),
        ("before_valid", train, at_begin),
        ("end", train, valid),
    ]
    assert log.at("end")[0][0]["train_acc"] is train["acc"]


def test_the_sanity_check_leaves_no_scores() -> None:
    log = StageLog("last_scores_valid", stages=("on_begin", "on_batch_end"))
    fit(log, Measured(), ones(1), ones(2))
    assert log.rows == [("begin", {}), ("batch_end", {})]


# --- the private parts of Lightning that are read -------------------------------------------------------------------


def test_the_collections_have_what_is_read_of_them() -> None:
    """Fails with the name of what has changed in Lightning; the tests above, with what it does to users."""
    seen: dict[str, dict[str, Any]] = {"train": {}, "valid": {}}

    class Module(Measured):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("train_step", 1.0, on_step=True, on_epoch=False)
            self.log("train_forked", 4.0, on_step=True, on_epoch=True, batch_size=1)
            return super().training_step(batch, batch_idx)

        def on_validation_epoch_end(self) -> None:
            self.log("val_end", 3.0)

    def look(loop: str, ctx: Any) -> None:
        epoch_loop = ctx.trainer.fit_loop.epoch_loop
        results = epoch_loop._results if loop == "train" else epoch_loop.val_loop._results
        for entry in results.values():
            meta = entry.meta
            seen[loop][f"{meta.name}@{meta.fx}"] = (
                (meta.on_step, meta.on_epoch),
                (meta.dataloader_idx, meta.add_dataloader_idx),
                entry.has_reset,
                entry.is_tensor,
                None if entry.is_tensor else entry.value,
                float(entry.compute()) if meta.on_epoch else None,
            )

    module = Module()
    act = Act(on_before_valid=lambda ctx: look("train", ctx), on_valid_end=lambda ctx: look("valid", ctx))
    with pytest.warns(UserWarning, match="'train_step' is logged per step only"):
        fit(act, module, ones(1), [ones(1), ones(1)])
    metrics = module.measures
    assert seen["train"] == {
        "train_step@training_step": ((True, False), (None, True), False, True, None, None),
        "train_forked@training_step": ((True, True), (None, True), False, True, None, 4.0),
        "train_acc@training_step": ((False, True), (None, True), False, False, metrics["train_m"], 0.5),
        "train_loss@training_step": ((False, True), (None, True), False, True, None, 0.5),
    }
    valid = {}
    for loader in (0, 1):  # Lightning marks the hook with the loader as well
        hook, shown = f"validation_step.{loader}", (loader, True)
        valid[f"val_acc@{hook}"] = ((False, True), shown, False, False, metrics["val_m"], 0.5)
        valid[f"val_loss@{hook}"] = ((False, True), shown, False, True, None, 0.5)
    valid["val_end@on_validation_epoch_end"] = ((False, True), (None, True), False, True, None, 3.0)
    assert seen["valid"] == valid


def test_entries_of_an_epoch_before_are_marked_as_reset() -> None:
    seen = []

    def look(ctx: Any) -> None:
        seen.append([entry.has_reset for entry in ctx.trainer.fit_loop.epoch_loop._results.values()])

    fit(Act(on_epoch_begin=look, on_batch_end=look), None, ones(1), max_epochs=2)
    assert seen == [[], [False], [True], [False]]


def test_what_is_logged_at_the_end_of_an_epoch_is_known_by_its_hook() -> None:
    seen = []

    def look(ctx: Any) -> None:
        results = ctx.trainer.fit_loop.epoch_loop._results
        seen.append([(entry.meta.fx, entry.meta.on_epoch) for entry in results.values()])

    with pytest.warns(UserWarning, match="late"):
        fit(Act(on_end=look), Late(), ones(1))
    assert seen == [[("training_step", True), ("on_train_epoch_end", True)]]


@pytest.mark.parametrize("metric", [True, False])
def test_computing_early_changes_nothing_for_lightning(metric: bool) -> None:
    class Module(Logging):
        def __init__(self) -> None:
            super().__init__(self.log_mean)
            self.mean = MeanMetric()

        def log_mean(self, module: Any, batch: torch.Tensor) -> None:
            self.mean(batch)
            self.log("a", self.mean if metric else batch.mean(), **EPOCH)

    def shown(callbacks: list[Any]) -> list[float]:
        trainer = quiet(max_epochs=1, callbacks=callbacks, val_check_interval=1)
        values = []
        for epoch in range(1, 4):
            trainer.fit_loop.max_epochs = epoch
            trainer.fit(Module(), ones(epoch + 1), ones(1))
            values.append(trainer.callback_metrics["a"].item())
        return values

    assert shown([CallbackSetAdapter(StageLog("last_scores_train"))]) == shown([]) == [1.5, 2.0, 2.5]


def test_reading_scores_early_does_not_freeze_a_metric_that_is_logged_once_an_epoch() -> None:
    class LoggedOnce(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.mean = MeanMetric()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.mean.update(batch_idx)
            if batch_idx == 0:
                self.log("train_mean", self.mean, on_step=False, on_epoch=True)
            return self.loss(batch)

    seen: list[float] = []
    act = Act(on_epoch_end=lambda ctx: seen.append(ctx.last_scores_train["mean"]))
    fit(act, LoggedOnce(), ones(4), ones(1), val_check_interval=0.5)
    assert seen == [1.5]


def test_what_is_logged_first_behind_a_validation_is_a_score_of_the_epoch_whoever_reads_it() -> None:
    class LoggedLate(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("train_loss", 1.0, on_step=False, on_epoch=True)
            if batch_idx == 3:
                self.log("train_late", 2.0, on_step=False, on_epoch=True)
            return self.loss(batch)

    def read(ctx: Any) -> None:
        assert list(ctx.last_scores_train) == ["loss"]

    for reads in ({}, {"reads": Act(on_before_valid=read)}):
        adapter = fit({**reads, "history": "history"}, LoggedLate(), ones(4), ones(1), val_check_interval=3)
        assert adapter.states["history"]["train.late"] == [2.0]


def test_a_name_logged_per_step_in_one_hook_and_per_epoch_in_another_is_a_score() -> None:
    class TwoHooks(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("train_both", 1.0, on_step=True, on_epoch=False)
            return self.loss(batch)

        def on_train_batch_end(self, *args: Any) -> None:
            self.log("train_both", 2.0, on_step=False, on_epoch=True)

    log = StageLog("last_scores_train", stages=("on_epoch_end",))
    fit(log, TwoHooks(), ones(2))
    assert [scores["both"] for scores in log.at("epoch_end")] == [2.0]


def r2_of_one_sample_a_batch() -> Tiny:
    def log_r2(module: Any, batch: Any) -> None:
        module.r2.update(module.network(batch).flatten()[:1], torch.ones(1))
        module.log("train_r2", module.r2, on_step=False, on_epoch=True)

    module = Logging(log_r2)
    module.r2 = R2Score()
    return module


def test_a_metric_that_cannot_be_computed_yet_is_no_score() -> None:
    module = r2_of_one_sample_a_batch()
    log = StageLog("last_scores_train", stages=("on_before_valid", "on_epoch_end"))
    with pytest.warns(UserWarning, match="'train_r2' could not be computed, so it is not a score: Needs at least two"):
        fit(log, module, ones(2), ones(1), val_check_interval=1)
    assert [list(scores) for scores in log.at("before_valid")] == [[], ["r2"]]
    assert [list(scores) for scores in log.at("epoch_end")] == [["r2"]]


class Draws(Metric):
    """Draws when it is computed, and counts how often that is."""

    def __init__(self) -> None:
        super().__init__()
        self.computed = 0
        self.add_state("n", torch.tensor(0))

    def update(self) -> None:
        self.n += 1

    def compute(self) -> torch.Tensor:
        self.computed += 1
        return torch.rand(())


@pytest.mark.parametrize("reads", [False, True])
def test_a_metric_is_computed_inside_an_epoch_only_for_who_reads_it_and_changes_no_training(reads: bool) -> None:
    def log_it(module: Any, batch: Any) -> None:
        module.drawing.update()
        module.log("train_drawing", module.drawing, on_step=False, on_epoch=True)

    seen = []
    for callbacks in ([], [CallbackSetAdapter([Act(on_before_valid=lambda ctx: reads and ctx.last_scores_train)])]):
        torch.manual_seed(0)
        module = Logging(log_it)
        module.drawing = Draws()
        quiet(max_epochs=2, val_check_interval=1, callbacks=callbacks).fit(module, ones(3), ones(1))
        seen.append(torch.rand(2).tolist())
    assert seen[0] == seen[1]
    # for Lightning at each end, and for us: at each validation, or at each end
    assert module.drawing.computed == (2 + 6 if reads else 2 + 2)


def test_a_metric_that_cannot_be_computed_fails_the_end_of_the_epoch_and_no_checkpoint(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, "saved", every_n_train_steps=1)
    with pytest.raises(ValueError, match="Needs at least two"):
        fit(StageLog(), r2_of_one_sample_a_batch(), ones(1), native=(save,), enable_checkpointing=True)
    assert (tmp_path / "saved.ckpt").exists()


def test_a_name_is_found_however_it_is_asked_for() -> None:
    scores = Scores({"acc": 0.9, "loss": 0.2}, logged={"val_acc": "acc", "val_loss": "loss"})
    assert scores.get("val_loss") == scores.get("loss") == scores.get(1) == scores["val_loss"] == 0.2
    assert all(name in scores for name in ("loss", "val_loss", 0, -1))
    assert not any(name in scores for name in ("los", 2, None, 0.5, ()))
    assert scores.get("los") is scores.get(2) is None
    assert scores.get("los", 3.0) == 3.0
    assert not any(name in Scores() for name in ("loss", 0))
    del scores["val_acc"]
    assert scores.pop("val_loss") == 0.2
    assert scores.pop("val_loss", None) is None
    assert scores == {}
    assert Scores().get("loss", 3.0) == 3.0
