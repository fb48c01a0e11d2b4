"""The bridge: which stage runs when, how training is stopped, and what every way of running a Trainer shows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback, StochasticWeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from packaging.version import Version
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory
from callbacksets.base import STAGES
from tests.helpers import Act, Adam, Batches, Endless, StageLog, Tiny, fit, gradient_norms, ones, quiet

BATCH = ["batch_begin", "after_backward", "batch_end"]
VALID_BATCH = ["batch_valid_begin", "batch_valid_end"]
VALID = ["before_valid", *VALID_BATCH, "valid_end"]


def stop(ctx: Any) -> None:
    ctx.terminate = True


# --- the order of the stages --------------------------------------------------------------------------------------


def test_every_stage_in_order() -> None:
    log = StageLog()
    fit(log, None, ones(2), ones(2), max_epochs=2)
    epoch = ["epoch_begin", *BATCH, *BATCH, "before_valid", *VALID_BATCH, *VALID_BATCH, "valid_end", "epoch_end"]
    assert log.rows == ["begin", *epoch, *epoch, "end", "exit"]


def test_without_validation_before_valid_runs_just_before_epoch_end() -> None:
    log = StageLog()
    fit(log)
    assert log.rows == ["begin", "epoch_begin", *BATCH, *BATCH, "before_valid", "epoch_end", "end", "exit"]


def test_within_a_stage_by_weight_and_ties_as_given() -> None:
    order: list[tuple[str, str]] = []
    sets = {}
    for id, weight in {"late": 1, "tie_a": 0, "tie_b": 0, "last": float("inf"), "first": -2.5}.items():
        sets[id] = Act(**{stage: lambda ctx, stage=stage, id=id: order.append((stage, id)) for stage in STAGES})
        sets[id].weight = weight
    adapter = fit(sets, None, ones(1), ones(1))
    ids = ["first", "tie_a", "tie_b", "late", "last"]
    assert order == [(stage, id) for stage in STAGES for id in ids]
    assert list(adapter.sets) == ids


def test_a_weight_changed_between_fits_counts_for_the_next() -> None:
    a, b = StageLog(), StageLog()
    adapter = fit({"a": a, "b": b})
    a.weight = 1
    fit(adapter)
    assert list(adapter.sets) == ["b", "a"]


def test_lightning_says_that_a_modules_adapter_takes_the_place_of_the_trainers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class WithAdapter(Tiny):
        def configure_callbacks(self) -> CallbackSetAdapter:
            return CallbackSetAdapter({"modules": modules})

    modules, trainers = StageLog(), StageLog()
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit({"trainers": trainers}, WithAdapter())
    assert "will override existing callbacks passed to Trainer: CallbackSetAdapter" in caplog.text
    assert (modules.rows[-1], trainers.rows) == ("exit", [])


def test_history_before_a_callback_behind_it_and_natives_before_the_adapter() -> None:
    order = []

    class Native(L.Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            order.append("native")

    fit(Act(on_epoch_end=lambda ctx: order.append("ours")), native=(Native(),))
    assert order == ["native", "ours"]


# --- ctx.terminate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "epochs"),
    [("on_begin", 0), *((stage, 2) for stage in STAGES[1:-2]), ("on_end", 3), ("on_exit", 3)],
)
def test_terminate_in_each_stage_ends_the_epoch_whole(stage: str, epochs: int) -> None:
    log = StageLog()
    act = Act(**{stage: lambda ctx: stop(ctx) if ctx.epoch in (0, 2, 3) else None})
    adapter = fit({"log": log, "act": act}, None, ones(2), ones(1), max_epochs=3)
    assert log.rows == ["begin", *(["epoch_begin", *BATCH * 2, *VALID, "epoch_end"] * epochs), "end", "exit"]
    if stage in ("on_end", "on_exit"):
        assert adapter.stopped_by is None
    else:
        who = adapter.stopped_by
        assert (who.callback, who.stage, who.epoch) == ("act", stage, epochs)
        assert str(who) == f"callback 'act' set ctx.terminate in {stage}, epoch {epochs} was the last"


def test_terminate_can_be_taken_back_and_is_false_at_every_fit() -> None:
    log = StageLog("terminate", stages=("on_begin", "on_epoch_end"))
    act = Act(on_batch_end=lambda ctx: setattr(ctx, "terminate", ctx.step == 1))
    adapter = fit({"act": act, "log": log}, max_epochs=2)
    assert adapter.stopped_by is None
    adapter = CallbackSetAdapter({"act": Act(on_end=stop, on_epoch_end=stop), "log": log})
    fit(adapter, max_epochs=2)
    fit(adapter, max_epochs=2)
    assert log.at("begin") == [False] * 3
    assert log.at("epoch_end") == [False, False, True, True]
    assert adapter.stopped_by.callback == "act"


def test_the_last_to_set_terminate_is_who_stopped() -> None:
    sets = {
        "first": Act(on_batch_begin=stop),
        "regrets": Act(on_batch_end=lambda ctx: setattr(ctx, "terminate", False)),
        "second": Act(on_before_valid=stop, on_epoch_end=stop),
        "third": Act(on_before_valid=stop),
    }
    assert str(fit(sets, max_epochs=2).stopped_by) == (
        "callback 'second' set ctx.terminate in on_before_valid, epoch 1 was the last"
    )


def test_stopped_by_something_outside_of_the_callbacks() -> None:
    class Native(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            adapter.ctx.terminate = True

    adapter = CallbackSetAdapter(StageLog())
    fit(adapter, native=(Native(),), max_epochs=2)
    assert adapter.stopped_by.callback is None
    assert str(adapter.stopped_by).endswith("epoch 1 was the last")


@pytest.mark.parametrize(
    ("kwargs", "epochs"),
    [
        ({"min_epochs": 3}, 3),
        ({"min_epochs": 1}, 1),
        ({"min_steps": 5}, 3),  # met inside of the third epoch
        ({"min_steps": 4}, 2),
        ({"min_epochs": 2, "min_steps": 7}, 4),
        ({"min_epochs": 9}, 5),
    ],
)
@pytest.mark.parametrize("stage", ["on_begin", "on_batch_end", "on_epoch_end"])
def test_min_epochs_and_min_steps_cut_no_epoch(kwargs: dict[str, int], epochs: int, stage: str) -> None:
    log = StageLog()
    adapter = fit({"log": log, "act": Act(**{stage: stop})}, None, ones(2), ones(1), max_epochs=5, **kwargs)
    assert log.rows == ["begin", *(["epoch_begin", *BATCH * 2, *VALID, "epoch_end"] * epochs), "end", "exit"]
    assert (adapter.stopped_by is None) == (epochs == 5)


def test_terminate_at_validation_stops_inside_the_epoch() -> None:
    log = StageLog()
    adapter = fit(
        {"log": log, "act": Act(on_batch_begin=stop)},
        None,
        ones(6),
        ones(1),
        adapter={"terminate_at": "validation"},
        val_check_interval=2,
        max_epochs=3,
    )
    assert log.rows == ["begin", "epoch_begin", *BATCH * 2, *VALID, "epoch_end", "end", "exit"]
    assert (adapter.stopped_by.stage, adapter.stopped_by.epoch) == ("on_batch_begin", 1)


def test_terminate_at_epoch_trains_it_to_its_end() -> None:
    log = StageLog()
    fit({"log": log, "act": Act(on_valid_end=stop)}, None, ones(6), ones(1), val_check_interval=2, max_epochs=3)
    assert log.rows == ["begin", "epoch_begin", *(BATCH * 2 + VALID) * 3, "epoch_end", "end", "exit"]


def test_terminate_at_validation_respects_min_steps() -> None:
    log = StageLog("global_step", stages=("on_end",))
    kwargs = {"val_check_interval": 2, "max_epochs": 3, "min_steps": 9}
    fit(
        {"log": log, "act": Act(on_begin=stop)},
        None,
        ones(8),
        ones(1),
        adapter={"terminate_at": "validation"},
        **kwargs,
    )
    assert log.at("end") == [10]


def test_one_endless_epoch_counted_in_steps() -> None:
    kwargs = {"max_epochs": None, "max_steps": 50, "val_check_interval": 3, "limit_val_batches": 1}
    log = StageLog("epoch", "step", "total_epochs", "total_steps", "loader_train", stages=("on_epoch_end",))
    loader = Endless()
    fit(log, None, loader, ones(1), **(kwargs | {"max_steps": 7}))
    assert log.rows == [("epoch_end", 1, 7, None, 7, loader)]
    log = StageLog("global_step", stages=("on_valid_end", "on_epoch_end"))
    sets = {"log": log, "act": Act(on_valid_end=lambda ctx: stop(ctx) if ctx.step >= 6 else None)}
    fit(sets, None, Endless(), ones(1), adapter={"terminate_at": "validation"}, **kwargs)
    assert log.rows == [("valid_end", 3), ("valid_end", 6), ("epoch_end", 6)]


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_terminate_takes_true_and_false_only(value: object) -> None:
    with pytest.raises(TypeError, match=r"Expected ctx\.terminate to be True or False"):
        fit(Act(on_begin=lambda ctx: setattr(ctx, "terminate", value)))


def test_a_stop_that_min_epochs_puts_off_survives_a_resume(tmp_path: Path) -> None:
    def at_first(ctx: Any) -> None:
        ctx.terminate = ctx.terminate or ctx.epoch == 1

    def save(ctx: Any) -> None:
        if ctx.epoch == 2:
            ctx.trainer.save_checkpoint(tmp_path / "two.ckpt")

    whole = fit([Act(on_epoch_end=at_first), "history"], max_epochs=6, min_epochs=3)
    assert whole.states["history"]["epoch"] == [1, 2, 3]
    saver = Act(on_epoch_end=save)
    saver.weight = 1
    fit(
        {"act": Act(on_epoch_end=at_first), "history": CallbackSetHistory(), "saver": saver}, max_epochs=3, min_epochs=3
    )
    adapter = CallbackSetAdapter({"act": Act(), "history": CallbackSetHistory()})
    trainer = quiet(callbacks=[adapter], max_epochs=6, min_epochs=3)
    trainer.fit(Tiny(), ones(2), ckpt_path=tmp_path / "two.ckpt")
    assert adapter.states["history"]["epoch"] == [1, 2, 3]


# --- when no stage runs, and several fits ---------------------------------------------------------------------------


def test_no_stage_outside_of_fits() -> None:
    log = StageLog()
    adapter = CallbackSetAdapter(log)
    trainer, module = quiet(max_epochs=1, callbacks=[adapter]), Tiny()
    module.test_step, module.predict_step = module.validation_step, lambda batch, batch_idx: module.network(batch)
    once = ["begin", "epoch_begin", *BATCH, *VALID, "epoch_end", "end", "exit"]
    for fits in range(3):
        for run in (trainer.validate, trainer.test):
            run(module, ones(2), verbose=False)
        trainer.predict(module, ones(1))
        assert log.rows == once * fits
        assert log.ctx is None
        assert adapter.ctx is None
        trainer.fit_loop.max_epochs = fits + 1
        trainer.fit(module, ones(1), ones(1))


def test_no_stage_in_the_sanity_check() -> None:
    log = StageLog("step_valid")
    fit(log, None, ones(1), ones(4), num_sanity_val_steps=-1, check_val_every_n_epoch=2)
    assert "batch_valid_begin" not in [row[0] for row in log.rows]
    assert log.at("begin") == [None]


def test_no_stage_in_validate_after_a_fit_that_another_callback_abandoned() -> None:
    class Native(L.Callback):
        def on_exception(self, *args: Any) -> None:
            raise ValueError("on_exception of another callback")

    log = StageLog()
    act = Act(on_batch_end=lambda ctx: 1 / 0)
    trainer = quiet(max_epochs=1, callbacks=[Native(), CallbackSetAdapter({"log": log, "act": act})])
    module = Tiny()
    with pytest.raises(ValueError, match="another"):
        trainer.fit(module, ones(1), ones(1))
    trainer.validate(module, ones(1), verbose=False)
    assert log.rows == ["begin", "epoch_begin", *BATCH, "exit"]


def test_another_trainer_with_the_same_callbacks_may_look_but_not_train_within_a_fit() -> None:
    def look(trainer: L.Trainer, module: Any) -> None:
        if trainer.sanity_checking:
            return
        quiet(callbacks=trainer.callbacks[1:]).validate(Tiny(), ones(1), verbose=False)
        with pytest.raises(RuntimeError, match="This adapter is already in the fit of another Trainer"):
            quiet(callbacks=trainer.callbacks[1:], max_epochs=1).fit(Tiny(), ones(1))

    log = StageLog()
    fit(log, None, ones(1), ones(1), native=(LambdaCallback(on_validation_start=look),))
    assert log.rows == ["begin", "epoch_begin", *BATCH, *VALID, "epoch_end", "end", "exit"]


def test_several_fits_of_one_adapter_start_clean() -> None:
    fields = ("epoch", "step", "global_step", "last_loss", "batch", "optimizer", "last_scores_valid", "resumed")
    log = StageLog(*fields, stages=("on_begin",))
    adapter = CallbackSetAdapter({"log": log, "history": CallbackSetHistory()})
    for _ in range(2):
        fit(adapter, None, ones(2), ones(1), max_epochs=2)
        assert adapter.states["history"]["epoch"] == [1, 2]
    first, second = ([*row[:5], *row[6:]] for row in log.at("begin"))
    assert first == second == [0, None, 0, None, None, {}, False]


def test_the_same_trainer_goes_on_counting() -> None:
    log = StageLog("epoch", "global_step", "total_steps")
    adapter = CallbackSetAdapter(log)
    trainer, module = quiet(max_epochs=1, callbacks=[adapter]), Tiny()
    trainer.fit(module, ones(2))
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, ones(2))
    assert log.at("begin") == [(0, 0, 2), (1, 2, 6)]
    assert log.at("batch_end") == [(1, 1, 2), (1, 2, 2), (2, 3, 6), (2, 4, 6), (3, 5, 6), (3, 6, 6)]
    assert log.at("end") == [(1, 2, 2), (3, 6, 6)]


def test_classes_are_made_anew_for_every_fit_and_instances_are_used_as_they_are() -> None:
    instance = StageLog()
    adapter = fit({"cls": CallbackSetHistory, "instance": instance})
    first = adapter.sets
    fit(adapter)
    assert adapter.sets["instance"] is first["instance"] is instance
    assert adapter.sets["cls"] is not first["cls"]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"max_epochs": 0},
        {"max_steps": 0},
        {"limit_train_batches": 0},
    ],
    ids=str,
)
def test_a_fit_that_trains_nothing(kwargs: dict[str, Any]) -> None:
    log = StageLog("epoch", "global_step", "total_steps")
    adapter = fit({"log": log, "history": CallbackSetHistory()}, None, ones(2), ones(1), **kwargs)
    assert [row[0] for row in log.rows] == ["begin", "end", "exit"]
    assert log.at("begin") == [(0, 0, 0)]
    assert adapter.states == {"history": {"epoch": []}}


def test_a_finished_run_resumed(tmp_path: Any) -> None:
    log = StageLog("epoch", "global_step", "resumed")
    adapter = CallbackSetAdapter({"log": log, "history": CallbackSetHistory()})
    trainer = quiet(max_epochs=2, callbacks=[adapter])
    trainer.fit(Tiny(), ones(2))
    trainer.save_checkpoint(tmp_path / "done.ckpt")
    states = adapter.states
    log.rows.clear()
    quiet(max_epochs=2, callbacks=[adapter]).fit(Tiny(), ones(2), ckpt_path=tmp_path / "done.ckpt")
    assert log.rows == [("begin", 2, 4, True), ("end", 2, 4, True), ("exit", 2, 4, True)]
    assert adapter.states == states


# --- loops ----------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """What a fit of 2 epochs of 3 batches with 2 validation batches shows: (epoch, step, global_step) by stage."""

    kwargs: dict[str, Any]
    batch_end: list[tuple[int, int, int]]
    valid_end: list[tuple[int, int, int]]
    total: tuple[int | None, int | None]
    loaders: Callable[[], tuple[Any, ...]] = lambda: (ones(3), ones(2))
    step_valid: int = 2
    before_valid: list[tuple[int, int, int]] | None = None  # where other than the validations


class Stream(IterableDataset[torch.Tensor]):
    """Rows that come one by one, nobody knows how many."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.ones(self.n, 2))


