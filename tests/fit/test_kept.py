"""What a resumed run does that the checkpoint's run had not done, and does not do again."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, OnExceptionCheckpoint

from callbacksets import CallbackSet, CallbackSetAdapter, t_clbk
from callbacksets.base import STAGES
from callbacksets.fit.states import KEY
from tests.helpers import Act, Batches, StageLog, Tiny, ones, quiet

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:train_dataloader yielded None"),
    pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with Lightning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings(r"ignore:`.fit\(ckpt_path=None\)` was called without a model"),
    pytest.mark.filterwarnings(r"ignore:.*is set, but there is no last checkpoint available"),
]


class Counted(StageLog):
    """Keeps the stages it came to in its state, so that they go on in a resumed run."""

    def __init__(self, *stages: str) -> None:
        super().__init__("epoch", "global_step", stages=stages or tuple(s for s in STAGES if s != "on_exit"))

    def state_dict(self) -> Any:
        return [list(row) for row in self.rows]

    def load_state_dict(self, state_dict: Any) -> None:
        self.rows = [tuple(row) for row in state_dict]


class StageLosses(Counted):
    """The last loss at the end of each batch."""

    def __init__(self) -> None:
        StageLog.__init__(self, "global_step", "last_loss", stages=("on_batch_end",))


class Native(L.Callback):
    """A callback of Lightning that does something in one hook, at one number of batches."""

    def __init__(self, hook: str, batches: int, do: Callable[[L.Trainer], None]) -> None:
        self.batches, self.do = batches, do
        setattr(self, hook, self.look)

    def look(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batches and not trainer.sanity_checking:
            self.do(trainer)


class InterruptedFit(Exception):
    pass


def interrupt(trainer: L.Trainer) -> None:
    raise InterruptedFit


def save(path: Path) -> Callable[[L.Trainer], None]:
    return lambda trainer: trainer.save_checkpoint(path)


def run(
    callbacks: dict[str, Any],
    *,
    ckpt: Path | None = None,
    before: tuple[L.Callback, ...] = (),
    behind: tuple[L.Callback, ...] = (),
    loaders: tuple[Any, ...] = (ones(3), ones(1)),
    adapter: dict[str, Any] = {},
    **kwargs: Any,
) -> dict[str, Any]:
    """The states after a fit, which may be interrupted."""
    torch.manual_seed(0)
    bridge = CallbackSetAdapter(callbacks, **adapter)
    saves = any(isinstance(native, Checkpoint) for native in behind)
    trainer = quiet(**({"max_epochs": 3} | kwargs), callbacks=[*before, bridge, *behind], enable_checkpointing=saves)
    with suppress(InterruptedFit):
        trainer.fit(Tiny(), *loaders, ckpt_path=ckpt)
    return bridge.states


def without_ends(rows: list[Any]) -> list[Any]:
    return [row for row in rows if row[0] not in ("begin", "end")]


def test_the_stages_behind_an_own_callback_that_saves_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    def callbacks() -> dict[str, Any]:
        saves = Act(on_epoch_end=lambda ctx: ctx.epoch == 2 and ctx.trainer.save_checkpoint(tmp_path / "two.ckpt"))
        return {"ahead": Counted(), "saves": saves, "behind": Counted(), "lr": t_clbk("lr_step", step_size=1)}

    whole = run(callbacks())
    parts = run(callbacks(), ckpt=tmp_path / "two.ckpt")
    for id in ("ahead", "behind"):
        assert without_ends(parts[id]) == without_ends(whole[id])
    assert parts["lr"] == whole["lr"]


@pytest.mark.parametrize("stage", ["on_batch_end", "on_valid_end", "on_epoch_end"])
def test_an_own_callback_that_saves_in_the_middle_of_any_stage(stage: str, tmp_path: Path) -> None:
    """Each of the others has had the stage once, whichever side of the saving one it stands on."""

    def callbacks() -> dict[str, Any]:
        def save(ctx: Any) -> None:
            if (ctx.epoch, ctx.step) == (2, 3):
                ctx.trainer.save_checkpoint(tmp_path / "two.ckpt")

        saves = Act(**{stage: save})
        return {"ahead": Counted(stage), "saves": saves, "behind": Counted(stage)}

    whole = run(callbacks())
    parts = run(callbacks(), ckpt=tmp_path / "two.ckpt")
    assert parts["ahead"] == whole["ahead"]
    assert parts["behind"] == whole["behind"]


def test_others_run_the_stage_before_a_callback_saves_and_with_the_batch(tmp_path: Path) -> None:
    """In a resumed run there is no batch any more, and no output of the network."""
    order: list[str] = []

    def save(ctx: Any) -> None:
        order.append("saves")
        if ctx.global_step == 2:
            ctx.trainer.save_checkpoint(tmp_path / "two.ckpt")
            order.append("saved")

    def behind(ctx: Any) -> None:
        order.append(f"behind {tuple(ctx.y_hat.shape)}")

    run({"saves": Act(on_batch_end=save), "behind": Act(on_batch_end=behind)}, max_epochs=1)
    assert order == [*("saves", "behind (2, 1)"), *("saves", "behind (2, 1)", "saved"), *("saves", "behind (2, 1)")]


def test_the_stages_of_an_interrupted_validation_run_again(tmp_path: Path) -> None:
    def callbacks() -> dict[str, Any]:
        saves = Act(on_before_valid=lambda ctx: ctx.epoch == 2 and ctx.trainer.save_checkpoint(tmp_path / "two.ckpt"))
        return {"ahead": Counted("on_before_valid"), "saves": saves, "behind": Counted("on_before_valid")}

    whole = run(callbacks())
    parts = run(callbacks(), ckpt=tmp_path / "two.ckpt")
    assert parts["behind"] == whole["behind"]
    assert parts["ahead"] == [*whole["ahead"][:2], *whole["ahead"][1:]]


def test_the_validation_after_a_checkpoint_of_the_last_batch(tmp_path: Path) -> None:
    keep = partial(ModelCheckpoint, tmp_path, "{step}", save_top_k=-1)

    def callbacks() -> dict[str, Any]:
        return {"log": Counted(), "history": "history", "lr": t_clbk("lr_step", step_size=1, gamma=0.5)}

    whole = run(callbacks())
    run(callbacks(), behind=(keep(every_n_train_steps=3), Native("on_validation_start", 6, interrupt)))
    parts = run(callbacks(), ckpt=tmp_path / "step=6.ckpt")
    assert without_ends(parts.pop("log")) == without_ends(whole.pop("log"))
    assert parts == whole


@pytest.mark.parametrize("validates", [True, False])
def test_an_end_of_an_epoch_that_anothers_exception_prevented(validates: bool, tmp_path: Path) -> None:
    loaders = (ones(3), ones(1)) if validates else (ones(3),)

    def callbacks() -> dict[str, Any]:
        return {"log": Counted(), "history": "history", "lr": t_clbk("lr_step", step_size=1, gamma=0.5)}

    whole = run(callbacks(), loaders=loaders)
    fails = Native("on_train_epoch_end", 6, interrupt)
    run(callbacks(), before=(fails,), behind=(OnExceptionCheckpoint(tmp_path),), loaders=loaders)
    parts = run(callbacks(), ckpt=tmp_path / "on_exception.ckpt", loaders=loaders)
    assert without_ends(parts["log"]) == without_ends(whole["log"])
    assert parts["history"] == whole["history"]
    assert parts["lr"] == whole["lr"]


def test_an_end_of_a_batch_that_anothers_exception_prevented(tmp_path: Path) -> None:
    """Lightning has trained the batch, and goes on with the next."""

    def callbacks() -> dict[str, Any]:
        return {"log": StageLosses()}

    whole = run(callbacks(), loaders=(ones(3),))
    fails = Native("on_train_batch_end", 5, interrupt)
    run(callbacks(), before=(fails,), behind=(OnExceptionCheckpoint(tmp_path),), loaders=(ones(3),))
    assert run(callbacks(), ckpt=tmp_path / "on_exception.ckpt", loaders=(ones(3),)) == whole


def test_a_none_batch_counts_the_same_whoever_saves_it(tmp_path: Path) -> None:
    """Lightning gives it once more to the resumed run."""
    loader = Batches([torch.ones(2, 2), None, torch.ones(2, 2)])
    rest = Batches([None, torch.ones(2, 2), torch.ones(2, 2)])  # a loader that goes on where it was
    rows = {}
    for side in ("before", "behind"):
        path = tmp_path / f"{side}.ckpt"
        native = {side: (Native("on_train_batch_end", 2, save(path)),)}
        run({"log": Counted()}, loaders=(loader,), max_epochs=1, limit_train_batches=3, **native)
        assert tuple(torch.load(path, weights_only=True)["callbacks"][KEY]["loop"]["now"]) == (1, 2)
        rows[side] = run({"log": Counted()}, ckpt=path, loaders=(rest,), max_epochs=1, limit_train_batches=3)["log"]
    assert rows["before"] == rows["behind"]
    batches = [row[2] for row in rows["behind"] if row[0] == "batch_begin"]
    assert batches == sorted(set(batches))  # none counts twice


class AddsTrainScore(CallbackSet):
    """Adds a training score before each validation, and keeps the training scores of each epoch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_before_valid(self) -> None:
        self.ctx.last_scores_train["mine"] = float(self.ctx.epoch)  # type: ignore[index]

    def on_epoch_end(self) -> None:
        self.rows.append(dict(self.ctx.last_scores_train or {}))

    def state_dict(self) -> Any:
        return list(self.rows)

    def load_state_dict(self, state_dict: Any) -> None:
        self.rows = list(state_dict)


