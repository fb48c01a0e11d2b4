"""What checkpoints keep, and what is handed over from them."""

import os
import signal
import subprocess
import sys
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback, LearningRateFinder, OnExceptionCheckpoint
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from packaging.version import Version
from torch.utils.data import DataLoader

import callbacksets
from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory, read_states, t_clbk
from callbacksets.fit.plain import unloadable
from callbacksets.fit.states import KEY, read
from tests.helpers import ROOT, Act, Tiny, fit, ones, quiet

# checkpoints are written and read here in all combinations of callbacks
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


class CallbackSetKeep(CallbackSet):
    """Has a state, and counts what is done with it."""

    def __init__(self, state: Any = None) -> None:
        self.state = state
        self.calls: list[str] = []

    def on_begin(self) -> None:
        self.calls.append("begin")

    def on_exit(self) -> None:
        self.calls.append("exit")

    def state_dict(self) -> Any:
        self.calls.append("state_dict")
        return self.state

    def load_state_dict(self, state_dict: Any) -> None:
        assert self.ctx is not None
        self.calls.append("load_state_dict")
        self.state = state_dict


def trained(callbacks: Any, path: Path | None = None, **kwargs: Any) -> tuple[CallbackSetAdapter, L.Trainer]:
    adapter = CallbackSetAdapter(callbacks)
    trainer = quiet(callbacks=[adapter], **({"max_epochs": 2} | kwargs))
    trainer.fit(Tiny(), ones(2), ones(1))
    if path is not None:
        trainer.save_checkpoint(path)
    return adapter, trainer


def resumed(callbacks: Any, path: Path, **kwargs: Any) -> CallbackSetAdapter:
    adapter = CallbackSetAdapter(callbacks)
    quiet(callbacks=[adapter], **({"max_epochs": 3} | kwargs)).fit(Tiny(), ones(2), ones(1), ckpt_path=path)
    return adapter


@pytest.mark.parametrize("state", [0, False, "", [], {}, 0.0, {"a": (1, [2.5, None])}, OrderedDict(a=1)])
def test_states_survive_also_falsy_ones(state: Any, tmp_path: Path) -> None:
    adapter, _ = trained([CallbackSetKeep(state)], tmp_path / "a.ckpt")
    assert adapter.states == {"keep": state}
    assert read_states(tmp_path / "a.ckpt") == {"keep": state}
    keep = CallbackSetKeep("other")
    resumed([keep], tmp_path / "a.ckpt")
    assert keep.state == state
    assert keep.calls[:2] == ["load_state_dict", "begin"]


def test_none_is_no_state(tmp_path: Path) -> None:
    adapter, _ = trained([CallbackSetKeep(None)], tmp_path / "a.ckpt")
    assert adapter.states == {}
    keep = CallbackSetKeep("own")
    resumed([keep], tmp_path / "a.ckpt")
    assert keep.state == "own"
    assert "load_state_dict" not in keep.calls


def test_states_are_copies(tmp_path: Path) -> None:
    live = {"tensor": torch.zeros(2), "list": [1]}
    adapter, trainer = trained([CallbackSetKeep(live)])
    live["tensor"] += 1
    live["list"].append(2)
    assert adapter.states["keep"]["tensor"].tolist() == [0, 0]
    adapter.states["keep"]["list"].append(3)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert trainer.callbacks[0] is adapter


@pytest.mark.parametrize(
    ("state", "paths"),
    [
        ({"a": {"b": [1, np.float64(2)]}}, ["['a']['b'][1] (a numpy.float64)"]),
        (deque([1]), ["(a collections.deque)"]),
        ({"path": Path("x"), "fine": torch.zeros(3)}, None),
        ([1, "a", None, True, 2.5, 1j, b"x", (1,), {1: 2}, {3}, torch.zeros(1), OrderedDict(a=1)], []),
    ],
)
def test_what_would_not_load_with_weights_only(state: Any, paths: list[str] | None) -> None:
    found = list(unloadable(state))
    if paths is None:
        assert len(found) == 1
        assert found[0].startswith("['path'] (a pathlib")
    else:
        assert found == paths


