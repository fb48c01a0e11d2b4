"""One fit: modes, gradients, callbacks that are shared, what is told at once."""

import gc
import weakref
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory
from tests.helpers import Act, Endless, StageLog, Tiny, fit, ones, quiet

# --- modes ------------------------------------------------------------------------------------------------------------


class Modes(Tiny):
    """Keeps the mode of its network in each step."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)))
        self.seen: list[tuple[str, bool]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(("train", self.network.training))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.seen.append(("valid", self.network.training))
        super().validation_step(batch, batch_idx)


def test_modes_that_before_valid_sets_do_not_reach_the_validation() -> None:
    module = Modes()
    fit(Act(on_before_valid=lambda ctx: ctx.network.train()), module, ones(2), ones(1), num_sanity_val_steps=0)
    assert module.seen == [("train", True), ("train", True), ("valid", False)]
    assert module.network[1].num_batches_tracked == 2  # of training only


def test_modes_after_a_validation_are_those_from_before_it() -> None:
    module = Modes()
    modes = Act(on_before_valid=lambda ctx: ctx.network.eval(), on_valid_end=lambda ctx: ctx.network.eval())
    fit(modes, module, ones(1), ones(1), max_epochs=2, num_sanity_val_steps=0)
    assert module.seen == [("train", True), ("valid", False)] * 2


def test_a_part_that_the_module_keeps_in_training_mode_stays_so() -> None:
    class Partly(Modes):
        def on_validation_model_eval(self) -> None:
            super().on_validation_model_eval()
            self.network[2].train()

    modes = []
    module = Partly()
    look = Act(
        on_before_valid=lambda ctx: ctx.network.eval(),
        on_batch_valid_begin=lambda ctx: modes.append([part.training for part in module.network]),
    )
    fit(look, module, ones(1), ones(1), num_sanity_val_steps=0)
    assert modes == [[False, False, True, False]]


def test_validates_tells_whether_a_validation_follows_or_is_under_way() -> None:
    log = StageLog(
        "epoch", "validates", stages=("on_epoch_begin", "on_before_valid", "on_batch_valid_end", "on_epoch_end")
    )
    fit(log, None, ones(1), ones(1), max_epochs=2, check_val_every_n_epoch=2)
    assert log.rows == [
        ("epoch_begin", 1, False),
        ("before_valid", 1, False),
        ("epoch_end", 1, False),
        ("epoch_begin", 2, False),
        ("before_valid", 2, True),
        ("batch_valid_end", 2, True),
        ("epoch_end", 2, False),
    ]


# --- gradients --------------------------------------------------------------------------------------------------------


def test_without_an_optimizer() -> None:
    class Frozen(Tiny):
        def configure_optimizers(self) -> Any:
            return None

    seen = []
    log = StageLog("optimizer", stages=("on_after_backward", "on_batch_end"))
    with pytest.warns(UserWarning, match="`LightningModule.configure_optimizers` returned `None`"):
        fit([log, Act(on_batch_end=lambda ctx: seen.append(ctx.optimizers))], Frozen())
    assert log.rows == [("batch_end", None)] * 2
    assert seen == [[], []]


class SteppingElsewhere(Tiny):
    """Steps its optimizer in validation, too."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def step(self, batch: Any) -> Any:
        optimizer: Any = self.optimizers()
        with torch.enable_grad(), torch.inference_mode(False):
            loss = self.network(batch.clone()).pow(2).mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.step(batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.step(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.step(batch)


def test_a_module_may_step_in_validation_and_after_a_fit_without_after_backward() -> None:
    log = StageLog("global_step", stages=("on_after_backward",))
    adapter = CallbackSetAdapter(log)
    trainer = quiet(max_epochs=2, callbacks=[adapter], inference_mode=False)
    module = SteppingElsewhere()
    trainer.fit(module, ones(2), ones(1))
    assert log.rows == [("after_backward", n) for n in (1, 2, 3, 4)]
    trainer.validate(module, ones(1), verbose=False)
    trainer.test(module, ones(1), verbose=False)
    module.step(torch.ones(2, 2))
    assert len(log.rows) == 4


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_the_message_on_y_hat_tells_of_forward_called_directly() -> None:
    class Direct(Tiny):
        def loss(self, batch: Any) -> torch.Tensor:
            return self.network.forward(batch).pow(2).mean()

    with pytest.raises(RuntimeError, match=r"forward\(\) directly, call the network"):
        fit(Act(on_batch_end=lambda ctx: ctx.y_hat), Direct())


def test_total_steps_is_unknown_where_either_limit_may_end_a_run_of_unknown_length() -> None:
    seen = []
    fit(Act(on_begin=lambda ctx: seen.append(ctx.total_steps)), None, Endless(3), max_epochs=2, max_steps=5)
    assert seen == [None]


# --- instances, adapters ----------------------------------------------------------------------------------------------


def test_one_instance_in_two_fits_at_a_time_is_refused() -> None:
    shared = CallbackSetHistory()

    def nest(ctx: Any) -> None:
        with pytest.raises(RuntimeError, match="Callback 'history' is already in another fit"):
            fit(shared)

    fit([shared, Act(on_begin=nest)])
    assert shared.ctx is None
    fit(shared)  # one after the other


def test_an_adapter_that_came_too_late_says_so_at_once() -> None:
    class Late(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            trainer.callbacks.append(CallbackSetAdapter(["history"]))  # type: ignore[attr-defined]

    with pytest.raises(RuntimeError, match=r"This adapter was added to trainer\.callbacks too late"):
        quiet(max_epochs=1, callbacks=[Late()]).fit(Tiny(), ones(1))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # the tuner's own checkpoint
def test_an_exception_in_a_tuner_reaches_exit_and_leaves_no_ctx(tmp_path: Path) -> None:
    class Fails(Tiny):
        lr = 0.1

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise InterruptedError

    log = StageLog()
    adapter = CallbackSetAdapter(log)
    trainer = quiet(max_epochs=1, callbacks=[adapter], default_root_dir=tmp_path)
    with pytest.raises(InterruptedError):
        Tuner(trainer).lr_find(Fails(), ones(3), num_training=3)
    assert log.rows == ["exit"]
    assert log.ctx is None
    assert adapter.ctx is None


def test_exit_runs_for_those_that_had_their_ctx_when_another_could_not_take_its_own() -> None:
    class Refuses(CallbackSet):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "ctx" and value is not None:
                raise InterruptedError
            super().__setattr__(name, value)

    class Other(Refuses):
        """Stands behind."""

    log = StageLog()
    with pytest.raises(InterruptedError):
        fit({"log": log, "refuses": Refuses()})
    assert log.rows == ["exit"]
    assert log.ctx is None


def test_a_failed_fit_keeps_nothing_alive() -> None:
    def run() -> list[weakref.ref[Any]]:
        module = Tiny()
        trainer = quiet(max_epochs=1, callbacks=[adapter])
        with pytest.raises(InterruptedError):
            trainer.fit(module, ones(1))
        return [weakref.ref(module), weakref.ref(trainer)]

    def fail(ctx: Any) -> None:
        raise InterruptedError

    adapter = CallbackSetAdapter({"fails": Act(on_batch_end=fail, on_exit=lambda ctx: None)})
    alive = run()
    gc.collect()
    assert [one() for one in alive] == [None, None]


def test_a_state_that_fails_is_told_of_once(tmp_path: Path) -> None:
    asked = []

    class Broken(CallbackSet):
        def state_dict(self) -> Any:
            asked.append(1)
            raise InterruptedError("no state")

    save = Act(on_epoch_end=lambda ctx: ctx.trainer.save_checkpoint(tmp_path / "a.ckpt"))
    with pytest.raises(InterruptedError) as raised:
        fit({"broken": Broken(), "save": save, "history": CallbackSetHistory()})
    assert asked == [1]
    assert len([note for note in raised.value.__notes__ if "state_dict" in note]) == 1


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda ctx: ctx.model, r"ctx has no field 'model'. Here it is ctx.network"),
        (lambda ctx: ctx.current_epoch, r"Here it is ctx.epoch, which counts from 1"),
        (lambda ctx: ctx.loss, r"Here it is ctx.last_loss"),
        (lambda ctx: setattr(ctx, "terminte", True), r"ctx has no field 'terminte'. Did you mean 'terminate'"),
        (lambda ctx: setattr(ctx, "last_score_valid", {}), r"Did you mean 'last_scores_valid'"),
    ],
)
def test_what_is_misspelled_or_called_otherwise_elsewhere(read: Any, message: str) -> None:
    with pytest.raises(AttributeError, match=message):
        fit(Act(on_epoch_begin=read))


