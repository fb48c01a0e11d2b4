import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from callbacksets import CallbackSetAdapter, CallbackSetGradNorm, CallbackSetHistory, t_clbk
from tests.helpers import Act, Batches, StageLog, Tiny, fit, ones, quiet


def norms(norm_type: float = 2.0, weight: float = -2000) -> tuple[Act, list[float]]:
    """A callback that measures by torch's own clipping, and what it has measured."""
    seen: list[float] = []

    def measure(ctx: Any) -> None:
        seen.append(float(nn.utils.clip_grad_norm_(ctx.network.parameters(), 1e9, norm_type)))

    act = Act(on_after_backward=measure)
    act.weight = weight
    return act, seen


@pytest.mark.parametrize("norm_type", [2.0, 1, 3.5, math.inf])
def test_is_the_mean_over_the_steps_of_each_epoch(norm_type: float) -> None:
    act, seen = norms(norm_type)
    adapter = fit([CallbackSetGradNorm(norm_type), act, CallbackSetHistory()], None, ones(3), ones(1), max_epochs=2)
    expected = [sum(seen[:3]) / 3, sum(seen[3:]) / 3]
    assert adapter.states["history"]["train.grad_norm"] == pytest.approx(expected)


def test_every_step_counts_once_also_with_accumulated_gradients() -> None:
    act, seen = norms()
    adapter = fit([t_clbk("grad_norm"), act, CallbackSetHistory()], None, ones(5), accumulate_grad_batches=2)
    assert len(seen) == 3
    assert adapter.states["history"]["train.grad_norm"] == pytest.approx([sum(seen) / 3])


def test_comes_before_a_clipper_unless_its_weight_says_otherwise() -> None:
    def clip(ctx: Any) -> None:
        nn.utils.clip_grad_norm_(ctx.network.parameters(), 0.01)

    act, seen = norms()
    clipper = Act(on_after_backward=clip)
    before = fit({"clip": clipper, "act": act, "norm": t_clbk("grad_norm"), "history": CallbackSetHistory()})
    after = fit([clipper, t_clbk("grad_norm", weight=1), StageLog("last_scores_train", stages=("on_end",))])
    assert before.states["history"]["train.grad_norm"] == pytest.approx([sum(seen) / 2])
    assert after.sets["stage_log"].at("end")[0]["grad_norm"] == pytest.approx(0.01, rel=1e-2)


def test_lightning_clips_later() -> None:
    act, seen = norms()
    adapter = fit([t_clbk("grad_norm"), act, CallbackSetHistory()], gradient_clip_val=0.01)
    assert adapter.states["history"]["train.grad_norm"] == pytest.approx([sum(seen) / 2])


def test_validations_inside_the_epoch_have_the_steps_so_far() -> None:
    act, seen = norms()
    found: list[float] = []
    look = Act(on_before_valid=lambda ctx: found.append(ctx.last_scores_train["grad_norm"]))
    callbacks = {"norm": t_clbk("grad_norm"), "act": act, "look": look, "history": CallbackSetHistory()}
    adapter = fit(callbacks, None, ones(5), ones(1), val_check_interval=2)
    assert found == pytest.approx([sum(seen[:2]) / 2, sum(seen[:4]) / 4])
    assert adapter.states["history"]["train.grad_norm"] == pytest.approx([sum(seen) / 5])


def test_of_several_optimizers_each_step_counts() -> None:
    class Two(Tiny):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), lr=0.01) for part in self.network]

    seen: list[float] = []

    def measure(ctx: Any) -> None:
        gradients = [parameter.grad for parameter in ctx.optimizer.param_groups[0]["params"]]
        seen.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))

    log = StageLog("last_scores_train", stages=("on_end",))
    fit([t_clbk("grad_norm"), Act(on_after_backward=measure), log], Two(), ones(2))
    assert len(seen) == 4
    assert log.rows[0][1]["grad_norm"] == pytest.approx(sum(seen) / 4)


