"""The bridge: which stage runs when, how training is stopped, and what every way of running a Trainer shows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.profilers import SimpleProfiler
from packaging.version import Version
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics import MeanMetric

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory, read_states
from callbacksets.base import STAGES
from tests.helpers import Act, Batches, Endless, StageLog, Tiny, fit, ones, quiet

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


def test_stages_of_the_instance_and_none_switches_off() -> None:
    class OnTheClass(StageLog):
        on_epoch_begin = None

        def on_epoch_end(self) -> None:
            self.rows.append("the class's")

        def on_begin(self) -> None:
            self.on_epoch_begin = lambda: self.rows.append("set in begin")
            self.on_end = None

    callback = OnTheClass(stages=("on_end",))
    assert callback.stages == ["on_begin", "on_epoch_end", "on_end"]
    fit(callback)
    assert callback.rows == ["set in begin", "the class's"]


def test_a_stage_added_in_the_run_counts_from_the_next_epoch_and_one_removed_at_once() -> None:
    seen = []

    class Changing(CallbackSet):
        def on_batch_begin(self) -> None:
            self.on_batch_end = lambda: seen.append(self.ctx.global_step)
            if self.ctx.global_step == 5:
                self.on_batch_begin = self.on_batch_end = None
                self.on_exit = lambda: seen.append("exit")

    fit(Changing(), None, ones(2), max_epochs=3)
    assert seen == [3, 4, "exit"]


def test_a_stage_that_the_class_computes_is_asked_for_whenever_it_runs() -> None:
    seen = []

    class Computed(CallbackSet):
        @property
        def on_batch_end(self) -> Callable[[], None] | None:
            step = self.ctx.global_step if self.ctx else 0
            return None if step == 2 else lambda: seen.append(step)

        on_exit = staticmethod(lambda: seen.append("exit"))

    fit(Computed(), None, ones(3))
    assert seen == [1, 3, "exit"]


def test_a_none_stage_of_the_class_can_be_inherited_around() -> None:
    class Base(CallbackSet):
        def on_epoch_end(self) -> None:
            raise AssertionError

    class Off(Base):
        on_epoch_end = None

    assert Off().stages == []
    fit(Off())


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
        (2, 5),
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


def test_profiled_stages_are_rows_of_their_own() -> None:
    profiler = SimpleProfiler()
    adapter = fit([CallbackSetHistory(), Act(on_batch_end=lambda ctx: None)], max_epochs=2, profiler=profiler)
    ours = {name: len(times) for name, times in profiler.recorded_durations.items()}
    rows = {"history.on_begin": 1, "history.on_epoch_end": 2, "act.on_batch_end": 4}
    assert ours.items() >= {f"[CallbackSet]{name}": n for name, n in rows.items()}.items()
    assert not [
        name for name in ours if name.startswith("[CallbackSet]act.") and name != "[CallbackSet]act.on_batch_end"
    ]
    assert adapter.states["history"]["epoch"] == [1, 2]
    with pytest.raises(ZeroDivisionError) as error:
        fit({"a": Act(on_epoch_end=lambda ctx: 1 / 0)}, profiler=SimpleProfiler())
    assert error.value.__notes__ == ["in callback 'a' (Act), on_epoch_end, epoch 1, step 2"]


# --- failures -------------------------------------------------------------------------------------------------------


class Boom(Exception):
    pass


def boom(*args: Any, **kwargs: Any) -> None:
    raise Boom("boom")


class BoomLoader(Batches):
    def __iter__(self) -> Any:
        yield self.batches[0]
        boom()


class BoomModule(Tiny):
    def __init__(self, where: str) -> None:
        super().__init__()
        setattr(self, where, boom)


class BoomOptimizer(Tiny):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        optimizer.step = lambda closure: closure() and boom()
        return optimizer


class BoomNative(L.Callback):
    def __init__(self, where: str) -> None:
        setattr(self, where, boom)


HOOKS = (
    "setup",
    "configure_optimizers",
    "on_fit_start",
    "on_train_start",
    "training_step",
    "validation_step",
    "on_train_end",
)
FAILURES: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    **{f"module {hook}": ({}, (BoomModule(hook), ones(2), ones(1))) for hook in HOOKS},
    **{
        f"native {hook}": ({"native": (BoomNative(hook),)}, (None, ones(2)))
        for hook in ("on_train_batch_end", "teardown")
    },
    "loader": ({}, (None, BoomLoader(ones(2).batches))),
    "validation loader": ({"num_sanity_val_steps": 0}, (None, ones(2), BoomLoader(ones(2).batches))),
    "optimizer": ({}, (BoomOptimizer(), ones(2))),
}


def failed_fit(sets: Any, error: type[BaseException], **kwargs: Any) -> tuple[BaseException, CallbackSetAdapter]:
    adapter = CallbackSetAdapter(sets)
    with pytest.raises(error) as raised:
        fit(adapter, *kwargs.pop("given", (None, ones(2), ones(1))), **kwargs)
    assert adapter.ctx is None
    for callback in adapter.sets.values():
        assert callback.ctx is None
    return raised.value, adapter


@pytest.mark.parametrize("failure", FAILURES)
def test_whatever_fails_exit_runs_once_for_all_and_the_error_stays(failure: str) -> None:
    kwargs, given = FAILURES[failure]
    a, b = StageLog(), StageLog()
    error, adapter = failed_fit({"a": a, "b": b}, Boom, given=given, **kwargs)
    assert str(error) == "boom"
    assert a.rows == b.rows
    assert a.rows[-1] == "exit"
    assert a.rows.count("exit") == 1
    assert ("end" in a.rows) == (failure in ("module on_train_end", "native teardown"))
    a.rows.clear()
    fit(adapter)
    assert a.rows == ["begin", "epoch_begin", *BATCH * 2, "before_valid", "epoch_end", "end", "exit"]


def test_a_callback_that_fails_before_ours_were_set_up_is_not_theirs_to_exit() -> None:
    log = StageLog()
    failed_fit({"log": log}, Boom, native=(BoomNative("setup"),))
    assert log.rows == []


@pytest.mark.parametrize("stage", STAGES)
def test_an_exception_in_a_stage_says_where_and_exit_runs_for_all(stage: str) -> None:
    log = StageLog()
    sets = {"log": log, "bad": Act(**{stage: boom}), "other": StageLog(), "history": CallbackSetHistory()}
    error, adapter = failed_fit(sets, Boom)
    epoch, step = {"on_begin": (0, None), "on_epoch_begin": (1, None)}.get(stage, (1, 2))
    step = 1 if stage in STAGES[2:5] else step
    assert error.__notes__ == [f"in callback 'bad' (Act), {stage}, epoch {epoch}, step {step}"]
    assert log.rows.count("exit") == sets["other"].rows.count("exit") == 1
    before = STAGES[: STAGES.index(stage) + 1]
    assert {f"on_{row}" for row in log.rows} == {*before, "on_exit"}
    assert {f"on_{row}" for row in sets["other"].rows} == {*before, "on_exit"} - ({stage} - {"on_exit"})
    if stage != "on_begin":
        done = [1] if stage in ("on_end", "on_exit") else []
        assert adapter.states["history"]["epoch"] == done
    del adapter._sources["bad"]
    fit(adapter)
    assert adapter.states["history"]["epoch"] == [1]


def test_exits_that_fail_do_not_keep_the_others_from_running() -> None:
    def other(ctx: Any) -> None:
        raise ValueError("other")

    log = StageLog(stages=("on_exit",))
    sets = {"a": Act(on_exit=boom), "b": Act(on_exit=other), "log": log, "c": Act(on_exit=lambda ctx: 1 / 0)}
    error, _ = failed_fit(sets, Boom)
    assert log.rows == ["exit"]
    first, *others = error.__notes__
    assert first == "in callback 'a' (Act), on_exit, epoch 1, step 2"
    assert [note.split(" (")[0] for note in others] == [
        "There was also ValueError: other",
        "There was also ZeroDivisionError: division by zero",
    ]
    error, _ = failed_fit(sets | {"d": Act(on_epoch_end=lambda ctx: {}["first"])}, KeyError)
    assert "in callback 'd' (Act), on_epoch_end" in error.__notes__[0]
    assert len(error.__notes__) == 4


@pytest.mark.parametrize("stage", STAGES)
def test_stop_iteration_does_not_end_training_silently(stage: str) -> None:
    error, _ = failed_fit({"bad": Act(**{stage: lambda ctx: next(iter(()))})}, RuntimeError)
    assert isinstance(error.__cause__, StopIteration)
    assert f"in callback 'bad' (Act), {stage}" in error.__notes__[0]


def test_a_state_that_fails_costs_no_other() -> None:
    class Bad(CallbackSet):
        state_dict = boom

    error, adapter = failed_fit({"bad": Bad(), "history": CallbackSetHistory(), "act": Act(on_end=boom)}, Boom)
    assert "on_end" in error.__notes__[0]
    assert "state_dict" in error.__notes__[1]
    assert adapter.states == {"history": adapter.sets["history"].state_dict()}
    error, _ = failed_fit({"bad": Bad()}, Boom)
    assert error.__notes__[0] == "in callback 'bad' (Bad), state_dict, epoch 1, step 2"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupted(error: type[BaseException]) -> None:
    def interrupt(ctx: Any) -> None:
        raise error

    log = StageLog()
    sets = {"log": log, "act": Act(on_batch_end=interrupt), "history": CallbackSetHistory()}
    _, adapter = failed_fit(sets, SystemExit)  # Lightning makes this of a KeyboardInterrupt
    assert log.rows == ["begin", "epoch_begin", *BATCH, "exit"]
    assert adapter.states == {"history": {"epoch": []}}


def test_an_uninitialized_parameter_hides_no_error() -> None:
    log = StageLog(stages=("on_exit",))
    module = Tiny(nn.LazyLinear(1))
    failed_fit({"log": log, "bad": Act(on_begin=boom)}, Boom, given=(module, ones(2)))
    assert log.rows == ["exit"]


# --- bad input ------------------------------------------------------------------------------------------------------


class Fine(CallbackSet):
    pass


class Needs(CallbackSet):
    def __init__(self, what: int) -> None:
        self.what = what


class Heavy(CallbackSet):
    weight = "heavy"


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
        "CallbackSetAdapter is a Lightning",
    ),
    "the same id": (
        lambda: CallbackSetAdapter([Fine(), Fine]),
        ValueError,
        "Two callbacks have the id 'fine'.*Give ids",
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
    "weight": (lambda: fit(Heavy), TypeError, "weight of callback 'heavy' to be a number but got 'heavy'"),
    "weight NaN": (lambda: fit(with_(Fine(), weight=float("nan"))), ValueError, "'fine' to be a number but got nan"),
    "weight True": (lambda: fit(with_(Fine(), weight=True)), TypeError, "to be a number but got True"),
    "weight set later": (lambda: set_later("weight", "9"), TypeError, "to be a number but got '9'"),
    "stage with arguments": (
        lambda: fit(with_(Fine(), on_epoch_end=lambda ctx: None)),
        TypeError,
        r"Fine.on_epoch_end takes 'ctx'.*a function of nothing",
    ),
    "no stage": (lambda: fit(with_(Fine(), on_epoch_ends=print)), TypeError, "no stage.*Did you mean 'on_epoch_end'"),
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
        "no callable 'lss'.*It has .*'network'",
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
        r"The Trainer has 2 adapters.*Give all callbacks to one",
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
    "a class for the Trainer": (
        lambda: quiet(callbacks=Fine),
        TypeError,
        r"got the class Fine.*CallbackSetAdapter\(\[Fine\]\)",
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
    adapter = CallbackSetAdapter({"log": log, "bad": Heavy})
    with pytest.raises(TypeError):
        fit(adapter)
    assert log.rows == []
    assert log.ctx is None


# --- what a reviewer found -------------------------------------------------------------------------------------------


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


def test_what_nobody_asked_a_child_for_is_not_the_result_of_a_later_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = CallbackSetAdapter("history")
    with monkeypatch.context() as patch:
        patch.setattr(adapter._handover, "in_child", lambda: True)
        adapter._handover.give(("stale", None))
    fit(adapter, max_epochs=2)
    assert adapter.states["history"]["epoch"] == [1, 2]


def test_loaded_states_are_copies_and_a_checkpoint_in_begin_is_one_of_a_run(tmp_path: Path) -> None:
    class Pops(CallbackSet):
        def state_dict(self) -> Any:
            return {"x": 5}

        def load_state_dict(self, state_dict: Any) -> None:
            state_dict.pop("x")

    first = fit({"saver": Act(), "pops": Pops()}, max_epochs=1)
    path = tmp_path / "one.ckpt"
    quiet_trainer = quiet(callbacks=[first], max_epochs=1)
    quiet_trainer.fit(Tiny(), ones(2))
    quiet_trainer.save_checkpoint(path)
    saver = Act(on_begin=lambda ctx: ctx.trainer.save_checkpoint(tmp_path / "begin.ckpt"))
    resumed = CallbackSetAdapter({"saver": saver, "pops": Pops()})
    quiet(callbacks=[resumed], max_epochs=2).fit(Tiny(), ones(2), ckpt_path=path)
    assert read_states(tmp_path / "begin.ckpt") == {"pops": {"x": 5}}
    seen: list[bool] = []
    again = CallbackSetAdapter({"saver": Act(on_begin=lambda ctx: seen.append(ctx.resumed)), "pops": Pops()})
    quiet(callbacks=[again], max_epochs=2).fit(Tiny(), ones(2), ckpt_path=tmp_path / "begin.ckpt")
    assert seen == [True]


def test_after_a_failure_in_batch_begin_no_forward_call_is_to_come() -> None:
    def fail(ctx: Any) -> None:
        raise RuntimeError("boom")

    messages: list[str] = []

    def look(ctx: Any) -> None:
        for read in (lambda: ctx.y_hat, lambda: setattr(ctx, "batch", torch.ones(2, 2))):
            with pytest.raises(RuntimeError) as raised:
                read()
            messages.append(str(raised.value))

    with pytest.raises(RuntimeError, match="boom"):
        fit(Act(on_batch_begin=fail, on_exit=look))
    assert "no batch has started, or it has failed" in messages[0]
    assert "can only be assigned in batch_begin" in messages[1]