def test_fields_of_ones_own_stay_free() -> None:
    def own(ctx: Any) -> None:
        ctx.batches = ctx.best_scores = 1
        ctx.batches += 1

    fit(Act(on_epoch_begin=own))


def test_before_the_first_validation_its_scores_say_so() -> None:
    with pytest.raises(KeyError, match=r"'acc' does not exist\. No validation has run yet"):
        fit(Act(on_batch_end=lambda ctx: ctx.last_scores_valid["acc"]), None, ones(1), ones(1))


def test_what_a_callback_logs_too_late_gets_advice_for_a_callback() -> None:
    log = Act(on_epoch_end=lambda ctx: ctx.learner.log("mine", 1.0))
    with pytest.warns(UserWarning, match=r"In a CallbackSet, .* self\.ctx\.last_scores_train\['mine'\] = "):
        fit(log, max_epochs=2)


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_refused_inner_fit_leaves_the_callbacks_of_the_outer_alone() -> None:
    log = StageLog("epoch", stages=("on_exit",))

    def nest(ctx: Any) -> None:
        if ctx.epoch == 1:
            with pytest.raises(RuntimeError, match="is already in another fit"):
                fit(log)

    fit([log, Act(on_epoch_end=nest)], max_epochs=2)
    assert log.rows == [("exit", 2)]