def counted(*epochs: int) -> list[tuple[int, int, int]]:
    """(epoch, step, global_step) of epochs of so many batches."""
    rows: list[tuple[int, int, int]] = []
    for epoch, n in enumerate(epochs, 1):
        rows += [(epoch, step, len(rows) + step) for step in range(1, n + 1)]
    return rows


LOOPS = {
    "plain": Case({}, counted(3, 3), [(1, 3, 3), (2, 3, 6)], (2, 6)),
    "limits": Case(
        {"limit_train_batches": 2, "limit_val_batches": 1},
        counted(2, 2),
        [(1, 2, 2), (2, 2, 4)],
        (2, 4),
        step_valid=1,
    ),
    "limit fraction": Case({"limit_train_batches": 0.67}, counted(2, 2), [(1, 2, 2), (2, 2, 4)], (2, 4)),
    "no validation": Case({"limit_val_batches": 0}, counted(3, 3), [], (2, 6), before_valid=[(1, 3, 3), (2, 3, 6)]),
    "fast_dev_run": Case({"fast_dev_run": 2}, counted(2), [(1, 2, 2)], (1, 2)),
    "max_steps in an epoch": Case(
        {"max_steps": 4}, counted(3, 1), [(1, 3, 3)], (2, 4), before_valid=[(1, 3, 3), (2, 1, 4)]
    ),
    "max_steps alone": Case(
        {"max_steps": 4, "max_epochs": -1}, counted(3, 1), [(1, 3, 3)], (None, 4), before_valid=[(1, 3, 3), (2, 1, 4)]
    ),
    "every second epoch": Case(
        {"check_val_every_n_epoch": 2}, counted(3, 3), [(2, 3, 6)], (2, 6), before_valid=[(1, 3, 3), (2, 3, 6)]
    ),
    "by batches over epochs": Case(
        {"check_val_every_n_epoch": None, "val_check_interval": 4},
        counted(3, 3),
        [(2, 1, 4)],
        (2, 6),
        before_valid=[(1, 3, 3), (2, 1, 4)],
    ),
    "interval fraction": Case(
        {"val_check_interval": 0.34},
        counted(3, 3),
        [(epoch, step, step + 3 * epoch - 3) for epoch in (1, 2) for step in (1, 2, 3)],
        (2, 6),
    ),
    "interval int": Case({"val_check_interval": 2}, counted(3, 3), [(1, 2, 2), (2, 2, 5)], (2, 6)),
    "accumulating": Case({"accumulate_grad_batches": 2}, counted(3, 3), [(1, 3, 3), (2, 3, 6)], (2, 6)),
    "accumulating, max_steps": Case(
        {"accumulate_grad_batches": 2, "max_steps": 3},
        counted(3, 2),
        [(1, 3, 3)],
        (2, 5),
        before_valid=[(1, 3, 3), (2, 2, 5)],
    ),
    "an IterableDataset": Case(
        {},
        counted(3, 3),
        [(1, 3, 3), (2, 3, 6)],
        (2, None),
        lambda: (DataLoader(Stream(6), batch_size=2), DataLoader(Stream(4), batch_size=2)),
    ),
    "without a length": Case({}, counted(3, 3), [(1, 3, 3), (2, 3, 6)], (2, None), lambda: (Endless(3), Endless(2))),
    "without a length, max_steps": Case(
        {"max_steps": 5},
        counted(3, 2),
        [(1, 3, 3)],
        (2, None),  # which of the limits ends the run is unknown
        lambda: (Endless(3), ones(2)),
        before_valid=[(1, 3, 3), (2, 2, 5)],
    ),
    "without a length, limited": Case(
        {"limit_train_batches": 2}, counted(2, 2), [(1, 2, 2), (2, 2, 4)], (2, 4), lambda: (Endless(3), ones(2))
    ),
    "several validation loaders": Case(
        {}, counted(3, 3), [(1, 3, 3), (2, 3, 6)], (2, 6), lambda: (ones(3), [ones(1), ones(2)])
    ),
}