def test_without_a_step_there_is_no_score() -> None:
    class Idle(Tiny):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None: ...

    log = StageLog("last_scores_train", stages=("on_end",))
    fit([t_clbk("grad_norm"), log], Idle(), ones(2))
    assert log.rows == [("end", {})]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_resumed_inside_an_epoch_has_the_steps_before(tmp_path: Path) -> None:
    path = tmp_path / "inside.ckpt"
    save = Act(on_batch_end=lambda ctx: ctx.global_step == 5 and ctx.trainer.save_checkpoint(path))
    batches = Batches(ones(1).batches * 3)
    whole = fit([t_clbk("grad_norm"), CallbackSetHistory(), save], Tiny(), batches, max_epochs=3)
    again = CallbackSetAdapter([t_clbk("grad_norm"), CallbackSetHistory(), Act()])
    quiet(max_epochs=3, callbacks=[again]).fit(Tiny(), batches, ckpt_path=path)
    expected = whole.states["history"]["train.grad_norm"]
    assert again.states["history"]["train.grad_norm"] == expected
    assert again.states["grad_norm"] == whole.states["grad_norm"]


def test_parts_are_put_together() -> None:
    from callbacksets.callbacks import grad_norm

    class Part(torch.Tensor):
        """A rank's part: what is computed of it is one again, until it is made whole."""

        def full_tensor(self) -> torch.Tensor:
            return self.as_subclass(torch.Tensor)

    gradients = [torch.full((2,), 3.0), torch.full((2,), 4.0).as_subclass(Part)]
    norm = grad_norm._total_norm(gradients, 2.0)
    assert type(norm) is torch.Tensor
    assert norm.item() == pytest.approx(math.sqrt(50))


class Embedded(Tiny):
    """Has a sparse gradient, in which a row appears twice."""

    def __init__(self) -> None:
        super().__init__(nn.Embedding(5, 2, sparse=True))
        self.other = nn.Linear(2, 1)

    def loss(self, batch: Any) -> torch.Tensor:
        return self.other(self.network(torch.tensor([0, 3, 3]))).pow(2).mean()


class Empty(Tiny):
    """Has a parameter without elements."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(0, 3))

    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(batch) + self.nothing.sum()


class OnlyEmpty(Empty):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.nothing], lr=0.1)


class Growing(Tiny):
    """Gets another parameter in the second epoch."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.more = nn.Parameter(torch.ones(2))
            self.trainer.optimizers[0].add_param_group({"params": [self.more]})

    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(batch) + (self.more.pow(2).sum() if hasattr(self, "more") else 0)


class Complex(Tiny):
    """Has a complex parameter beside real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.tensor([1 + 1j, 2 - 1j]))

    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(batch) + self.phase.abs().pow(2).sum()


@pytest.mark.parametrize("norm_type", [2.0, 1, math.inf])
@pytest.mark.parametrize("old_torch", [True, False])
@pytest.mark.parametrize("make", [Embedded, Empty, OnlyEmpty, Growing, Complex, lambda: Tiny(nn.LazyLinear(1))])
def test_odd_parameters(make: Any, norm_type: float, old_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(ctx: Any) -> None:
        parameters = [one for group in ctx.optimizer.param_groups for one in group["params"]]
        numbers = [one.grad.to_dense().flatten().abs() for one in parameters if one.grad is not None]
        seen.append(float(torch.cat([*numbers, torch.zeros(1)]).norm(norm_type)))

    if old_torch:
        monkeypatch.delattr(nn.utils, "get_total_norm", raising=False)
    seen: list[float] = []
    history = CallbackSetHistory()
    fit([CallbackSetGradNorm(norm_type), Act(on_after_backward=measure), history], make(), ones(2), max_epochs=2)
    expected = [sum(seen[:2]) / 2, sum(seen[2:]) / 2]
    assert history.state_dict()["train.grad_norm"] == pytest.approx(expected)


def test_half_precision_holds_the_sum() -> None:
    from callbacksets.callbacks import grad_norm

    norm = grad_norm._total_norm([torch.ones(4, dtype=torch.bfloat16)], 2.0)
    assert (norm.dtype, norm.item()) == (torch.float32, 2)


def test_an_older_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(nn.utils, "get_total_norm", raising=False)
    act, seen = norms()
    adapter = fit([t_clbk("grad_norm"), act, CallbackSetHistory()])
    assert adapter.states["history"]["train.grad_norm"] == pytest.approx([sum(seen) / 2])


@pytest.mark.parametrize(
    ("norm_type", "error"), [(0, ValueError), (-1, ValueError), ("2", TypeError), (True, TypeError)]
)
def test_bad_input(norm_type: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="Expected norm_type to be a number"):
        CallbackSetGradNorm(norm_type)
