"""Which score is monitored, and in which direction, by each callback that monitors one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from callbacksets import CallbackSet, CallbackSetAdapter, t_clbk
from tests.helpers import Act, Batches, Tiny, fit, ones, quiet

PAIRS = Batches([(batch, batch) for batch in ones(1).batches])


class Logs(Tiny):
    """Logs what a function of the module returns, in each validation."""

    def __init__(self, scores: Callable[[Any], dict[str, float]]) -> None:
        super().__init__()
        self.scores = scores

    def loss(self, batch: Any) -> Any:
        return super().loss(batch[0] if isinstance(batch, list | tuple) else batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.loss(batch)
        self.log_dict({f"val_{name}": score for name, score in self.scores(self).items()}, batch_size=1)


def other_in_sanity(module: Any) -> dict[str, float]:
    return {"other_loss": 1.0} if module.trainer.sanity_checking else {"acc": 0.1 * module.current_epoch, "loss": 1.0}


MONITORS = {
    "early_stopping": {"patience": 2},
    "lr_reduce_on_plateau": {"patience": 0, "factor": 0.5},
    "predictions": {"keep": "best"},
}
each = pytest.mark.parametrize("key", MONITORS)


def run(key: str, scores: Callable[[Any], dict[str, float]], *others: CallbackSet, **kwargs: Any) -> Any:
    """Fit with one callback that monitors; gives it."""
    names = ("monitor", "mode")
    own = {name: kwargs.pop(name) for name in names if name in kwargs}
    one = t_clbk(key, **MONITORS[key], **own).generate()
    fit([one, *others], Logs(scores), PAIRS, PAIRS, **({"max_epochs": 4} | kwargs))
    return one


def measure(callback: Any) -> str | None:
    return callback._monitor.measure


@each
@pytest.mark.parametrize("sanity", [0, 1])
def test_the_first_validation_decides_not_the_sanity_check(key: str, sanity: int) -> None:
    assert measure(run(key, other_in_sanity, mode="max", num_sanity_val_steps=sanity)) == "acc"
    assert measure(run(key, other_in_sanity, mode="max", monitor="val_acc", num_sanity_val_steps=sanity)) == "acc"


@each
def test_a_direction_that_the_sanity_check_did_not_need_is_no_error(key: str) -> None:
    scores = {True: {"gain": 1.0, "loss": 1.0}, False: {"loss": 1.0}}
    assert measure(run(key, lambda module: scores[module.trainer.sanity_checking])) == "loss"


@each
def test_a_score_that_the_sanity_check_left_out_may_be_first(key: str) -> None:
    def more_later(module: Any) -> dict[str, float]:
        return ({} if module.trainer.sanity_checking else {"acc": 0.1 * module.current_epoch}) | {"loss": 1.0}

    assert measure(run(key, more_later, mode="max")) == "acc"


@each
@pytest.mark.parametrize(
    ("monitor", "at", "message"),
    [
        ("los", "on_begin", "cannot monitor 'los': there is no such validation score. Did you mean 'loss'"),
        ("f1", "on_valid_end", "cannot monitor 'f1': there is no such validation score. There are 'loss'"),
    ],
)
def test_only_a_near_miss_is_refused_before_training(key: str, monitor: str, at: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message) as raised:
        run(key, lambda module: {"loss": 1.0}, monitor=monitor, mode="min")
    assert at in raised.value.__notes__[0]


@each
def test_a_near_miss_that_a_callback_adds_is_none(key: str) -> None:
    def add(ctx: Any) -> None:
        ctx.last_scores_valid["losss"] = 1.0

    adding = Act(on_valid_end=add)
    adding.weight = -2000
    assert measure(run(key, lambda module: {"loss": 1.0}, adding, monitor="losss", mode="min")) == "losss"


@each
def test_the_direction_must_be_known(key: str) -> None:
    for monitor in (None, "acc"):
        with pytest.raises(RuntimeError, match=r"whether a lower or a higher 'acc' is better\. Give mode=") as raised:
            run(key, lambda module: {"acc": 1.0}, monitor=monitor)
        assert "on_begin" in raised.value.__notes__[0]
    with pytest.raises(RuntimeError, match=r"whether a lower or a higher 'acc' is better\. Give mode=") as raised:
        run(key, other_in_sanity)
    assert "on_valid_end" in raised.value.__notes__[0]


@each
def test_a_module_that_logs_no_validation_score(key: str) -> None:
    with pytest.raises(RuntimeError, match="needs a validation score, but the module logs none"):
        run(key, lambda module: {})


@each
def test_a_validation_without_the_score_warns_and_counts_for_nothing(key: str) -> None:
    def sometimes(module: Any) -> dict[str, float]:
        return {"loss": 1.0} if module.current_epoch == 1 else {"other_loss": 9.0 - module.current_epoch}

    with pytest.warns(UserWarning, match=r"'other_loss', but this validation \(epoch 2\) has only 'loss'") as warned:
        one = run(key, sometimes, monitor="other_loss")
    assert len([warning for warning in warned if "this validation" in str(warning.message)]) == 1
    if key == "early_stopping":
        assert (one.best_epochs, one.stagnation) == (4, 0)
    if key == "lr_reduce_on_plateau":
        assert one.scheduler.last_epoch == 3


def resume(path: Path, key: str, then: Callable[[Any], dict[str, float]], **own: Any) -> Any:
    """Fit an epoch in which `loss` comes first, and resume it with another module; gives the callback."""
    again, other = (
        CallbackSetAdapter({"one": t_clbk(key, **MONITORS[key], **o), "rows": "history"}) for o in ({}, own)
    )
    first = quiet(max_epochs=1, callbacks=[again])
    first.fit(Logs(lambda module: {"loss": 1.0, "other_loss": 2.0}), PAIRS, PAIRS)
    first.save_checkpoint(path / "one.ckpt")
    quiet(max_epochs=2, callbacks=[other]).fit(Logs(then), PAIRS, PAIRS, ckpt_path=path / "one.ckpt")
    return other.sets["one"]


@pytest.mark.parametrize("key", ["early_stopping", "lr_reduce_on_plateau"])
@pytest.mark.filterwarnings("ignore:The checkpoint was written after on_exit")
def test_a_resumed_run_stays_with_its_score(key: str, tmp_path: Path) -> None:
    one = resume(tmp_path, key, lambda module: {"other_loss": 0.5, "loss": 3.0})
    assert measure(one) == "loss"
    message = "monitored 'loss' in the resumed run, but monitors 'other_loss' in this one. Resume with monitor='loss'"
    with pytest.raises(RuntimeError, match=message):
        resume(tmp_path, key, lambda module: {"other_loss": 0.5})
    with pytest.raises(RuntimeError, match=message):
        resume(tmp_path, key, lambda module: {"loss": 1.0, "other_loss": 0.5}, monitor="val_other_loss")


def test_early_stopping_loads_a_state_without_all_scores() -> None:
    old = t_clbk("early_stopping", patience=3).generate()
    old.load_state_dict({"best_epochs": 7, "best_score": 0.5, "stagnation": 1, "measure": "loss"})
    assert (old.best_scores, old.measure) == (None, "loss")


def test_a_clone_monitors_for_itself() -> None:
    one = t_clbk("early_stopping", patience=3).generate()
    other = one.clone()
    fit([one], Logs(lambda module: {"loss": 1.0}), PAIRS, PAIRS)
    assert (one.measure, other.measure) == ("loss", None)


def test_plateau_steps_at_every_validation() -> None:
    plateau = t_clbk("lr_reduce_on_plateau", patience=0, factor=0.5).generate()
    rates: list[float] = []
    look = Act(on_batch_begin=lambda ctx: rates.append(ctx.optimizer.param_groups[0]["lr"]))
    module = Logs(lambda module: {"loss": 1.0})
    fit([plateau, look], module, Batches(PAIRS.batches * 6), PAIRS, val_check_interval=2)
    assert rates == pytest.approx([0.01] * 4 + [0.005] * 2)
    assert plateau.scheduler.last_epoch == 3


def test_plateau_sees_what_a_callback_behind_it_adds() -> None:
    def add(ctx: Any) -> None:
        ctx.last_scores_valid["added_loss"] = 1.0

    plateau = t_clbk("lr_reduce_on_plateau", monitor="added_loss").generate()
    fit([plateau, Act(on_valid_end=add)], Logs(lambda module: {"loss": 1.0}), PAIRS, PAIRS)
    assert plateau.scheduler.best == 1.0


def test_plateau_resumed_before_it_knew_its_direction(tmp_path: Path) -> None:
    from torchmetrics.classification import BinaryAccuracy

    class Accurate(Logs):
        def __init__(self) -> None:
            super().__init__(lambda module: {})
            self.accuracy = BinaryAccuracy()

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            if not self.trainer.sanity_checking:
                self.accuracy.update(batch[0].flatten() / 9, batch[0].flatten() > 0)
                self.log("val_acc", self.accuracy)

    def sets() -> dict[str, Any]:
        save = Act(on_epoch_begin=lambda ctx: ctx.epoch == 1 and ctx.trainer.save_checkpoint(tmp_path / "one.ckpt"))
        return {"plateau": t_clbk("lr_reduce_on_plateau"), "save": save}

    fit(sets(), Accurate(), PAIRS, PAIRS)
    again = CallbackSetAdapter(sets())
    quiet(max_epochs=1, callbacks=[again]).fit(Accurate(), PAIRS, PAIRS, ckpt_path=tmp_path / "one.ckpt")
    assert again.sets["plateau"].scheduler.mode == "max"
