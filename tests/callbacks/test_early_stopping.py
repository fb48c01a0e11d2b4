from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelPruning
from packaging.version import Version
from torch import nn

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetEarlyStopping, read_states, t_clbk
from tests.helpers import Act, Batches, Tiny, fit, ones, quiet


class Mode(str, Enum):  # noqa: UP042  # whose str() is its name, not its value
    MIN = "min"


class Score(str, Enum):  # noqa: UP042
    LOSS = "val_loss"


class Scored(Tiny):
    """Logs the given validation scores, one an epoch, and trains its weights away from zero."""

    def __init__(self, *scores: float, name: str = "val_loss", **more: list[float]) -> None:
        super().__init__()
        self.scores = {name: scores} | more
        torch.nn.init.zeros_(self.network.weight)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return -self.network(batch).mean()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        for name, scores in self.scores.items():
            self.log(name, scores[self.current_epoch], batch_size=1)


def stop(*scores: float, name: str = "val_loss", early: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """Fit with these scores; gives the callback, the module and the adapter."""
    callback = CallbackSetEarlyStopping(**({"patience": 2} | (early or {})))
    module = Scored(*scores, name=name)
    adapter = fit([callback], module, ones(1), ones(1), **({"max_epochs": len(scores)} | kwargs))
    return callback, module, adapter


@pytest.mark.parametrize(
    ("scores", "early", "last", "best"),
    [
        ([3, 2, 1, 0], {}, 4, 4),
        ([3, 2, 2, 2, 0], {}, 4, 2),
        ([3, 2, 2.5, 1, 2, 2, 2], {}, 6, 4),
        ([3, 2.5, 2, 1.9, 1.8], {"min_delta": 0.5}, 5, 3),
        ([3, 2.5, 2.5, 1.0], {"min_delta": 0.5}, 3, 1),  # must exceed min_delta, not reach it
        ([1, 2, 3], {"mode": "max"}, 3, 3),
        ([3, 2, 1, 4], {"mode": "max"}, 3, 1),
        ([3, 3], {"patience": 1}, 2, 1),
    ],
)
def test_stops_after_evaluations_without_an_improvement(
    scores: list[float], early: dict[str, Any], last: int, best: int
) -> None:
    _, _, adapter = stop(*scores, early=early)
    state = adapter.states["early_stopping"]
    assert (state["best_epochs"], state["best_score"]) == (best, scores[best - 1])
    if adapter.stopped_by is not None:
        assert adapter.stopped_by.epoch == last
        assert adapter.stopped_by.callback == "early_stopping"
        assert state["stagnation"] == early.get("patience", 2)
    else:
        assert last == len(scores)


@pytest.mark.parametrize(("scores", "best"), [([3, float("nan"), 4, 2], 4), ([float("nan"), 3, 2, 4], 3)])
def test_nan_warns_and_counts_for_nothing(scores: list[float], best: int) -> None:
    with pytest.warns(UserWarning, match="'loss' is NaN in epoch"):
        _, _, adapter = stop(*scores)
    assert adapter.states["early_stopping"]["best_epochs"] == best
    assert adapter.stopped_by is None


def test_best_weights_return_in_exit_also_after_a_failure() -> None:
    weights: list[torch.Tensor] = []

    def remember(ctx: Any) -> None:
        weights.append(ctx.network.weight.detach().clone())
        if ctx.epoch == 3:
            raise RuntimeError("boom")

    callback = CallbackSetEarlyStopping(5, restore_best_weights=True)
    module = Scored(2, 1, 3)
    with pytest.raises(RuntimeError, match="boom"):
        fit([callback, Act(on_epoch_end=remember)], module, ones(2), ones(1), max_epochs=3)
    assert torch.equal(module.network.weight, weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert torch.equal(callback.state_dict()["best_weights"]["weight"], weights[1])


def test_an_instance_whose_next_fit_fails_before_it_begins_leaves_that_network_alone() -> None:
    callback, _, _ = stop(2, 1, early={"restore_best_weights": True})
    module = Scored(2)
    module.on_train_start = lambda: 1 / 0
    torch.nn.init.constant_(module.network.weight, 7.0)
    with pytest.raises(ZeroDivisionError):
        fit({"boom": Act(on_begin=lambda ctx: 1 / 0), "early": callback}, module, ones(1), ones(1))
    assert module.network.weight.unique().tolist() == [7.0]


def test_a_state_loaded_for_a_fit_that_did_not_begin_is_not_of_the_next(tmp_path: Path) -> None:
    first, _, adapter = stop(2, 1)
    path = tmp_path / "first.ckpt"
    trainer = quiet(callbacks=[adapter], max_epochs=1)
    trainer.fit(Scored(2), ones(1), ones(1))
    trainer.save_checkpoint(path)
    boom = Act(on_begin=lambda ctx: 1 / 0)
    resumed = quiet(callbacks=[CallbackSetAdapter({"boom": boom, "early_stopping": first})], max_epochs=2)
    with pytest.raises(ZeroDivisionError):
        resumed.fit(Scored(1, 1), ones(1), ones(1), ckpt_path=path)
    assert first.best_epochs == 1
    fit({"early_stopping": first}, Scored(5), ones(1), ones(1))
    assert (first.best_epochs, first.best_score) == (1, 5)


def test_best_weights_are_all_of_the_networks_state(tmp_path: Path) -> None:
    class Versioned(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state: Any, prefix: str, metadata: dict[str, Any], *args: Any) -> None:
            versions.append(metadata.get("version"))
            super()._load_from_state_dict(state, prefix, metadata, *args)

    versions: list[int | None] = []
    module = Scored(1, 2)
    module.network = nn.Sequential(Versioned(2, 1), nn.Linear(1, 1), nn.Linear(1, 1))
    module.network[2].weight = module.network[1].weight
    callback = CallbackSetEarlyStopping(5, restore_best_weights=True)
    adapter = CallbackSetAdapter(callback)
    trainer = quiet(max_epochs=2, callbacks=[adapter])
    trainer.fit(module, ones(1), ones(1))
    assert versions == [2]
    tied = [callback.best_weights[name] for name in ("1.weight", "2.weight")]
    assert tied[0].data_ptr() == tied[1].data_ptr()  # still one
    copied = callback.clone(deep=True).best_weights
    assert copied["0.weight"] is not callback.best_weights["0.weight"]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    best = read_states(tmp_path / "last.ckpt")["early_stopping"]["best_weights"]
    assert best._metadata["0"] == {"version": 2}


@pytest.mark.parametrize("key", ["early_stopping", "lr_reduce_on_plateau"])
def test_validation_that_is_not_known_yet_may_come(key: str) -> None:
    kwargs = {"max_epochs": 2, "check_val_every_n_epoch": 2, "num_sanity_val_steps": 0}
    adapter = fit(t_clbk(key, patience=3), Scored(1, 2), ones(1), ones(1), **kwargs)
    assert adapter.states[key]["measure"] == "loss"


@pytest.mark.filterwarnings("ignore:Total length of `Batches` across ranks is zero")  # on purpose
def test_an_empty_validation_loader_is_no_validation() -> None:
    with pytest.raises(RuntimeError, match="needs validation, but this fit has none"):
        fit(CallbackSetEarlyStopping(1), Scored(1), ones(1), Batches([]))


class Swapping(CallbackSet):
    """Validates with half the weights that it trains, and puts those back at a stage of its own."""

    def __init__(self, back: str = "on_valid_end") -> None:
        self.kept: dict[str, torch.Tensor] = {}
        setattr(self, back, self.put)

    def on_before_valid(self) -> None:
        if self.ctx.validates:
            for name, parameter in self.ctx.network.named_parameters():
                self.kept[name] = parameter.detach().clone()
                parameter.data.mul_(0.5)

    def put(self) -> None:
        for name, value in self.kept.items():
            self.ctx.network.get_parameter(name).data.copy_(value)
        self.kept = {}

    def state_dict(self) -> Any:
        return dict(self.kept)

    def load_state_dict(self, state_dict: Any) -> None:
        self.kept = dict(state_dict)


class Seen(L.Callback):
    """The weights that were validated, as Lightning sees them in the middle."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *args: Any) -> None:
        if not trainer.sanity_checking:
            self.weights.append(pl_module.network.weight.detach().clone())


NEEDS_AVERAGING = pytest.mark.skipif(Version(L.__version__) < Version("2.6"), reason="new in Lightning 2.6")
SWAPS = [
    pytest.param(lambda: ([Swapping()], ()), id="swapping"),
    pytest.param(lambda: ([Swapping("on_epoch_end")], ()), id="swapping-back-late"),
    pytest.param(lambda: ([], (L.pytorch.callbacks.WeightAveraging(),)), id="average", marks=NEEDS_AVERAGING),
    pytest.param(lambda: ([], (L.pytorch.callbacks.EMAWeightAveraging(),)), id="ema", marks=NEEDS_AVERAGING),
]


@pytest.mark.parametrize("weight", [-1, 2000])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("swaps", SWAPS)
def test_best_weights_are_those_that_were_validated(swaps: Any, first: bool, weight: float) -> None:
    others, natives = swaps()
    early = t_clbk("early_stopping", patience=9, restore_best_weights=True, weight=weight).generate()
    adapter = CallbackSetAdapter([early, *others])
    seen, module = Seen(), Scored(3, 1, 2)
    callbacks = [*natives, adapter, seen] if first else [adapter, *natives, seen]
    quiet(callbacks=callbacks, max_epochs=3).fit(module, ones(2), ones(1))
    assert torch.equal(module.network.weight, seen.weights[1])
    assert not torch.equal(seen.weights[0], seen.weights[2])


def test_the_validated_weights_are_saved_with_a_validation_under_way(tmp_path: Path) -> None:
    def save(ctx: Any) -> None:
        if ctx.epoch == 1 and not ctx.resumed:
            ctx.trainer.save_checkpoint(tmp_path / "inside.ckpt")

    def sets() -> dict[str, Any]:
        early = CallbackSetEarlyStopping(5, restore_best_weights=True)
        return {"swap": Swapping(), "save": Act(on_valid_end=save), "early": early}

    whole, module = Scored(1, 2), Scored(1, 2)
    state = {name: value.clone() for name, value in whole.state_dict().items()}
    fit(sets(), whole, ones(2), ones(1), max_epochs=2)
    module.load_state_dict(state)
    again = CallbackSetAdapter(sets())
    quiet(callbacks=[again], max_epochs=2).fit(module, ones(2), ones(1), ckpt_path=tmp_path / "inside.ckpt")
    assert torch.equal(module.network.weight, whole.network.weight)
    assert list(again.states["early"])[-1] == "best_weights"


@pytest.mark.parametrize("restore", [True, False])
def test_beside_stochastic_weight_averaging_it_says_who_comes_last(restore: bool) -> None:
    kept: list[torch.Tensor] = []
    look = Act(on_valid_end=lambda ctx: kept.append(ctx.network.weight.detach().clone()))
    early, module = CallbackSetEarlyStopping(5, restore_best_weights=restore), Scored(1, 2, 3, 4)
    averaging = L.pytorch.callbacks.StochasticWeightAveraging(0.01, swa_epoch_start=2)
    warns = pytest.warns(UserWarning, match="restore_best_weights comes last")
    with warns if restore else nullcontext():
        fit([early, look], module, ones(2), ones(1), native=(averaging,), max_epochs=4)
    assert torch.equal(module.network.weight, kept[0]) is restore
    assert restore or torch.equal(module.network.weight, averaging._average_model.network.weight)


def test_there_is_one_copy_of_the_best_weights(tmp_path: Path) -> None:
    def is_the_same(ctx: Any) -> None:
        saved = ctx.trainer._checkpoint_connector.dump_checkpoint()["callbacks"]["CallbackSetAdapter"]
        best = saved["callbacks"]["early_stopping"]["state"]["best_weights"]
        same.append(best["weight"] is ctx.callbacks["early_stopping"].best_weights["weight"])

    same: list[bool] = []
    callback = CallbackSetEarlyStopping(5, restore_best_weights=True)
    sets = {"early_stopping": callback, "same": Act(on_epoch_end=is_the_same)}
    adapter = fit(sets, Scored(2, 1, 3), ones(2), ones(1), max_epochs=3)
    kept = adapter.states["early_stopping"]["best_weights"]
    assert same == [True] * 3
    assert kept["weight"] is callback.best_weights["weight"]
    assert kept is not callback.best_weights
    torch.save(callback.state_dict(), tmp_path / "state.pt")
    again = CallbackSetEarlyStopping(5, restore_best_weights=True)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(again.best_weights["weight"], kept["weight"])


def test_what_else_is_in_a_networks_state_is_copied() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 1)
            self.calls = [0]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls[0] += 1
            return super().forward(x)

        def get_extra_state(self) -> list[int]:
            return self.calls

        def set_extra_state(self, state: list[int]) -> None:
            self.calls = state

    module = Scored(1, 2)
    module.network = Counting()
    callback = CallbackSetEarlyStopping(5, restore_best_weights=True)
    adapter = fit(callback, module, ones(2), ones(1), max_epochs=2)
    best = adapter.states["early_stopping"]["best_weights"]["_extra_state"]
    assert module.network.calls == best == callback.best_weights["_extra_state"]
    module.network(torch.ones(1, 2))
    assert module.network.calls[0] == best[0] + 1 == callback.best_weights["_extra_state"][0] + 1


class Encoding(Scored):
    """Trains an encoder outside of its network."""

    def __init__(self, *scores: float, frozen: bool = False) -> None:
        super().__init__(*scores)
        self.encoder = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).requires_grad_(not frozen)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(self.encoder(batch), batch_idx)


def test_best_weights_are_all_that_is_trained() -> None:
    kept: list[dict[str, torch.Tensor]] = []
    look = Act(on_epoch_end=lambda ctx: kept.append({k: v.clone() for k, v in ctx.learner.state_dict().items()}))
    callback, module = CallbackSetEarlyStopping(5, restore_best_weights=True), Encoding(1, 2, 3)
    fit([callback, look], module, ones(2), ones(1), max_epochs=3)
    assert all(torch.equal(value, kept[0][name]) for name, value in module.state_dict().items())
    assert not torch.equal(kept[0]["encoder.1.running_mean"], kept[2]["encoder.1.running_mean"])


def test_a_frozen_rest_is_not_kept() -> None:
    callback, module = CallbackSetEarlyStopping(5, restore_best_weights=True), Encoding(1, 2, frozen=True)
    fit(callback, module, ones(2), ones(1), max_epochs=2)
    assert list(callback.best_weights) == ["weight", "bias"]
    module = Encoding(1, 2)
    module.encoder[0].requires_grad_(False)
    fit(callback, module, ones(2), ones(1), max_epochs=2)
    assert "network.weight" in callback.best_weights
    assert "encoder.1.weight" in callback.best_weights
    assert "encoder.0.weight" not in callback.best_weights


def test_what_no_optimizer_holds_is_not_trained() -> None:
    class Teacher(Encoding):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.network.parameters(), lr=0.1)

    callback = CallbackSetEarlyStopping(5, restore_best_weights=True)
    fit(callback, Teacher(1, 2), ones(2), ones(1), max_epochs=2)
    assert list(callback.best_weights) == ["weight", "bias"]


def test_best_weights_of_all_that_is_trained_are_resumed(tmp_path: Path) -> None:
    best: list[dict[str, torch.Tensor]] = []
    look = Act(on_valid_end=lambda ctx: best.append({k: v.clone() for k, v in ctx.learner.state_dict().items()}))
    sets = {"early": CallbackSetEarlyStopping(5, restore_best_weights=True), "look": look}
    save = Act(on_epoch_end=lambda ctx: ctx.epoch == 2 and ctx.trainer.save_checkpoint(tmp_path / "two.ckpt"))
    save.weight = 2000
    fit({**sets, "save": save}, Encoding(1, 2), ones(2), ones(1), max_epochs=2)
    module = Encoding(1, 2, 3)
    adapter = CallbackSetAdapter(
        {"early": CallbackSetEarlyStopping(5, restore_best_weights=True), "look": Act(), "save": Act()}
    )
    quiet(callbacks=[adapter], max_epochs=3).fit(module, ones(2), ones(1), ckpt_path=tmp_path / "two.ckpt")
    assert all(torch.equal(value, best[0][name]) for name, value in module.state_dict().items())


def effective(network: nn.Module) -> torch.Tensor:
    """The weight as a forward call applies it, pruned or not."""
    network(torch.ones(1, 2))
    return network.weight.detach().clone()


@pytest.mark.parametrize("permanent", [True, False])
@pytest.mark.parametrize("scores", [(1, 2, 3), (3, 1, 2), (3, 2, 1)])
def test_beside_pruning(permanent: bool, scores: tuple[float, ...]) -> None:
    class Late(ModelPruning):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch > 0:
                super().on_train_epoch_end(trainer, pl_module)

    kept: list[torch.Tensor] = []
    look = Act(on_valid_end=lambda ctx: kept.append(effective(ctx.network)))
    callback, module = CallbackSetEarlyStopping(5, restore_best_weights=True), Scored(*scores)
    pruning = Late("l1_unstructured", [(module.network, "weight")], amount=0.5, make_pruning_permanent=permanent)
    sets = {"early": callback, "look": look}
    fit(sets, module, ones(2), ones(1), native=(pruning,), max_epochs=3)
    assert torch.equal(effective(module.network), kept[scores.index(1)])


def test_names_as_pruning_has_them_are_not_taken_for_it() -> None:
    class Masked(Encoding):
        def __init__(self, *scores: float) -> None:
            super().__init__(*scores)
            self.scale = nn.Parameter(torch.ones(2))
            self.scale_mask = nn.Parameter(torch.ones(2), requires_grad=False)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch * self.scale * self.scale_mask, batch_idx)

    callback, module = CallbackSetEarlyStopping(5, restore_best_weights=True), Masked(1, 2)
    fit(callback, module, ones(2), ones(1), max_epochs=2)
    assert torch.equal(module.scale, callback.best_weights["scale"])
    assert module.scale_mask.tolist() == [1, 1]


def test_loading_respects_strict_loading() -> None:
    class Own(nn.Linear):
        def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            state = super().state_dict(*args, **kwargs)
            return {name: value for name, value in state.items() if not name.endswith("bias")}

    for strict in (False, True):
        module = Scored(1, 2)
        module.network = Own(2, 1)
        module.strict_loading = strict
        callback = CallbackSetEarlyStopping(5, restore_best_weights=True)
        warns = pytest.warns(UserWarning, match=r"best weights \(epoch 1\) could not all be restored.*Missing key")
        with warns if strict else nullcontext():
            fit(callback, module, ones(2), ones(1), max_epochs=2)
        assert torch.equal(module.network.weight, callback.best_weights["weight"])


def test_a_network_that_has_become_another_does_not_fail_the_fit() -> None:
    def exchange(ctx: Any) -> None:
        ctx.learner.network = nn.Linear(2, 3)

    sets = {"early": CallbackSetEarlyStopping(5, restore_best_weights=True), "exchange": Act(on_end=exchange)}
    with pytest.warns(UserWarning, match="could not all be restored.*size mismatch"):
        adapter = fit(sets, Scored(1, 2), ones(2), ones(1), max_epochs=2)
    assert adapter.states["early"]["best_epochs"] == 1


@pytest.mark.parametrize("patience", [1, 9])
def test_says_once_that_the_best_weights_are_back(patience: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        stop(1, 2, 3, early={"patience": patience, "restore_best_weights": True})
    assert caplog.text.count("The weights of the best epoch, 1, are restored.") == 1


def test_an_infinite_min_delta_lets_nothing_improve() -> None:
    _, _, adapter = stop(5, 1, 0, early={"min_delta": float("inf")})
    assert adapter.states["early_stopping"]["best_epochs"] == 1
    assert adapter.stopped_by.epoch == 3


@pytest.mark.parametrize("mode", [Mode.MIN, np.str_("min")])
@pytest.mark.parametrize("monitor", [Score.LOSS, np.str_("val_loss")])
def test_strings_of_a_subclass_mean_what_they_equal(mode: Any, monitor: Any, tmp_path: Path) -> None:
    early = CallbackSetEarlyStopping(5, monitor=monitor, mode=mode)
    adapter = fit([early, t_clbk("checkpoint", path=tmp_path, freq=1)], Scored(1, 2), ones(1), ones(1), max_epochs=2)
    assert adapter.states["early_stopping"]["best_epochs"] == 1
    assert read_states(tmp_path / "epoch2.ckpt")["early_stopping"] == adapter.states["early_stopping"]
    plateau = t_clbk("lr_reduce_on_plateau", monitor=monitor, mode=mode).generate()
    fit([plateau], Scored(1, 2), ones(1), ones(1), max_epochs=2)
    assert plateau.scheduler.best == 1


def test_without_restoring_no_weights_are_kept() -> None:
    callback, _, adapter = stop(2, 1)
    assert callback.best_weights is None
    assert adapter.states["early_stopping"] == {
        "best_epochs": 2,
        "best_score": 1.0,
        "best_scores": {"loss": 1.0},
        "stagnation": 0,
        "measure": "loss",
    }


@pytest.mark.parametrize("monitor", ["loss", "val_loss", None])
def test_monitor_takes_short_and_logged_names(monitor: str | None) -> None:
    _, _, adapter = stop(3, 2, early={"monitor": monitor})
    assert adapter.states["early_stopping"]["measure"] == "loss"


def test_monitors_what_a_callback_adds() -> None:
    def add(ctx: Any) -> None:
        ctx.last_scores_valid["added_loss"] = float(ctx.epoch)

    sets = [Act(on_valid_end=add), CallbackSetEarlyStopping(2, monitor="added_loss")]
    adapter = fit(sets, Tiny(), ones(1), ones(1), max_epochs=9)
    assert adapter.states["early_stopping"]["best_epochs"] == 1
    assert adapter.stopped_by is not None
    assert adapter.stopped_by.epoch == 3


def test_best_scores_are_all_scores_of_the_best_epoch() -> None:
    def add(ctx: Any) -> None:
        ctx.last_scores_valid["epoch"] = float(ctx.epoch)

    module = Scored(3, 1, 2, val_acc=[0.1, 0.2, 0.9])
    adapter = fit([Act(on_valid_end=add), CallbackSetEarlyStopping(9)], module, ones(1), ones(1), max_epochs=3)
    assert adapter.states["early_stopping"]["best_scores"] == pytest.approx({"loss": 1, "acc": 0.2, "epoch": 2})


def test_says_which_of_several_scores_it_takes(caplog: pytest.LogCaptureFixture) -> None:
    module = Scored(3, 2, val_f1_loss=[1, 2])
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        adapter = fit([CallbackSetEarlyStopping(2)], module, ones(1), ones(1), max_epochs=2)
    assert adapter.states["early_stopping"]["best_epochs"] == 2
    assert caplog.text.count("Early stopping monitors 'loss', the first of 'loss', 'f1_loss'") == 1


@pytest.mark.parametrize(
    ("early", "name", "kwargs", "message"),
    [
        (
            {"monitor": "los"},
            "val_loss",
            {},
            "cannot monitor 'los': there is no such validation score. Did you mean 'loss'",
        ),
        ({}, "val_acc", {}, "cannot tell whether a lower or a higher 'acc' is better. Give mode="),
        ({}, "val_loss", {"limit_val_batches": 0}, "Early stopping needs validation, but this fit has none"),
    ],
)
@pytest.mark.parametrize("sanity", [1, 0])
def test_what_it_cannot_work_with(
    early: dict[str, Any], name: str, kwargs: dict[str, Any], message: str, sanity: int
) -> None:
    callback = CallbackSetEarlyStopping(**({"patience": 2} | early))
    with pytest.raises(RuntimeError, match=message) as raised:
        fit([callback], Scored(1, 2, name=name), ones(1), ones(1), num_sanity_val_steps=sanity, max_epochs=2, **kwargs)
    before = sanity or kwargs
    assert ("on_begin" if before else "on_valid_end") in raised.value.__notes__[0]


def test_a_module_that_logs_no_validation_score() -> None:
    class Silent(Tiny):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    with pytest.raises(RuntimeError, match="needs a validation score, but the module logs none"):
        fit([CallbackSetEarlyStopping(2)], Silent(), ones(1), ones(1))


def test_a_fit_of_no_epochs_needs_no_validation() -> None:
    states = fit([CallbackSetEarlyStopping(2)], Tiny(), ones(1), max_epochs=0).states
    fresh = {"best_epochs": None, "best_score": None, "best_scores": None, "stagnation": 0, "measure": None}
    assert states["early_stopping"] == fresh


def test_an_instance_starts_over_in_every_fit() -> None:
    callback = CallbackSetEarlyStopping(2)
    adapter = CallbackSetAdapter([callback])
    for scores in ([1, 2, 3], [5, 4]):
        quiet(max_epochs=len(scores), callbacks=[adapter]).fit(Scored(*scores), ones(1), ones(1))
    assert adapter.states["early_stopping"]["best_score"] == 4


def test_a_copy_of_a_callback_that_has_served_a_fit_starts_over_too() -> None:
    callback, _, _ = stop(1, 2)
    for copied in (callback.clone(), callback.clone(deep=True)):
        assert copied.best_score == 1
        fit([copied], Scored(5), ones(1), ones(1))
        assert copied.best_score == 5


def test_a_state_that_was_loaded_by_hand_into_a_new_instance_is_kept() -> None:
    callback = CallbackSetEarlyStopping(3)
    callback.load_state_dict({"best_epochs": 7, "best_score": 0.5, "stagnation": 1, "measure": "loss"})
    fit([callback], Scored(1), ones(1), ones(1))
    assert (callback.best_epochs, callback.stagnation) == (7, 2)


def test_another_measure_than_before_is_refused() -> None:
    callback = CallbackSetEarlyStopping(2)
    callback.load_state_dict({"best_epochs": 1, "best_score": 1.0, "stagnation": 0, "measure": "acc"})
    with pytest.raises(RuntimeError, match="monitored 'acc' in the resumed run, but monitors 'loss' in this one"):
        fit([callback], Scored(1), ones(1), ones(1))


def test_a_stage_alone_with_a_stand_in() -> None:
    callback = CallbackSetEarlyStopping(1)
    callback.ctx = SimpleNamespace(  # type: ignore[assignment]
        epoch=1, last_scores_valid={"loss": 1.0}, minimize=lambda name: True, terminate=False
    )
    callback.on_valid_end()
    callback.on_valid_end()
    assert callback.ctx.terminate


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"patience": 0}, ValueError, "Expected patience to be a whole number of at least 1 but got 0"),
        ({"patience": True}, TypeError, "Expected patience to be a whole number of at least 1 but got True"),
        ({"patience": 2.0}, TypeError, "Expected patience to be a whole number of at least 1 but got 2.0"),
        ({"min_delta": -1}, ValueError, "Expected min_delta to be a number of at least 0 but got -1"),
        ({"min_delta": float("nan")}, ValueError, "Expected min_delta to be a number of at least 0 but got nan"),
        ({"min_delta": "0"}, TypeError, "Expected min_delta to be a number of at least 0 but got '0'"),
        ({"restore_best_weights": 1}, TypeError, "Expected restore_best_weights to be True or False but got 1"),
        ({"monitor": 3}, TypeError, "Expected monitor to be a string but got 3"),
        ({"monitor": ""}, ValueError, "Expected monitor to be a non-empty string"),
        ({"mode": "mim"}, ValueError, "Expected mode to be one of 'min', 'max' but got 'mim'. Did you mean 'min'?"),
        ({"mode": 1}, TypeError, "Expected mode to be one of 'min', 'max' but got 1"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CallbackSetEarlyStopping(**({"patience": 1} | arguments))
