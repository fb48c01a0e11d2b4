"""What callbacks add to the scores reaches Lightning: its callbacks, `callback_metrics`, the loggers."""

import csv
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from callbacksets import CallbackSet, CallbackSetAdapter, t_clbk
from callbacksets.fit import reader
from callbacksets.scores import Scores
from tests.helpers import Act, Batches, Tiny, fit, ones, quiet

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


class CallbackSetAUC(CallbackSet):
    """A score of its own from the predictions: it falls from epoch to epoch."""

    def on_valid_end(self) -> None:
        kept = self.ctx.callbacks["predictions"]
        self.ctx.last_scores_valid["auc"] = float(kept.y_hat.abs().mean()) + 1.0


class Pairs(Tiny):
    """Learns from `(x, y)`."""

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return (self.network(x) - y).pow(2).mean()


def pairs(n: int) -> Batches:
    return Batches([[torch.full((2, 2), float(i + 1)), torch.zeros(2, 1)] for i in range(n)])


def seen_by(hook: str, name: str, seen: list[Any]) -> L.Callback:
    look = L.Callback()
    setattr(look, hook, lambda trainer, *args: seen.append(trainer.callback_metrics.get(name)))
    return look


def test_monitored_by_lightnings_own_and_logged(tmp_path: Path) -> None:
    adapter = CallbackSetAdapter(["predictions", CallbackSetAUC(), "history", "grad_norm", "lr_monitor"])
    best = ModelCheckpoint(tmp_path, "{epoch}-{val_auc:.3f}", monitor="val_auc", mode="min", save_top_k=1)
    stops = EarlyStopping("val_auc", patience=1, mode="max")
    logger = CSVLogger(tmp_path / "logs")
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=10,
        callbacks=[adapter, stops, best],
        logger=logger,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    torch.manual_seed(0)
    trainer.fit(Pairs(), pairs(3), pairs(2))
    history = adapter.states["history"]
    assert trainer.current_epoch == len(history["epoch"]) < 10  # stopped by Lightning's own
    assert best.best_model_score == pytest.approx(min(history["valid.auc"]))
    assert trainer.callback_metrics["val_auc"].item() == pytest.approx(history["valid.auc"][-1])
    assert {"train.grad_norm", "train.lr"} <= set(history)
    with open(Path(logger.log_dir) / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name, column in (("val_auc", "valid.auc"), ("train_grad_norm", "train.grad_norm"), ("train_lr", "train.lr")):
        logged = [(int(row["epoch"]), int(row["step"]), float(row[name])) for row in rows if row[name]]
        assert [epoch for epoch, *_ in logged] == [epoch - 1 for epoch in history["epoch"]]
        assert [value for *_, value in logged] == pytest.approx(history[column])
        own = [int(row["step"]) for row in rows if row["val_loss"]]
        assert [step for _, step, _ in logged] == own  # as Lightning logs its own of that epoch


def test_there_before_callbacks_behind_the_adapter_look() -> None:
    seen: dict[str, list[Any]] = {"val_mine": [], "train_mine": []}
    adapter = CallbackSetAdapter(
        Act(
            on_before_valid=lambda ctx: ctx.last_scores_train.update(mine=float(ctx.epoch)),
            on_valid_end=lambda ctx: ctx.last_scores_valid.update(mine=2.0 * ctx.epoch),
        )
    )
    behind = [
        seen_by("on_validation_end", "val_mine", seen["val_mine"]),
        seen_by("on_train_epoch_end", "train_mine", seen["train_mine"]),
    ]
    trainer = quiet(max_epochs=2, callbacks=[adapter, *behind], num_sanity_val_steps=0)
    trainer.fit(Tiny(), ones(1), ones(1))
    assert [value.item() for value in seen["val_mine"]] == [2.0, 4.0]
    assert [value.item() for value in seen["train_mine"]] == [1.0, 2.0]


def test_without_an_added_score_nothing_is() -> None:
    metrics = []
    for callbacks in ([], [CallbackSetAdapter(["history", t_clbk("early_stopping", patience=9)])]):
        torch.manual_seed(0)
        trainer = quiet(max_epochs=2, callbacks=callbacks)
        trainer.fit(Tiny(), ones(1), ones(1))
        metrics.append({name: value.item() for name, value in trainer.callback_metrics.items()})
    assert metrics[0] == metrics[1]


def test_a_name_that_the_module_logs_is_its_own_and_it_is_said_once() -> None:
    class Clashing(Tiny):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)
            self.log("train_extra", 5.0)

    add = Act(on_before_valid=lambda ctx: ctx.last_scores_train.update(extra=1.0))
    seen: list[Any] = []
    look = seen_by("on_validation_start", "train_extra", seen)
    trainer = quiet(max_epochs=3, callbacks=[CallbackSetAdapter(add), look])
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        trainer.fit(Clashing(), ones(1), ones(1))
    assert [value.item() for value in seen[-2:]] == [5.0, 5.0]  # after the first epoch, the name is known to be taken
    said = [str(one.message) for one in record if "itself, so Lightning does not get" in str(one.message)]
    assert len(said) == 1
    assert trainer.callback_metrics["train_extra"].item() == 5.0