def test_saving_such_a_state_warns_once_with_id_and_path(tmp_path: Path) -> None:
    save = Act(on_epoch_end=lambda ctx: ctx.trainer.save_checkpoint(tmp_path / "a.ckpt"))
    adapter = CallbackSetAdapter([CallbackSetKeep({"when": [np.float64(1)]}), save])
    with pytest.warns(
        UserWarning, match=r"callback 'keep' has a value at \['when'\]\[0\] \(a numpy.float64\)"
    ) as warned:
        fit(adapter, None, ones(2), ones(1), max_epochs=2)
    assert len([warning for warning in warned if "has a value at" in str(warning.message)]) == 1


def test_unknown_id_warns_and_names_the_nearest(tmp_path: Path) -> None:
    trained({"keeper": CallbackSetKeep(1)}, tmp_path / "a.ckpt")
    with (
        pytest.warns(UserWarning, match=r"this run does not have: 'keeper'\. They are ignored.*Did you mean 'keep'?"),
        pytest.warns(UserWarning, match="The checkpoint has no state of callback 'keep', so this callback starts anew"),
    ):
        resumed([CallbackSetKeep()], tmp_path / "a.ckpt")


def test_another_class_under_the_id_is_an_error(tmp_path: Path) -> None:
    trained({"x": CallbackSetKeep(1)}, tmp_path / "a.ckpt")
    history = CallbackSetHistory()
    with pytest.raises(
        ValueError,
        match="state of 'x' in the checkpoint belongs to a CallbackSetKeep, but in this run 'x' is a CallbackSetHis",
    ):
        resumed({"x": history}, tmp_path / "a.ckpt")
    assert history.ctx is None


def test_a_state_nobody_loads_warns(tmp_path: Path) -> None:
    class CallbackSetGiver(CallbackSet):
        def state_dict(self) -> Any:
            return 1

    trained([CallbackSetGiver()], tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match=r"CallbackSetGiver does not implement load_state_dict\(\)"):
        resumed([CallbackSetGiver()], tmp_path / "a.ckpt")


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    trained([CallbackSetKeep(1)], tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    checkpoint["callbacks"][KEY]["version"] += 1
    torch.save(checkpoint, tmp_path / "b.ckpt")
    with pytest.raises(RuntimeError, match="have format version 4, but this callbacksets reads up to version 3"):
        resumed([CallbackSetKeep()], tmp_path / "b.ckpt")


def test_a_run_shorter_than_its_checkpoint_is_refused(tmp_path: Path) -> None:
    """Lightning counts the epochs that have ended, and speaks first."""
    save = Act(
        on_epoch_end=lambda ctx: ctx.epoch == 2 and ctx.trainer.save_checkpoint(tmp_path / "end.ckpt"),
        on_batch_end=lambda ctx: ctx.global_step == 5 and ctx.trainer.save_checkpoint(tmp_path / "inside.ckpt"),
    )
    trained({"keep": CallbackSetKeep(1), "save": save}, tmp_path / "a.ckpt", max_epochs=3)
    with pytest.raises(ValueError, match=r"saved in epoch 3, but this run ends after 2\. .*max_epochs=.* 3"):
        resumed({"keep": CallbackSetKeep()}, tmp_path / "inside.ckpt", max_epochs=2)
    with pytest.raises(ValueError, match=r"saved in epoch 2, but this run ends after 1\."):
        resumed({"keep": CallbackSetKeep()}, tmp_path / "end.ckpt", max_epochs=1)
    for name, epochs in (("a", 2), ("inside", 1), ("end", 0)):
        with pytest.raises(MisconfigurationException, match="You restored a checkpoint with current_epoch="):
            resumed({"keep": CallbackSetKeep()}, tmp_path / f"{name}.ckpt", max_epochs=epochs)


def test_a_callback_whose_state_is_missing_is_named_unless_it_had_none(tmp_path: Path) -> None:
    trained({"keep": CallbackSetKeep(None)}, tmp_path / "a.ckpt")
    resumed({"keep": CallbackSetKeep(1), "new": Act()}, tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="The checkpoint has no state of callback 'other', so this callback starts"):
        resumed({"keep": CallbackSetKeep(1), "other": CallbackSetKeep(1)}, tmp_path / "a.ckpt")
    new = t_clbk("checkpoint", path=tmp_path / "new", freq=9)  # its state is not restored
    resumed({"keep": CallbackSetKeep(1), "checkpoint": new}, tmp_path / "a.ckpt")


@pytest.mark.parametrize("of_first", [0, 1])
def test_a_validation_in_only_one_of_the_runs_warns(of_first: int, tmp_path: Path) -> None:
    adapter = CallbackSetAdapter(CallbackSetKeep(1))
    trainer = quiet(callbacks=[adapter], max_epochs=1, limit_val_batches=of_first)
    trainer.fit(Tiny(), ones(2), ones(1))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match=rf"other data .*: {1 - of_first} validation batches, not {of_first}\."):
        resumed(CallbackSetKeep(1), tmp_path / "a.ckpt", limit_val_batches=1 - of_first)