@pytest.mark.parametrize("hook", ["on_validation_start", "on_validation_end"])
def test_training_scores_that_a_callback_added_before_the_checkpoint(hook: str, tmp_path: Path) -> None:
    path = tmp_path / "two.ckpt"
    whole = run({"adds": AddsTrainScore()}, behind=(Native(hook, 6, save(path)),))["adds"]
    assert [row["mine"] for row in whole] == [1.0, 2.0, 3.0]
    assert run({"adds": AddsTrainScore()}, ckpt=path)["adds"] == whole


def test_a_stop_after_a_validation_is_the_same_whoever_saves(tmp_path: Path) -> None:
    """The fit that is stopped has ended: who resumes it wants to go on."""
    limits: dict[str, Any] = {"max_epochs": -1, "max_steps": 6, "val_check_interval": 2, "num_sanity_val_steps": 0}
    rows = {}
    for side in ("before", "behind", "own"):
        path = tmp_path / f"{side}.ckpt"

        def callbacks(path: Path = path, side: str = side) -> dict[str, Any]:
            stop = Act(on_valid_end=lambda ctx: ctx.global_step == 2 and setattr(ctx, "terminate", True))
            saves = Act(on_valid_end=lambda ctx: ctx.global_step == 2 and ctx.trainer.save_checkpoint(path))
            return {"log": Counted("on_batch_end"), "stop": stop} | ({"saves": saves} if side == "own" else {})

        native = (Native("on_validation_end", 2, save(path)),)
        natives = {} if side == "own" else {side: native}
        kwargs: dict[str, Any] = {"loaders": (ones(20), ones(1)), "adapter": {"terminate_at": "validation"}} | limits
        run(callbacks(), **natives, **kwargs)
        rows[side] = run(callbacks(), ckpt=path, **kwargs)["log"]
    assert rows["before"] == rows["behind"] == rows["own"]
    assert [row[2] for row in rows["own"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("side", ["before", "behind", "own"])
def test_a_checkpoint_inside_the_very_first_batch(side: str, tmp_path: Path) -> None:
    """No batch has been trained when such a run is resumed, and yet Lightning does not start over."""
    stages = ("on_epoch_begin", "on_batch_end", "on_valid_end", "on_epoch_end")
    path = tmp_path / "first.ckpt"
    own = Act(on_batch_begin=lambda ctx: ctx.global_step == 1 and ctx.trainer.save_checkpoint(path))
    natives = {} if side == "own" else {side: (Native("on_train_batch_start", 1, save(path)),)}
    whole = run({"log": Counted(*stages), "own": own}, **natives)
    parts = run({"log": Counted(*stages)}, ckpt=path)
    assert parts["log"] == whole["log"]


def test_a_checkpoint_of_an_epochs_first_hook_loses_no_batch(tmp_path: Path) -> None:
    path = tmp_path / "two.ckpt"
    for loader in (ones(3), Batches([None, *ones(2).batches])):
        loaders = (loader, ones(1))
        whole = run({"history": "history"}, before=(Native("on_train_epoch_start", 3, save(path)),), loaders=loaders)
        assert run({"history": "history"}, ckpt=path, loaders=loaders) == whole


def test_the_scores_of_an_epoch_in_which_nothing_is_left_to_train(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"max_epochs": -1, "max_steps": 5, "loaders": (ones(3), ones(1))}
    before = (Native("on_train_batch_end", 5, save(tmp_path / "five.ckpt")),)
    whole = run({"history": "history"}, before=before, **limits)
    assert run({"history": "history"}, ckpt=tmp_path / "five.ckpt", **limits) == whole


@pytest.mark.filterwarnings("ignore:The run had reached its last step, so Lightning trains nothing")
@pytest.mark.parametrize("hook", ["on_validation_end", "on_train_batch_end"])
@pytest.mark.parametrize("side", ["before", "behind"])
def test_the_end_of_the_last_epoch_where_there_is_nothing_left_to_train(side: str, hook: str, tmp_path: Path) -> None:
    """Lightning then calls none of its hooks in training, but the end of the epoch is due."""
    path = tmp_path / "last.ckpt"

    def callbacks() -> dict[str, Any]:
        ends = Counted("on_epoch_begin", "on_batch_end", "on_epoch_end")
        return {"log": ends, "history": "history", "lr": t_clbk("lr_step", step_size=1)}

    limits: dict[str, Any] = {"max_epochs": -1, "max_steps": 6}
    whole = run(callbacks(), **{side: (Native(hook, 6, save(path)),)}, **limits)
    parts = run(callbacks(), ckpt=path, **limits)
    assert parts["log"] == whole["log"]
    assert parts["lr"] == whole["lr"]
    assert parts["history"]["epoch"] == whole["history"]["epoch"]
    assert parts["history"]["train.loss"] == whole["history"]["train.loss"]


@pytest.mark.parametrize("how", ["on_before_valid", "on_epoch_end", "fails"])
def test_the_end_of_an_epoch_where_lightning_counts_in_steps(how: str, tmp_path: Path) -> None:
    """Lightning may train one batch more in it, which comes after its end, whoever saves."""
    path = tmp_path / "on_exception.ckpt"
    limits: dict[str, Any] = {"max_epochs": -1, "max_steps": 6, "loaders": (ones(3),)}

    def interrupts(ctx: Any) -> None:
        if ctx.epoch == 1:
            raise InterruptedFit

    def saves(ctx: Any) -> None:
        if ctx.epoch == 1:
            ctx.trainer.save_checkpoint(path)

    own = Act(on_before_valid=interrupts) if how == "fails" else Act(**{how: saves})
    behind = (OnExceptionCheckpoint(tmp_path),) if how == "fails" else ()
    run({"log": Counted("on_batch_end", "on_epoch_end"), "own": own}, behind=behind, **limits)
    log = run({"log": Counted("on_batch_end", "on_epoch_end")}, ckpt=path, **limits)["log"]
    assert [tuple(row) for row in log[:4]] == [*(("batch_end", 1, n) for n in (1, 2, 3)), ("epoch_end", 1, 3)]
    assert [row[1] for row in log if row[0] == "epoch_end"] == [1, 2]


def test_the_end_of_an_epoch_that_was_cut_short_is_made_up_for_once(tmp_path: Path) -> None:
    """By a run that has nothing left to train."""
    path = tmp_path / "on_exception.ckpt"
    limits: dict[str, Any] = {"max_epochs": -1, "max_steps": 2, "loaders": (ones(3),)}

    def interrupts(ctx: Any) -> None:
        raise InterruptedFit

    ends = partial(Counted, "on_batch_end", "on_epoch_end")
    own = Act(on_before_valid=interrupts)
    run({"log": ends(), "own": own}, behind=(OnExceptionCheckpoint(tmp_path),), **limits)
    log = run({"log": ends()}, ckpt=path, **limits)["log"]
    assert [tuple(row) for row in log] == [("batch_end", 1, 1), ("batch_end", 1, 2), ("epoch_end", 1, 2)]


DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("kind", ["epoch-end", "validation-end", "mid-epoch"])
def test_checkpoints_of_version_0_1_0_load(kind: str) -> None:
    """They were saved in the second of four epochs, by the code of that version."""
    expected = torch.load(DATA / "0.1.0-states.pt", weights_only=True)
    schedule = t_clbk("lr_step", step_size=1, gamma=0.5)
    ckpt = DATA / f"0.1.0-{kind}.pt"
    log = StageLog("epoch", stages=("on_batch_end",))
    callbacks = {"history": "history", "lr_step": schedule, "log": log}
    states = run(callbacks, ckpt=ckpt, loaders=(ones(4), ones(1)), max_epochs=4)
    if kind == "mid-epoch":  # it has not the scores of the batches before
        assert states["history"]["epoch"] == [1, 2, 3, 4]
        assert states["history"]["valid.loss"] == pytest.approx(expected["history"]["valid.loss"])
        assert log.at("batch_end") == [2] * 2 + [3] * 4 + [4] * 4
    else:
        for name, scores in expected["history"].items():
            assert states["history"][name] == pytest.approx(scores)
    assert states["lr_step"]["last_epoch"] == expected["lr_step"]["last_epoch"]