def test_exit_runs_also_where_nothing_can_be_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        raise ZeroDivisionError

    log = StageLog(stages=("on_exit",))
    monkeypatch.setattr("callbacksets.fit.saving.Saving.save", fail)
    with pytest.raises(ZeroDivisionError):
        fit(log)
    assert log.rows == ["exit"]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_data_whose_length_fails_in_any_way_and_odd_tensors_fail_no_fit() -> None:
    class Odd(IterableDataset[torch.Tensor]):
        def __iter__(self) -> Any:
            return iter([torch.ones(2), torch.ones(2)])

        def __len__(self) -> int:
            raise NotImplementedError

    module = Tiny()
    module.register_buffer("odd", torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8))
    log = StageLog(stages=("on_exit",))
    fit(log, module, DataLoader(Odd(), batch_size=2))
    assert log.rows == ["exit"]


def test_the_next_fit_of_a_trainer_is_its_own_when_another_callback_failed_in_its_on_exception(tmp_path: Path) -> None:
    class Fails(L.Callback):
        def on_exception(self, *args: Any) -> None:
            raise ZeroDivisionError

    class Saves(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "end.ckpt")

    fails = [True]

    def once(ctx: Any) -> None:
        if fails.pop():
            raise InterruptedError
        fails.append(False)

    log = StageLog("epoch", stages=("on_epoch_end", "on_exit"))
    trainer = quiet(max_epochs=1, callbacks=[Saves(), CallbackSetAdapter([log, Act(on_batch_end=once)]), Fails()])
    with pytest.raises(ZeroDivisionError):
        trainer.fit(Tiny(), ones(1))
    assert log.rows == [("exit", 1)]  # already, although Lightning ended no further callback
    fails.append(False)
    trainer.fit(Tiny(), ones(1))
    assert log.rows == [("exit", 1), ("epoch_end", 1), ("exit", 1)]
    assert not {"training_step", "lightning_module_state_dict", "on_exception"} & set(vars(trainer.strategy))