def test_other_data_than_the_checkpoints_run_had_warns_and_says_what_changed(tmp_path: Path) -> None:
    save = Act(on_epoch_end=lambda ctx: ctx.trainer.save_checkpoint(tmp_path / "a.ckpt"))
    loader, other = (DataLoader(torch.ones(n, 2), batch_size=2) for n in (4, 6))
    fit([save, CallbackSetHistory()], None, loader, loader)
    trainer = quiet(max_epochs=2, callbacks=[CallbackSetAdapter("history")])
    with pytest.warns(
        UserWarning, match="6 training samples, not 4; 3 training batches, not 2; 6 validation sa"
    ) as said:
        trainer.fit(Tiny(), other, other, ckpt_path=tmp_path / "a.ckpt")
    assert len([one for one in said if "other data" in str(one.message)]) == 1


@pytest.mark.parametrize("named", [False, True])
def test_other_data_of_several_loaders_is_compared_one_by_one(named: bool, tmp_path: Path) -> None:
    save = Act(on_epoch_end=lambda ctx: ctx.trainer.save_checkpoint(tmp_path / "a.ckpt"))
    train = {name: DataLoader(torch.ones(4, 2), batch_size=2) for name in "ab"} if named else ones(2)
    valid = [DataLoader(torch.ones(n, 2), batch_size=2) for n in (4, 6)]
    module = Tiny()
    module.loss = lambda batch: module.network(batch["a"] if isinstance(batch, dict) else batch).pow(2).mean()
    fit([save, CallbackSetHistory()], module, train, valid)
    trainer = quiet(max_epochs=2, callbacks=[CallbackSetAdapter("history")])
    with pytest.warns(UserWarning, match=r"\[6, 4\] validation samples, not \[4, 6\]\. Resume") as said:
        trainer.fit(module, train, valid[::-1], ckpt_path=tmp_path / "a.ckpt")
    assert "training samples" not in str([one.message for one in said])
    if named:
        train["b"] = DataLoader(torch.ones(3, 2), batch_size=2)
        trainer = quiet(max_epochs=2, callbacks=[CallbackSetAdapter("history")])
        with pytest.warns(UserWarning, match="{'a': 4, 'b': 3} training samples, not {'a': 4, 'b': 4}"):
            trainer.fit(module, train, valid, ckpt_path=tmp_path / "a.ckpt")


VERSION_1 = {"epoch": 2, "global_step": 6, "in_epoch": True, "validated": False, "scored_at": 6, "scores_valid": None}
VERSION_1 |= dict.fromkeys(("last_loss", "terminate", "terminated_by", "scores_train", "minimize"))


@pytest.mark.parametrize(
    ("flags", "ran"),
    [
        ({}, {"on_epoch_begin": (2, 6), "on_epoch_end": (1, -1)}),
        ({"in_epoch": False}, {"on_epoch_begin": (2, 6), "on_epoch_end": (2, 6)}),
        ({"epoch": 0, "in_epoch": False}, {"on_epoch_begin": (-1, -1), "on_epoch_end": (0, 6)}),
        ({"epoch_ends": True}, {"on_epoch_begin": (2, 6), "on_epoch_end": (1, -1), "on_before_valid": (2, 6)}),
        ({"validated": True}, {"on_epoch_begin": (2, 6), "on_epoch_end": (1, -1), "on_before_valid": (2, 6)}),
        (
            {"validated": True, "scores_valid": {"loss": 1.0}},
            {"on_epoch_begin": (2, 6), "on_epoch_end": (1, -1), "on_before_valid": (2, 6), "on_valid_end": (2, 6)},
        ),
    ],
)
def test_the_flags_of_version_1_become_stages_that_ran(flags: dict[str, Any], ran: dict[str, tuple[int, int]]) -> None:
    loop = read({"version": 1, "begun": True, "loop": VERSION_1 | flags})["loop"]
    assert loop is not None
    assert loop["ran"] == ran
    assert loop["now"] == ((VERSION_1 | flags)["epoch"], 6)
    assert read({"version": 1, "begun": False, "loop": {}})["loop"] is None