@pytest.mark.parametrize("case", LOOPS.values(), ids=LOOPS)
def test_loops(case: Case) -> None:
    log = StageLog("epoch", "step", "global_step")
    rest = StageLog("total_epochs", "total_steps", "step_valid", "eval_freq", stages=("on_begin", "on_end"))
    fit({"log": log, "rest": rest}, None, *case.loaders(), **({"max_epochs": 2} | case.kwargs))
    assert log.at("batch_begin") == log.at("batch_end") == case.batch_end
    assert log.at("valid_end") == case.valid_end
    assert log.at("before_valid") == (case.valid_end if case.before_valid is None else case.before_valid)
    last = {epoch: (epoch, step, steps) for epoch, step, steps in case.batch_end}
    assert log.at("epoch_end") == list(last.values())
    assert log.at("epoch_begin") == [
        (epoch, *before) for epoch, before in enumerate([(None, 0), *[row[1:] for row in last.values()]][:-1], 1)
    ]
    assert log.at("end") == log.at("exit") == [case.batch_end[-1]]
    assert [row[:2] for row in rest.at("end")] == [case.total]
    assert rest.at("end")[0][2:] == (
        case.step_valid if case.valid_end else None,
        case.kwargs.get("check_val_every_n_epoch", 1),
    )


def test_overfit_batches() -> None:
    log = StageLog("global_step", "total_steps")
    fit(log, None, DataLoader(torch.ones(8, 2), batch_size=2), DataLoader(torch.ones(4, 2)), overfit_batches=2)
    assert log.at("batch_end") == [(1, 2), (2, 2)]
    assert len(log.at("batch_valid_end")) == 2