def test_a_batch_that_the_module_has_skipped_has_no_end_in_a_resumed_run(tmp_path: Path) -> None:
    class Skips(Tiny):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
            return -1 if batch_idx == 1 else None

    save = Act(on_epoch_end=lambda ctx: ctx.trainer.save_checkpoint(tmp_path / "a.ckpt"))
    fit({"log": StageLog(), "save": save}, Skips(), ones(3))
    log = StageLog("epoch", stages=("on_batch_end", "on_epoch_end"))
    quiet(max_epochs=1, callbacks=[CallbackSetAdapter({"log": log})]).fit(
        Skips(), ones(3), ckpt_path=tmp_path / "a.ckpt"
    )
    assert log.rows == []


def test_an_outcome_tells_of_a_failing_exit() -> None:
    def boom(ctx: Any) -> None:
        raise ZeroDivisionError

    adapter = CallbackSetAdapter(Act(on_exit=boom))
    with pytest.raises(ZeroDivisionError):
        fit(adapter)
    assert "ZeroDivisionError" in repr(adapter)


@pytest.mark.filterwarnings("ignore:get_state and legacy can only be used")  # by Lightning
def test_another_generator_of_numpys_fails_no_fit(tmp_path: Path) -> None:
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        save = Act(on_epoch_end=lambda ctx: ctx.trainer.save_checkpoint(tmp_path / "a.ckpt"))
        fit({"save": save})
        fit({"save": save}, max_epochs=2)
    finally:
        np.random.set_bit_generator(before)


def test_an_unknown_callback_of_the_run_names_those_there_are() -> None:
    with pytest.raises(KeyError, match=r"'predictions' does not exist\. There are 'act', 'history'"):
        fit([Act(on_begin=lambda ctx: ctx.callbacks["predictions"]), CallbackSetHistory()])


class Telling(SingleDeviceStrategy):
    def __init__(self) -> None:
        super().__init__("cpu")
        self.told: list[BaseException] = []

    def on_exception(self, exception: BaseException) -> None:
        self.told.append(exception)


def test_the_strategy_is_told_of_an_exception_as_well() -> None:
    strategy = Telling()
    with pytest.raises(ZeroDivisionError) as raised:
        fit(Act(on_epoch_end=lambda ctx: 1 // 0), strategy=strategy)
    assert strategy.told == [raised.value]


def test_exit_runs_also_where_a_lightning_callback_in_front_fails_in_its_on_exception() -> None:
    class Bad(L.Callback):
        def on_exception(self, *args: Any) -> None:
            raise ValueError("of another")

    log, bad = StageLog(stages=("on_exit",)), Bad()
    fails = Act(on_batch_end=lambda ctx: 1 / 0)
    adapter = CallbackSetAdapter({"history": "history", "log": log, "fails": fails})
    with pytest.raises(ValueError, match="of another"):
        fit(adapter, native=(bad,))
    assert log.rows == ["exit"]
    assert log.ctx is None
    assert adapter.states == {"history": {"epoch": []}}
    assert "on_exception" not in vars(bad)


def test_what_a_lightning_callback_in_front_logs_too_late_blames_nobody() -> None:
    class Native(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            self.log("theirs", 1.0)

    with pytest.warns(UserWarning, match="'theirs' is logged in on_train_epoch_end, after the scores were read"):
        fit(StageLog(), None, ones(1), ones(1), native=(Native(),), max_epochs=2)


def test_a_state_that_cannot_be_copied_names_its_callback() -> None:
    class CallbackSetGraph(CallbackSet):
        def on_end(self) -> None: ...

        def state_dict(self) -> Any:
            return {"x": torch.ones(1, requires_grad=True) * 2}

    with pytest.raises(RuntimeError) as raised:
        fit(CallbackSetGraph())
    assert "in callback 'graph' (CallbackSetGraph), state_dict" in raised.value.__notes__[0]
