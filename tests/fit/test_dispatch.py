"""Calling stages: those that callbacks have when they run, as rows of a profile, and when something fails."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from packaging.version import Version
from torch import nn

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory
from callbacksets.base import STAGES
from callbacksets.fit.dispatch import Dispatch
from callbacksets.fit.loop import Loop
from tests.helpers import Act, Batches, StageLog, Tiny, fit, ones, quiet

BATCH = ["batch_begin", "after_backward", "batch_end"]

# --- alone, without a Trainer ---------------------------------------------------------------------------------------


class Boom(Exception):
    pass


def boom(*args: Any, **kwargs: Any) -> None:
    raise Boom("boom")


class Calls:
    """A dispatch of three callbacks, and what they do in `on_end`."""

    def __init__(self, **do: Callable[[], object]) -> None:
        self.seen: list[str] = []
        self.loop = Loop(now=(2, 5))
        self.sets = {id: Act() for id in "abc"}
        for id, callback in self.sets.items():
            callback.on_end = partial(self._note, id, do.get(id, lambda: None))
        loops = SimpleNamespace(batch_idx=4)
        trainer: Any = SimpleNamespace(profiler=PassThroughProfiler(), fit_loop=loops, global_rank=0, world_size=1)
        self.dispatch = Dispatch(trainer, self.sets, self.loop)

    def _note(self, id: str, do: Callable[[], object]) -> None:
        self.seen.append(id)
        assert (self.loop.stage, self.loop.caller) == ("on_end", id)
        do()


def test_alone_all_run_in_order_and_the_logbook_tells_when() -> None:
    calls = Calls()
    assert (calls.dispatch.has("on_end"), calls.dispatch.has("on_begin")) == (True, False)
    calls.dispatch.run("on_end")
    assert calls.seen == ["a", "b", "c"]
    assert (calls.loop.ran, calls.loop.stage, calls.loop.caller) == ({"on_end": (2, 5)}, "", None)


def test_alone_only_some_run() -> None:
    calls = Calls()
    calls.dispatch.run_for("on_end", ["a", "c"])
    assert calls.seen == ["a", "c"]


def test_alone_a_failure_says_where_and_stops_the_others() -> None:
    calls = Calls(b=boom)
    with pytest.raises(Boom) as raised:
        calls.dispatch.run("on_end")
    assert calls.seen == ["a", "b"]
    assert (calls.loop.stage, calls.loop.caller, calls.dispatch.to_come()) == ("on_end", "b", ["c"])
    assert raised.value.__notes__ == ["in callback 'b' (Act), on_end, epoch 2, step 5, rank 0 of 1"]


def test_alone_an_attempt_runs_all_and_returns_the_failures() -> None:
    calls = Calls(a=boom, c=boom)
    assert [type(failure) for failure in calls.dispatch.attempt("on_end", ["a", "b", "c"])] == [Boom, Boom]
    assert calls.seen == ["a", "b", "c"]


def test_alone_who_saves_lets_the_others_go_first() -> None:
    def save() -> None:
        assert calls.dispatch.to_come() == ["b", "c"]
        calls.dispatch.finish()
        assert (calls.loop.stage, calls.loop.caller, calls.dispatch.to_come()) == ("on_end", "a", [])
        calls.seen.append("saved")

    calls = Calls(a=save)
    calls.dispatch.run("on_end")
    assert calls.seen == ["a", "b", "c", "saved"]


def test_alone_who_fails_while_another_saves_is_named_once() -> None:
    calls = Calls(a=lambda: calls.dispatch.finish(), b=boom)
    with pytest.raises(Boom) as raised:
        calls.dispatch.run("on_end")
    assert raised.value.__notes__ == ["in callback 'b' (Act), on_end, epoch 2, step 5, rank 0 of 1"]


def test_alone_a_stage_can_be_exchanged_while_it_runs() -> None:
    calls = Calls(a=lambda: vars(calls.sets["b"]).update(on_end=None) or vars(calls.sets["c"]).update(on_end=other))
    other = partial(calls.seen.append, "other")
    calls.dispatch.run("on_end")
    assert calls.seen == ["a", "other"]


def test_alone_a_stop_iteration_does_not_end_the_data() -> None:
    calls = Calls(a=lambda: next(iter(())))
    with pytest.raises(RuntimeError, match="A callback raised StopIteration"):
        calls.dispatch.run("on_end")


@pytest.mark.parametrize(
    "read", [lambda ctx: ctx.last_scores_valid["acc"], lambda ctx: ctx.last_scores_valid.get("acc")]
)
def test_who_reads_scores_of_an_epoch_without_validation_is_told_so(read: Any) -> None:
    with pytest.raises((TypeError, AttributeError)) as raised:
        fit(Act(on_epoch_end=lambda ctx: read(ctx.last_scores_valid)))
    assert "ctx.last_scores_valid is None, because this epoch had no validation" in raised.value.__notes__


# --- which stages a callback has ------------------------------------------------------------------------------------


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


class CallbackSetCountsFromBegin(CallbackSet):
    def __init__(self) -> None:
        self.count = 0

    def on_begin(self) -> None:
        self.on_batch_end = self._count

    def _count(self) -> None:
        self.count += 1

    def state_dict(self) -> Any:
        return self.count

    def load_state_dict(self, state_dict: Any) -> None:
        self.count = state_dict


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:You're resuming from a checkpoint")
def test_a_stage_set_in_begin_runs_from_the_first_batch_also_in_a_run_resumed_inside_an_epoch(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(CallbackSetCountsFromBegin(), Tiny(), ones(3), native=(save,), enable_checkpointing=True)
    assert list(whole.states.values()) == [3]
    trainer = quiet(max_epochs=1, callbacks=[rest := CallbackSetAdapter(CallbackSetCountsFromBegin())])
    trainer.fit(Tiny(), ones(3), ckpt_path=tmp_path / "step=1.ckpt")
    assert list(rest.states.values()) == [3]


def test_a_method_that_is_no_function_is_a_stage_as_well() -> None:
    seen = []

    class Static(CallbackSet):
        on_batch_end = staticmethod(lambda: seen.append("batch_end"))

        @classmethod
        def on_exit(cls) -> None:
            seen.append(cls)

    fit(Static())
    assert seen == ["batch_end", "batch_end", Static]


def test_a_none_stage_of_the_class_can_be_inherited_around() -> None:
    class Base(CallbackSet):
        def on_epoch_end(self) -> None:
            raise AssertionError

    class Off(Base):
        on_epoch_end = None

    assert Off().stages == []
    fit(Off())


def test_an_instance_that_has_served_a_fit_starts_over_when_the_next_is_set_up() -> None:
    class Counting(CallbackSet):
        def __init__(self) -> None:
            self.starts: list[int] = []
            self.batches = 0

        def start_over(self) -> None:
            self.starts.append(self.batches)
            self.batches = 0

        def on_batch_end(self) -> None:
            self.batches += 1

    callback = Counting()
    assert "start_over" not in callback.stages
    callback.batches = 40  # as a state that was loaded by hand
    fit(callback)
    assert (callback.starts, callback.batches) == ([], 42)
    fit(callback, None, ones(1))
    assert (callback.starts, callback.batches) == ([42], 1)


def test_profiled_stages_are_rows_of_their_own() -> None:
    profiler = SimpleProfiler()
    adapter = fit([CallbackSetHistory(), Act(on_batch_end=lambda ctx: None)], max_epochs=2, profiler=profiler)
    ours = {name: len(times) for name, times in profiler.recorded_durations.items()}
    rows = {"history.on_epoch_end": 2, "act.on_batch_end": 4}
    assert ours.items() >= {f"[CallbackSet]{name}": n for name, n in rows.items()}.items()
    assert not [
        name for name in ours if name.startswith("[CallbackSet]act.") and name != "[CallbackSet]act.on_batch_end"
    ]
    assert adapter.states["history"]["epoch"] == [1, 2]
    with pytest.raises(ZeroDivisionError) as error:
        fit({"a": Act(on_epoch_end=lambda ctx: 1 / 0)}, profiler=SimpleProfiler())
    assert error.value.__notes__ == ["in callback 'a' (Act), on_epoch_end, epoch 1, step 2, rank 0 of 1"]


def test_what_looks_like_a_stage_is_refused_before_any_callback_begins() -> None:
    log, act = StageLog(), Act()
    act.on_epochend = lambda: None
    with pytest.raises(TypeError, match="on_epochend is not a stage"):
        fit({"log": log, "act": act})
    assert log.rows == []


def test_what_looks_like_a_stage_is_refused_when_set_in_begin_and_left_alone_later() -> None:
    with pytest.raises(TypeError, match=r"Act\.on_epochend is not a stage\. Did you mean 'on_epoch_end'"):
        fit(Act(on_begin=lambda ctx: setattr(ctx.callbacks["act"], "on_epochend", lambda: None)))
    fit(Act(on_end=lambda ctx: setattr(ctx.callbacks["act"], "on_gpu", True)))


# --- failures -------------------------------------------------------------------------------------------------------


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
    assert error.__notes__ == [f"in callback 'bad' (Act), {stage}, epoch {epoch}, step {step}, rank 0 of 1"]
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
    assert first == "in callback 'a' (Act), on_exit, epoch 1, step 2, rank 0 of 1"
    assert [note.split(" (")[0] for note in others] == [
        "There was also ValueError: other",
        "There was also ZeroDivisionError: division by zero",
    ]
    error, _ = failed_fit(sets | {"d": Act(on_epoch_end=lambda ctx: {}["first"])}, KeyError)
    assert "in callback 'd' (Act), on_epoch_end" in error.__notes__[0]
    assert len(error.__notes__) == 4


def test_scores_that_are_not_there_explain_themselves() -> None:
    def read(ctx: Any) -> None:
        ctx.last_scores_valid["loss"]

    hint = "ctx.last_scores_valid is None, because this epoch had no validation"
    every_second = {"given": (Tiny(), ones(2), ones(1)), "check_val_every_n_epoch": 2}
    error, _ = failed_fit({"bad": Act(on_epoch_end=read)}, TypeError, **every_second)
    assert error.__notes__[1:] == [hint]
    error, _ = failed_fit({"bad": Act(on_epoch_end=lambda ctx: None + 1)}, TypeError)  # they are not None here
    assert len(error.__notes__) == 1
    error, _ = failed_fit({"bad": Act(on_epoch_end=lambda ctx: 1 + "1")}, TypeError, **every_second)
    assert len(error.__notes__) == 1


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize(("epoch", "is_noted"), [(1, True), (2, False)])
def test_an_error_says_that_on_epoch_begin_did_not_run(epoch: int, is_noted: bool, tmp_path: Path) -> None:
    def save(ctx: Any) -> None:
        if ctx.step == 1:
            ctx.trainer.save_checkpoint(tmp_path / "inside.ckpt")

    def fail(ctx: Any) -> None:
        if ctx.epoch == epoch:
            raise Boom

    fit({"bad": Act(on_batch_end=save)}, Tiny(), ones(3))
    trainer = quiet(callbacks=[CallbackSetAdapter({"bad": Act(on_batch_end=fail)})], max_epochs=2)
    with pytest.raises(Boom) as raised:
        trainer.fit(Tiny(), ones(3), ckpt_path=tmp_path / "inside.ckpt")
    note = "; on_epoch_begin did not run, because the run was resumed inside the epoch"
    assert raised.value.__notes__[0].endswith(note) == is_noted


@pytest.mark.skipif(Version(L.__version__) < Version("2.5"), reason="Lightning 2.4 trains the last batch again")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:You're resuming from a checkpoint")
def test_a_checkpoint_that_was_written_without_the_adapter_and_inside_an_epoch(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    quiet(max_epochs=1, callbacks=[save], enable_checkpointing=True).fit(Tiny(), ones(3))
    log = StageLog("epoch", "step", stages=("on_epoch_begin", "on_batch_end", "on_before_valid", "on_epoch_end"))
    trainer = quiet(max_epochs=2, callbacks=[CallbackSetAdapter(log)])
    trainer.fit(Tiny(), ones(3), ckpt_path=tmp_path / "step=1.ckpt")
    rest = [("batch_end", 1, 2), ("batch_end", 1, 3), ("before_valid", 1, 3), ("epoch_end", 1, 3)]
    assert log.rows[:4] == rest  # the epoch has begun, and so on_epoch_begin does not run
    assert log.rows[4:] == [
        ("epoch_begin", 2, 3),  # the step of the last batch
        *(("batch_end", 2, step) for step in (1, 2, 3)),
        ("before_valid", 2, 3),
        ("epoch_end", 2, 3),
    ]


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
    assert error.__notes__[0] == "in callback 'bad' (Bad), state_dict, epoch 1, step 2, rank 0 of 1"


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
    assert "no batch has started, or the batch has failed" in messages[0]
    assert "can only be assigned in on_batch_begin" in messages[1]