def test_reloaded_dataloaders_are_those_of_ctx() -> None:
    class Reloading(Tiny):
        def train_dataloader(self) -> Batches:
            return ones(self.current_epoch + 1)

    log = StageLog("loader_train", "step")
    trainer = quiet(max_epochs=3, callbacks=[CallbackSetAdapter(log)], reload_dataloaders_every_n_epochs=1)
    trainer.fit(Reloading())
    assert [(len(loader), step) for loader, step in log.at("epoch_end")] == [(1, 1), (2, 2), (3, 3)]


class Losses(Tiny):
    """Keeps the losses as training_step() returned them."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss


@pytest.mark.parametrize("window", [1, 2, 3, 4, 7])
def test_accumulation(window: int) -> None:
    torch.manual_seed(0)
    batches = [torch.randn(2, 2) for _ in range(200)]
    module = Losses()
    seen: list[float] = []
    grads: list[tuple[int, torch.Tensor]] = []
    act = Act(
        on_batch_end=lambda ctx: seen.append(ctx.last_loss),
        on_after_backward=lambda ctx: grads.append((ctx.step, ctx.network.weight.grad.clone())),
    )
    weights = [module.network.weight.detach().clone()]

    class Weights(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            weights.append(module.network.weight.detach().clone())

    fit(act, module, Batches(batches), native=(Weights(),), accumulate_grad_batches=window)
    assert seen == module.losses  # to the last bit
    assert [step for step, _ in grads] == [*range(window, 200, window), 200]  # the last window may be short
    for step, grad in grads:  # the whole gradient is that of the step
        torch.testing.assert_close(weights[step], weights[step - 1] - 0.01 * grad)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")  # on purpose
def test_after_backward_runs_where_the_optimizer_steps_on_gradients() -> None:
    class Sometimes(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx in (1, 4, 5) else super().training_step(batch, batch_idx)

    log = StageLog("step", stages=("on_after_backward",))
    fit(log, Sometimes(), ones(6), accumulate_grad_batches=2)
    assert log.at("after_backward") == [2, 4]  # in the second batch the gradients of the first, in the sixth none


# --- data -----------------------------------------------------------------------------------------------------------


@dataclass
class Pair:
    x: torch.Tensor
    y: torch.Tensor


x, y = torch.ones(2, 2), torch.zeros(2, 1)
KINDS = {
    "tensor": (x, lambda batch: batch),
    "tuple": ((x, y), lambda batch: batch[0]),
    "list": ([x, y], lambda batch: batch[0]),
    "dict": ({"x": x, "y": y}, lambda batch: batch["x"]),
    "dataclass": (Pair(x, y), lambda batch: batch.x),
    "nested": ({"in": [x, (x, y)], "n": 3}, lambda batch: batch["in"][0]),
}


class Picking(Tiny):
    def __init__(self, pick: Callable[[Any], torch.Tensor]) -> None:
        super().__init__()
        self.pick = pick

    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(self.pick(batch))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_come_in_the_loaders_own_form(kind: str) -> None:
    batch, pick = KINDS[kind]
    log = StageLog("batch", "y_hat", stages=("on_after_backward", "on_batch_end", "on_batch_valid_end"))
    fit(log, Picking(pick), Batches([batch]), Batches([batch]))
    assert len(log.rows) == 3
    for _, seen, y_hat in log.rows:
        assert type(seen) is type(batch)
        assert torch.equal(pick(seen), x)
        assert y_hat.shape == (2, 1)


@pytest.mark.parametrize(
    ("loaders", "pick"),
    [
        ({"a": ones(3), "b": ones(2)}, lambda batch: batch["a"] if isinstance(batch, dict) else batch),
        ([ones(3), ones(2)], lambda batch: batch[0] if isinstance(batch, list) else batch),
    ],
    ids=["dict", "list"],
)
def test_several_training_loaders(loaders: Any, pick: Any) -> None:
    log = StageLog("step", "batch", "total_steps", "loader_train")
    fit(log, Picking(pick), loaders, ones(1))
    assert [row[0] for row in log.at("batch_end")] == [1, 2, 3]
    _, batch, total, shown = log.at("batch_end")[-1]
    assert type(batch) is type(shown) is type(loaders)
    assert total == 3


def test_several_validation_loaders() -> None:
    log = StageLog("step_valid", "batch")
    fit(log, None, ones(1), [ones(2), ones(1)])
    assert [(step, batch[0, 0].item()) for step, batch in log.at("batch_valid_begin")] == [(1, 1), (2, 2), (1, 1)]


def test_a_datamodule() -> None:
    class Data(L.LightningDataModule):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(x)

        def val_dataloader(self) -> DataLoader:
            return DataLoader(y)

    log = StageLog("task_train", "task_valid")
    trainer = quiet(max_epochs=1, callbacks=[CallbackSetAdapter(log)])
    trainer.fit(Picking(lambda batch: batch.new_ones(2, 2)), datamodule=Data())
    assert log.at("begin") == [(x, y)]


@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")
def test_a_none_batch_runs_neither_batch_stage() -> None:
    log = StageLog("step", "global_step")
    batch = torch.ones(2, 2)
    fit(log, None, Batches([None, batch, None, batch]), max_epochs=2)
    assert log.at("batch_begin") == log.at("after_backward") == log.at("batch_end") == [(2, 2), (4, 4), (2, 6), (4, 8)]


@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")
def test_another_callback_sees_a_none_batch_counted() -> None:
    adapter = CallbackSetAdapter(CallbackSet())
    seen: list[int] = []
    look = LambdaCallback(on_train_batch_end=lambda *args: seen.append(adapter.ctx.global_step))
    quiet(max_epochs=1, callbacks=[adapter, look]).fit(Tiny(), Batches([None, torch.ones(2, 2), None]))
    assert seen == [1, 2, 3]


def test_minus_one_of_the_modules_hook_leaves_batch_begin_without_its_end() -> None:
    class Skipping(Tiny):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 1 else None

    log = StageLog()
    fit(log, Skipping(), ones(3), ones(1), max_epochs=2)
    # Lightning does not validate in such an epoch
    epoch = ["epoch_begin", *BATCH, "batch_begin", "before_valid", "epoch_end"]
    assert log.rows == ["begin", *epoch, *epoch, "end", "exit"]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")  # on purpose
def test_a_training_step_that_returns_none() -> None:
    class Sometimes(Losses):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx % 2 == 0 else super().training_step(batch, batch_idx)

    module = Sometimes()
    log = StageLog("step", "last_loss")
    fit(log, module, ones(4))
    assert [step for step, _ in log.at("after_backward")] == [2, 4]
    a, b = module.losses
    assert log.at("batch_end") == [(1, None), (2, a), (3, a), (4, b)]  # the loss is that of the last batch with one
    assert [loss for _, loss in log.at("after_backward")] == [None, a]


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")  # on purpose
def test_validation_with_the_dataloader_iter() -> None:
    class Iterating(Tiny):
        def validation_step(self, dataloader_iter: Any) -> None:
            batch, *_ = next(dataloader_iter)
            self.log("val_loss", self.loss(batch), batch_size=1)

    log = StageLog("step_valid", "batch", stages=("on_batch_valid_end",))
    valid = Batches([torch.full((2, 2), float(i)) for i in (1, 2, 3)])
    fit(log, Iterating(), ones(1), valid, num_sanity_val_steps=0)
    assert [(step, batch.mean().item()) for step, batch in log.at("batch_valid_end")] == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")  # on purpose
def test_training_with_the_dataloader_iter() -> None:
    class Iterating(Tiny):
        def training_step(self, dataloader_iter: Any) -> torch.Tensor:
            batch, *_ = next(dataloader_iter)
            return self.loss(batch)

    log = StageLog("step", "batch", stages=("on_batch_end",))
    fit(log, Iterating(), Batches([torch.full((2, 2), float(i)) for i in (1, 2, 3)]))
    assert [(step, batch.mean().item()) for step, batch in log.at("batch_end")] == [(1, 1), (2, 2), (3, 3)]


# --- modules --------------------------------------------------------------------------------------------------------


class Manual(Tiny):
    """Two optimizers, which take turns within a step."""

    def __init__(self, returns: Callable[[torch.Tensor], Any] = lambda loss: loss) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.bias = nn.Parameter(torch.zeros(1))
        self.returns = returns

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        for optimizer in self.optimizers():
            loss = (self.network(batch) + self.bias).pow(2)
            optimizer.zero_grad()
            self.manual_backward(loss.mean())
            optimizer.step()
        return self.returns(loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.network.parameters(), lr=0.1), torch.optim.Adam([self.bias], lr=0.1)


def test_manual_optimization_with_several_optimizers() -> None:
    log = StageLog("optimizer", "optimizers", stages=("on_after_backward",))
    messages = []

    def elsewhere(ctx: Any) -> None:
        with pytest.raises(RuntimeError, match=r"There are 2 optimizers.*ctx\.optimizers") as error:
            _ = ctx.optimizer
        messages.append(error)

    total = StageLog("total_steps", stages=("on_begin",))
    adapter = fit({"log": log, "act": Act(on_batch_end=elsewhere), "total": total}, Manual(torch.mean), max_epochs=2)
    assert adapter.stopped_by is None
    assert len(messages) == 4
    assert [type(optimizer).__name__ for optimizer, _ in log.at("after_backward")] == ["SGD", "Adam"] * 4
    assert all(optimizer in optimizers for optimizer, optimizers in log.at("after_backward"))
    assert total.at("begin") == [4]


@pytest.mark.parametrize(
    ("returns", "last_loss"),
    [
        (lambda loss: torch.tensor(0.5), 0.5),
        (lambda loss: {"loss": torch.tensor(0.5), "more": 1}, 0.5),
        (lambda loss: {"more": 1}, None),
        (lambda loss: None, None),
    ],
    ids=["tensor", "dict", "dict without loss", "none"],
)
def test_manual_optimization_returns_what_it_likes(returns: Any, last_loss: float | None) -> None:
    log = StageLog("last_loss", stages=("on_batch_end",))
    fit(log, Manual(returns), accumulate_grad_batches=1)
    assert log.at("batch_end") == [last_loss, last_loss]


def test_manual_optimization_may_return_one_loss_per_sample() -> None:
    fit(StageLog(), Manual())


def test_manual_optimization_with_max_steps_has_no_known_length() -> None:
    log = StageLog("total_steps", "global_step")
    fit(log, Manual(torch.mean), ones(4), max_steps=6, max_epochs=-1)
    assert log.at("begin") == [(None, 0)]
    assert log.at("end") == [(None, 3)]


def test_no_after_backward_where_an_optimizer_step_is_announced_without_gradients() -> None:
    """`StochasticWeightAveraging` trains one epoch more for the sake of batch norms, without a backward call."""
    log = StageLog("epoch", "step", stages=("on_batch_end", "on_after_backward"))
    module = Tiny(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)))
    fit(log, module, max_epochs=2, native=(StochasticWeightAveraging(0.01, swa_epoch_start=1, annealing_epochs=1),))
    assert log.at("after_backward") == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert log.at("batch_end")[-2:] == [(3, 1), (3, 2)]


def test_lbfgs_runs_after_backward_once_per_closure() -> None:
    calls = []

    class Closures(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            calls.append(batch_idx)
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), max_iter=4)

    log = StageLog("step", "y_hat", stages=("on_after_backward", "on_batch_end"))
    fit(log, Closures())
    assert [step - 1 for step, _ in log.at("after_backward")] == calls
    assert len(calls) > 2
    assert [step for step, _ in log.at("batch_end")] == [1, 2]


def test_the_output_is_that_of_the_last_call_in_the_step() -> None:
    class Twice(Tiny):
        def loss(self, batch: Any) -> torch.Tensor:
            return self.network(batch).mean() + self.network(batch[:1] * 2).mean()

    log = StageLog("y_hat", stages=("on_after_backward", "on_batch_end", "on_batch_valid_end"))
    fit(log, Twice(), ones(1), ones(1))
    assert [len(y_hat) for _, y_hat in log.rows] == [1, 1, 1]


def test_what_other_callbacks_call_outside_of_the_step_is_not_its_output() -> None:
    class Looking(L.Callback):
        def look(self, trainer: Any, module: Any, *args: Any) -> None:
            module.network(torch.zeros(7, 2))

    for hook in (
        "train_batch_start",
        "before_zero_grad",
        "before_backward",
        "after_backward",
        "before_optimizer_step",
        "train_batch_end",
        "validation_batch_start",
        "validation_batch_end",
    ):
        setattr(Looking, f"on_{hook}", Looking.look)

    stages = (
        "on_after_backward",
        "on_batch_end",
        "on_before_valid",
        "on_batch_valid_end",
        "on_valid_end",
        "on_epoch_end",
    )
    log = StageLog("y_hat", stages=stages)
    fit(log, None, ones(2), ones(1), native=(Looking(),))
    assert [(stage, len(y_hat)) for stage, y_hat in log.rows if len(y_hat) != 2] == []


def test_what_callbacks_call_is_not_the_output() -> None:
    log = StageLog("y_hat", stages=tuple(stage for stage in STAGES[3:] if stage != "on_batch_valid_begin"))
    act = Act(**{stage: lambda ctx: ctx.network(torch.zeros(7, 2)) for stage in STAGES})
    fit({"act": act, "log": log}, None, ones(2), ones(1))
    assert [(stage, y_hat) for stage, y_hat in log.rows if len(y_hat) != 2] == []


def test_bf16_mixed() -> None:
    log = StageLog("y_hat", "last_loss", "last_scores_train", stages=("on_batch_end", "on_epoch_end"))
    fit(log, None, ones(2), ones(1), precision="bf16-mixed")
    y_hat, loss, _ = log.at("batch_end")[-1]
    assert y_hat.dtype == torch.bfloat16
    assert isinstance(loss, float)
    assert isinstance(log.at("epoch_end")[0][2]["loss"], float)


@pytest.mark.parametrize("fused", [False, True])
def test_16_mixed_gradients_are_unscaled_after_backward(fused: bool) -> None:
    expected, _ = gradient_norms(fused=fused, scaled=False, device="cpu")
    norms, weights = gradient_norms(fused=fused, scaled=True, device="cpu")
    assert norms == pytest.approx(expected, rel=0.01)
    assert len(norms) == 4
    assert weights == gradient_norms(fused=fused, scaled=True, device="cpu", read=False)[1]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")  # on purpose
def test_16_mixed_does_not_step_after_a_training_step_that_returns_none() -> None:
    class Skipping(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 1 else self.loss(batch)

    log = StageLog("global_step", stages=("on_after_backward",))
    scaler = torch.amp.GradScaler("cpu", init_scale=2**10)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
    fit(log, Skipping(), ones(4), accumulate_grad_batches=2, plugins=plugins)
    assert log.at("after_backward") == [4]


def test_16_mixed_a_module_may_unscale_a_fused_step_itself() -> None:
    class Unscaling(Adam):
        def __init__(self) -> None:
            super().__init__(fused=True)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            self.manual_backward(self.loss(batch))
            self.trainer.precision_plugin.scaler.unscale_(optimizer.optimizer)
            norms.append(self.network.weight.grad.norm())
            optimizer.step()
            optimizer.zero_grad()

    norms: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2**10))]
    act = Act(on_after_backward=lambda ctx: seen.append(ctx.network.weight.grad.norm()))
    fit(act, Unscaling(), ones(2), plugins=plugins)
    assert seen == norms


# --- bad input ------------------------------------------------------------------------------------------------------


class Fine(CallbackSet):
    pass


class Needs(CallbackSet):
    def __init__(self, what: int) -> None:
        self.what = what


class Heavy(CallbackSet):
    weight = "heavy"


class Fails(CallbackSet):
    def __init__(self) -> None:
        raise ZeroDivisionError


fine = Fine()
BAD = {
    "no callback": (lambda: CallbackSetAdapter([3]), TypeError, "got 3"),
    "None": (lambda: CallbackSetAdapter(None), TypeError, "got None"),
    "a class of something else": (lambda: CallbackSetAdapter(dict), TypeError, "got <class 'dict'>"),
    "a Lightning callback": (
        lambda: CallbackSetAdapter([L.pytorch.callbacks.Timer()]),
        TypeError,
        r"Timer is a Lightning callback.*Give it to the Trainer.*Trainer\(callbacks=\[Timer",
    ),
    "a Lightning callback's class": (lambda: CallbackSetAdapter(L.Callback), TypeError, "is a Lightning callback"),
    "an adapter": (
        lambda: CallbackSetAdapter([CallbackSetAdapter([])]),
        TypeError,
        "got a CallbackSetAdapter. Use one adapter",
    ),
    "the same id": (
        lambda: CallbackSetAdapter([Fine(), Fine]),
        ValueError,
        "Two callbacks have the id 'fine'.*Name them",
    ),
    "one instance twice": (lambda: CallbackSetAdapter([fine, fine]), ValueError, "twice"),
    "two ids": (
        lambda: CallbackSetAdapter({"a": fine, "b": fine}),
        ValueError,
        "twice, as 'a' and 'b'.*one instance for each",
    ),
    "no id": (lambda: CallbackSetAdapter({"": fine}), TypeError, "non-empty strings but got ''"),
    "an id that is no string": (lambda: CallbackSetAdapter({1: fine}), TypeError, "strings but got 1"),
    "a class that needs arguments": (lambda: CallbackSetAdapter(Needs), TypeError, r"'what'.*Needs\(what=\.\.\.\)"),
    "weight": (lambda: fit(Heavy), TypeError, "the weight of callback 'heavy' to be a number but got 'heavy'"),
    "weight NaN": (lambda: fit(with_(Fine(), weight=float("nan"))), ValueError, "'fine' to be a number but got nan"),
    "weight True": (lambda: fit(with_(Fine(), weight=True)), TypeError, "to be a number but got True"),
    "weight set later": (lambda: set_later("weight", "9"), TypeError, "to be a number but got '9'"),
    "stage with arguments": (
        lambda: fit(with_(Fine(), on_epoch_end=lambda ctx: None)),
        TypeError,
        r"Fine.on_epoch_end takes 'ctx'.*a function without parameters",
    ),
    "no stage": (
        lambda: fit(with_(Fine(), on_epoch_ends=print)),
        TypeError,
        "not a stage.*Did you mean 'on_epoch_end'",
    ),
    "no stage, set later": (
        lambda: set_later("on_train_epoch_end", print),
        TypeError,
        "hook of Lightning.*'on_epoch_end'",
    ),
    "no function": (lambda: fit(with_(Fine(), on_end=3)), TypeError, "on_end to be a method or None but got 3"),
    "network": (
        lambda: fit(Fine(), adapter={"network": "netwrok"}),
        AttributeError,
        "Tiny has no submodule 'netwrok'.*Did you mean 'network'.*It has 'network'",
    ),
    "network that is no name": (
        lambda: CallbackSetAdapter(Fine(), network=nn.ReLU()),
        TypeError,
        "network to be the name",
    ),
    "loss_fn": (
        lambda: fit(Fine(), adapter={"loss_fn": "lss"}),
        AttributeError,
        r"no callable 'lss' for the adapter's argument loss_fn\. It has 'network'\.$",
    ),
    "network that no callback reads": (
        lambda: fit("history", adapter={"network": "netwrok"}),
        AttributeError,
        "Tiny has no submodule 'netwrok'",
    ),
    "loss_fn that is no name": (
        lambda: CallbackSetAdapter(Fine(), loss_fn=torch.mean),
        TypeError,
        "loss_fn to be the name",
    ),
    "terminate_at": (
        lambda: CallbackSetAdapter(Fine(), terminate_at="step"),
        ValueError,
        "one of 'epoch', 'validation' but got 'step'",
    ),
    "two adapters": (
        lambda: fit(Fine(), native=(CallbackSetAdapter(Fine()),)),
        ValueError,
        r"The Trainer has 2 CallbackSetAdapters.*Give all callbacks to one",
    ),
    "a CallbackSet for the Trainer": (
        lambda: quiet(callbacks=Fine()),
        TypeError,
        r"got a Fine.*CallbackSetAdapter\(\[Fine\(\.\.\.\)\]\)",
    ),
    "in a list": (
        lambda: quiet(callbacks=[Fine()]),
        TypeError,
        r"got a Fine.*CallbackSetAdapter\(\[Fine\(\.\.\.\)\]\)",
    ),
    "a class in a list": (
        lambda: quiet(callbacks=[Fine]),
        TypeError,
        r"got the class Fine.*CallbackSetAdapter\(\[Fine\]\)",
    ),
}


def with_(callback: CallbackSet, **attributes: Any) -> CallbackSet:
    vars(callback).update(attributes)
    return callback


def set_later(attribute: str, value: object) -> None:
    callback = Fine()
    adapter = CallbackSetAdapter(callback)
    setattr(callback, attribute, value)
    fit(adapter)


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.endswith("in a list") and Version(L.__version__) < Version("2.6"):
        pytest.skip("there, Lightning refuses what is no Callback before it looks at it, with an error of its own")
    do, error, message = BAD[case]
    monkeypatch.setattr(Tiny, "training_step", lambda *args: pytest.fail("training has started"))
    with pytest.raises(error, match=message):
        do()
    assert fine.ctx is None


def test_a_failed_setup_leaves_nothing_behind() -> None:
    log = StageLog()
    adapter = CallbackSetAdapter({"log": log, "bad": Fails})
    with pytest.raises(ZeroDivisionError):
        fit(adapter)
    assert log.rows == []
    assert log.ctx is None


def test_a_fit_that_is_refused_has_no_result_of_the_fit_before() -> None:
    given = ["history", "progress"]
    adapter = CallbackSetAdapter(given)
    fit(adapter)
    assert adapter.callbacks is given
    assert list(adapter.states) == ["history", "progress"]
    with pytest.raises(ValueError, match="2 CallbackSetAdapters"):
        quiet(max_epochs=1, callbacks=[adapter, CallbackSetAdapter("history")]).fit(Tiny(), ones(2))
    assert (adapter.states, adapter.stopped_by) == ({}, None)