def test_a_checkpoint_says_which_callbacksets_wrote_it(tmp_path: Path) -> None:
    trained([CallbackSetKeep(1)], tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"][KEY]
    assert saved["callbacksets"] == callbacksets.__version__


def test_scores_in_a_state_are_saved_as_a_plain_dict(tmp_path: Path) -> None:
    class CallbackSetLast(CallbackSet):
        def on_valid_end(self) -> None:
            self.last = [{"scores": self.ctx.last_scores_valid}]

        def state_dict(self) -> Any:
            return self.last

        def load_state_dict(self, state_dict: Any) -> None:
            self.last = state_dict

    save = Act(on_epoch_end=lambda ctx: ctx.trainer.save_checkpoint(tmp_path / "a.ckpt"))
    fit([CallbackSetLast(), save], None, ones(1), ones(1))
    [kept] = read_states(tmp_path / "a.ckpt")["last"]
    assert type(kept["scores"]) is dict
    assert read_states(tmp_path / "a.ckpt", weights_only=False)["last"] == [kept]


def test_read_states_of_a_checkpoint_with_other_hyperparameters_names_weights_only(tmp_path: Path) -> None:
    class Hyper(Tiny):
        def __init__(self, where: Any) -> None:
            super().__init__()
            self.save_hyperparameters()

    save = Act(on_epoch_end=lambda ctx: ctx.trainer.save_checkpoint(tmp_path / "a.ckpt"))
    fit([CallbackSetHistory(), save], Hyper(Path("somewhere")))
    with pytest.raises(ValueError, match=r"you trust it: read_states\(\.\.\., weights_only=False\)"):
        read_states(tmp_path / "a.ckpt")
    assert read_states(tmp_path / "a.ckpt", weights_only=False)["history"]["epoch"] == [1]


def test_resumed_tells_whether_a_checkpoint_is_continued(tmp_path: Path) -> None:
    class CallbackSetAsk(CallbackSet):
        def on_begin(self) -> None:
            self.resumed = self.ctx.resumed

    ask = CallbackSetAsk()
    _, trainer = trained([ask], tmp_path / "a.ckpt")
    assert ask.resumed is False
    resumed([ask], tmp_path / "a.ckpt")
    assert ask.resumed is True
    quiet(max_epochs=1).fit(module := Tiny(), ones(2), ones(1))
    trainer = quiet(max_epochs=1)
    trainer.fit(module, ones(2), ones(1))
    trainer.save_checkpoint(tmp_path / "without.ckpt")  # by a run that had no adapter
    resumed([ask], tmp_path / "without.ckpt")
    assert ask.resumed is True


def test_validating_a_checkpoint_loads_no_states(tmp_path: Path) -> None:
    keep = CallbackSetKeep(1)
    _, trainer = trained([keep], tmp_path / "a.ckpt")
    keep.calls.clear()
    trainer.validate(Tiny(), ones(1), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert keep.calls == []


def test_what_has_not_begun_passes_on_what_was_loaded(tmp_path: Path) -> None:
    class CallbackSetFail(CallbackSet):
        def on_begin(self) -> None:
            self.ctx.trainer.save_checkpoint(tmp_path / "b.ckpt")
            raise RuntimeError("boom")

    before, after = CallbackSetKeep(1), CallbackSetKeep(2)
    trained({"before": before, "after": after}, tmp_path / "a.ckpt")
    before, after = CallbackSetKeep(10), CallbackSetKeep(20)
    adapter = CallbackSetAdapter({"before": before, "fail": CallbackSetFail(), "after": after})
    trainer = quiet(callbacks=[adapter], max_epochs=3)
    with pytest.raises(RuntimeError, match="boom"):
        trainer.fit(Tiny(), ones(2), ones(1), ckpt_path=tmp_path / "a.ckpt")
    assert before.calls == ["load_state_dict", "begin", "state_dict", "state_dict", "exit"]
    assert after.calls == ["load_state_dict", "exit"]
    assert adapter.states == read_states(tmp_path / "b.ckpt") == {"before": 1, "after": 2}


def test_states_until_a_failure_are_kept(tmp_path: Path) -> None:
    class CallbackSetFail(CallbackSet):
        def on_epoch_end(self) -> None:
            if self.ctx.epoch == 3:
                raise RuntimeError("boom")

        def state_dict(self) -> Any:
            raise ValueError("no state")

    adapter = CallbackSetAdapter([CallbackSetHistory(), CallbackSetFail(), CallbackSetKeep(1)])
    trainer = quiet(callbacks=[adapter], max_epochs=5)

    def fit_and_save() -> None:
        try:
            trainer.fit(Tiny(), ones(2), ones(1))
        except RuntimeError:
            trainer.save_checkpoint(tmp_path / "a.ckpt")
            raise

    with pytest.raises(RuntimeError, match="boom") as raised:
        fit_and_save()
    assert any("ValueError: no state" in note for note in raised.value.__notes__)
    assert adapter.states["history"]["epoch"] == [1, 2, 3]
    assert adapter.states["keep"] == 1
    assert read_states(tmp_path / "a.ckpt") == adapter.states


class Tunable(Tiny):
    lr = 0.01


class Sized(L.LightningDataModule):
    batch_size = 2

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=self.batch_size)

    def val_dataloader(self) -> Any:
        return ones(1)


def test_tuners_leave_no_trace(tmp_path: Path) -> None:
    module, keep = Tunable(), CallbackSetKeep(1)
    adapter = CallbackSetAdapter([CallbackSetHistory(), keep])
    trainer = quiet(callbacks=[adapter], max_epochs=2, default_root_dir=tmp_path)
    Tuner(trainer).lr_find(module, ones(2), ones(1), num_training=5)
    assert keep.calls == []  # it has only set up
    assert adapter.states == {}
    Tuner(trainer).scale_batch_size(module, datamodule=Sized(), max_trials=1, steps_per_trial=1)
    keep.calls.clear()
    trainer.fit(module, ones(2), ones(1))
    assert keep.calls == ["begin", "state_dict", "exit"]
    assert adapter.states["history"]["epoch"] == [1, 2]


def test_a_learning_rate_finder_in_the_fit_leaves_no_trace(tmp_path: Path) -> None:
    keep = CallbackSetKeep(1)
    adapter = CallbackSetAdapter([keep, CallbackSetHistory()])
    finder = LearningRateFinder(num_training_steps=5)
    quiet(callbacks=[finder, adapter], max_epochs=2, default_root_dir=tmp_path).fit(Tunable(), ones(2), ones(1))
    assert keep.calls == ["begin", "state_dict", "exit"]
    assert adapter.states["history"]["epoch"] == [1, 2]


@pytest.mark.skipif(Version(L.__version__) < Version("2.5"), reason="its finder leaves the Trainer in the second epoch")
def test_a_tuner_that_undoes_the_resuming_is_noticed(tmp_path: Path) -> None:
    resumed: list[bool] = []

    def see(ctx: Any) -> None:
        resumed.append(ctx.resumed)

    def fit(epochs: int, **kwargs: Any) -> CallbackSetAdapter:
        adapter = CallbackSetAdapter({"history": CallbackSetHistory(), "act": Act(on_begin=see)})
        finder = LearningRateFinder(num_training_steps=5)
        trainer = quiet(callbacks=[finder, adapter], max_epochs=epochs, default_root_dir=tmp_path)
        trainer.fit(Tunable(), ones(2), ones(1), **kwargs)
        trainer.save_checkpoint(tmp_path / "two.ckpt")
        return adapter

    fit(2)
    with pytest.warns(
        UserWarning, match="Lightning starts from the beginning, although .* after 4 batches. A tuner among"
    ):
        adapter = fit(3, ckpt_path=tmp_path / "two.ckpt")
    assert adapter.states["history"]["epoch"] == [1, 2, 3]
    assert resumed == [False, False]


class Doubling(L.Callback):
    """Puts other weights into checkpoints, as those that average weights do."""

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {name: 2 * value for name, value in checkpoint["state_dict"].items()}


# OnExceptionCheckpoint looks for its checkpoint at every fit
@pytest.mark.filterwarnings(r"ignore:`.fit\(ckpt_path=None\)` was called without a model")
@pytest.mark.filterwarnings(r"ignore:.*is set, but there is no last checkpoint available")
@pytest.mark.parametrize("before", [True, False])
def test_a_checkpoint_on_an_exception_has_the_weights_from_before_and_what_others_make_of_them(
    before: bool, tmp_path: Path
) -> None:
    def spoil(ctx: Any) -> None:
        weights.append(ctx.network.weight.detach().clone())
        torch.nn.init.constant_(ctx.network.weight, 7.0)

    weights: list[torch.Tensor] = []
    adapter = CallbackSetAdapter(Act(on_exit=spoil, on_epoch_end=lambda ctx: 1 / 0))
    callbacks = [Doubling(), adapter] if before else [adapter, Doubling()]
    trainer = quiet(callbacks=[*callbacks, OnExceptionCheckpoint(tmp_path)], enable_checkpointing=True, max_epochs=1)
    module = Tiny()
    with pytest.raises(ZeroDivisionError):
        trainer.fit(module, ones(2), ones(1))
    saved = torch.load(tmp_path / "on_exception.ckpt")
    assert torch.equal(saved["state_dict"]["network.weight"], 2 * weights[0])
    assert saved["callbacks"][KEY]["exact"]
    later: list[torch.Tensor] = []
    look = LambdaCallback(
        on_validation_end=lambda trainer, module: later.append(trainer.strategy.lightning_module_state_dict())
    )
    trainer.callbacks.append(look)
    trainer.validate(module, ones(1), verbose=False)  # the fit is over, and so is what was kept of it
    assert later[0]["network.weight"].unique().tolist() == [7.0]
    assert "lightning_module_state_dict" not in vars(trainer.strategy)


@pytest.mark.parametrize("bad", ["missing.ckpt", "other.pt", "half.pt", "text.pt"])
def test_read_states_refuses_what_is_no_checkpoint(bad: str, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    whole = (tmp_path / "other.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises((FileNotFoundError, ValueError), match=rf"file.*{bad}"):
        read_states(tmp_path / bad)
    with pytest.raises(ValueError, match=r"got the folder .*latest_checkpoint\(path\) finds the newest"):
        read_states(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM against a real process: every exit runs once, and the states are there."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.scripts.signalled"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "training":
                process.send_signal(number)
                break
        lines = [line.strip() for line in process.stdout]
    assert lines.count("exit one") == lines.count("exit two") == 1
    assert any(line.startswith("states {'history': {'epoch': [1, 2") for line in lines)


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


# OnExceptionCheckpoint looks for its checkpoint at every fit
@pytest.mark.filterwarnings(r"ignore:`.fit\(ckpt_path=None\)` was called without a model")
@pytest.mark.filterwarnings(r"ignore:.*is set, but there is no last checkpoint available")
def test_after_a_failed_fit_the_next_saves_its_own(tmp_path: Path) -> None:
    def fails(ctx: Any) -> None:
        if not fits:
            fits.append(ctx.epoch)
            raise ZeroDivisionError

    fits: list[int] = []
    adapter = CallbackSetAdapter({"act": Act(on_epoch_end=fails, on_exit=lambda ctx: None), "history": "history"})
    save = LambdaCallback(on_train_epoch_end=lambda trainer, module: trainer.save_checkpoint(tmp_path / "last.ckpt"))
    trainer = quiet(
        callbacks=[save, adapter, OnExceptionCheckpoint(tmp_path)],
        max_epochs=2,
        enable_checkpointing=True,
    )
    strategy = trainer.strategy
    strategy.lightning_module_state_dict = users = lambda: {"users": torch.ones(1)}
    with pytest.raises(ZeroDivisionError):
        trainer.fit(Tiny(), ones(1))
    trainer.fit(Tiny(), ones(1))
    assert strategy.lightning_module_state_dict is users
    assert read_states(tmp_path / "last.ckpt")["history"]["epoch"][-1] == 2
    assert list(torch.load(tmp_path / "last.ckpt")["state_dict"]) == ["users"]