def test_a_prefixed_name_is_not_prefixed_twice() -> None:
    trainer = quiet(
        max_epochs=1,
        callbacks=[CallbackSetAdapter(Act(on_valid_end=lambda ctx: ctx.last_scores_valid.update(val_f1=0.5)))],
    )
    trainer.fit(Tiny(), ones(1), ones(1))
    assert "val_f1" in trainer.callback_metrics
    assert "val_val_f1" not in trainer.callback_metrics


def test_a_resumed_run_publishes_on(tmp_path: Path) -> None:
    def run(ckpt: Path | None, epochs: int) -> Any:
        add = Act(on_valid_end=lambda ctx: ctx.last_scores_valid.update(mine=float(ctx.epoch)))
        best = ModelCheckpoint(tmp_path, "{epoch}", monitor="val_mine", mode="max", save_top_k=-1)
        trainer = quiet(max_epochs=epochs, callbacks=[CallbackSetAdapter(add), best], enable_checkpointing=True)
        trainer.fit(Tiny(), ones(1), ones(1), ckpt_path=ckpt)
        return best.best_model_score.item(), trainer.callback_metrics["val_mine"].item()

    assert run(None, 2) == (2.0, 2.0)
    assert run(tmp_path / "epoch=1.ckpt", 4) == (4.0, 4.0)


def test_scores_are_not_read_off_the_device_where_nothing_was_added(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(self: reader.Reading) -> Scores:
        read.append(1)
        return Scores({name: value.item() for name, value in self.values.items()}, logged=self.logged)

    read: list[int] = []
    monkeypatch.setattr(reader.Reading, "scores", property(count))
    before_the_end = []
    fit(Act(on_end=lambda ctx: before_the_end.append(len(read))), None, ones(1), ones(1), max_epochs=3)
    assert before_the_end == [0]


def test_a_score_that_is_changed_at_the_end_of_the_epoch_is_published_again() -> None:
    """After a validation inside the epoch, `grad_norm` is complete only then."""
    history, seen = t_clbk("history").generate(), []
    look = LambdaCallback(on_train_end=lambda trainer, module: seen.append(dict(trainer.callback_metrics)))
    fit(["grad_norm", history], None, ones(5), ones(1), val_check_interval=2, native=(look,))
    assert [float(seen[0]["train_grad_norm"])] == pytest.approx(history.state_dict()["train.grad_norm"])


def test_two_scores_that_become_one_are_warned_of() -> None:
    add = Act(on_before_valid=lambda ctx: ctx.last_scores_train.update(x=1.0, train_x=2.0))
    with pytest.warns(UserWarning, match=r"The scores 'x', 'train_x' of callbacks become 'train_x' for Lightning\."):
        fit(add)


def test_a_score_that_is_set_at_the_end_of_each_epoch_is_logged_in_each_whatever_its_value(tmp_path: Path) -> None:
    def set_score(ctx: Any) -> None:
        ctx.last_scores_train["n"] = 3.0

    class Keeps(CSVLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if "train_n" in metrics:
                logged.append((step, metrics["train_n"]))

    logged: list[Any] = []
    fit(Act(on_epoch_end=set_score), None, ones(2), max_epochs=3, logger=Keeps(tmp_path))
    assert logged == [(1, 3.0), (3, 3.0), (5, 3.0)]
    logged.clear()
    fit(Act(on_before_valid=set_score), None, ones(2), max_epochs=3, logger=Keeps(tmp_path))
    assert logged == [(1, 3.0), (3, 3.0), (5, 3.0)]
