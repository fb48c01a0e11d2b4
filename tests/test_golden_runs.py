"""Runs of mlr3torch itself, trained again in Lightning from the same weights on the same batches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from callbacksets import (
    CallbackSet,
    CallbackSetAdapter,
    CallbackSetEarlyStopping,
    SupervisedModule,
    select_invert,
    select_name,
    t_clbk,
)
from tests import golden
from tests.helpers import Act, Batches, quiet

close = partial(pytest.approx, abs=2e-5, nan_ok=True)


class LogLoss(Metric):
    """The mean cross entropy of logits."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0))
        self.add_state("count", torch.tensor(0))

    def update(self, logits: torch.Tensor, y: torch.Tensor) -> None:
        self.total += nn.functional.cross_entropy(logits, y, reduction="sum")
        self.count += len(y)

    def compute(self) -> torch.Tensor:
        return self.total / self.count


class CallbackSetEma(CallbackSet):
    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.moving_loss: float | None = None

    def on_batch_end(self) -> None:
        loss = self.ctx.last_loss
        self.moving_loss = loss if self.moving_loss is None else self.alpha * loss + (1 - self.alpha) * self.moving_loss

    def state_dict(self) -> float | None:
        return self.moving_loss

    def load_state_dict(self, state_dict: float | None) -> None:
        self.moving_loss = state_dict


class CallbackSetGradientClipper(CallbackSet):
    def __init__(self, max_norm: float, norm_type: float) -> None:
        self.max_norm, self.norm_type = max_norm, norm_type
        self.norms: list[float] = []

    def on_after_backward(self) -> None:
        norm = nn.utils.clip_grad_norm_(self.ctx.network.parameters(), self.max_norm, self.norm_type)
        self.norms.append(norm.item())

    def state_dict(self) -> list[float]:
        return self.norms

    def load_state_dict(self, state_dict: list[float]) -> None:
        self.norms = state_dict


def unfreeze(frozen: list[str], weights: list[list[str]], **when: list[int]) -> Any:
    [(unit, at)] = when.items()
    rows = [{unit: n, "weights": select_name(names)} for n, names in zip(at, weights, strict=True)]
    return t_clbk("unfreeze", starting_weights=select_invert(select_name(frozen)), unfreeze=rows)


MAKE: dict[str, Callable[..., Any]] = {
    "ema": CallbackSetEma,
    "gradient_clipper": CallbackSetGradientClipper,
    "lr_lambda": lambda decay: t_clbk("lr_lambda", lr_lambda=lambda epoch: decay**epoch),
    "lr_multiplicative": lambda decay: t_clbk("lr_multiplicative", lr_lambda=lambda epoch: decay),
    "unfreeze": unfreeze,
}
MEASURES: dict[str, Callable[[], Metric]] = {
    "acc": lambda: MulticlassAccuracy(3, average="micro"),
    "logloss": LogLoss,
}
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def network(neurons: list[int], weights: dict[str, Any]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in zip([4, *neurons], neurons, strict=False):
        layers += [nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(0)]
    mlp = nn.Sequential(*layers, nn.Linear(neurons[-1], 3))
    mlp.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    return mlp


def batches(x: list[Any], y: list[Any]) -> Batches:
    return Batches([(torch.tensor(x), torch.tensor(y) - 1) for x, y in zip(x, y, strict=True)])


def same_scores(scores: list[dict[str, float]], state: dict[str, list[Any]], loop: str, epochs: int) -> None:
    for name in ("acc", "logloss"):
        recorded = [None if row is None else row[f"classif.{name}"] for row in scores]
        assert state.get(f"{loop}.{name}", [None] * epochs) == close(recorded), f"{loop}.{name}"


@pytest.mark.parametrize("record", golden.load("runs"), ids=lambda record: record["case"]["name"])
def test_run(record: dict[str, Any]) -> None:
    case = record["case"]
    callbacks = {
        spec["key"]: MAKE.get(spec["key"], partial(t_clbk, spec["key"]))(**spec["args"]) for spec in case["callbacks"]
    }
    if case.get("patience"):
        arguments = {name: case[name] for name in ("patience", "min_delta", "restore_best_weights") if name in case}
        callbacks["early_stopping"] = CallbackSetEarlyStopping(**arguments)
    losses: list[float] = []
    rates: list[float] = []
    callbacks["spy"] = Act(
        on_after_backward=lambda ctx: rates.append(ctx.optimizer.param_groups[0]["lr"]),
        on_batch_end=lambda ctx: losses.append(ctx.last_loss),
    )
    module = SupervisedModule(
        network(case["neurons"], record["init"]),
        nn.CrossEntropyLoss(),
        partial(OPTIMIZERS[case["optimizer"]], lr=case["lr"]),
        measures_train={name: MEASURES[name]() for name in case["measures"]},
        measures_valid={name: MEASURES[name]() for name in case["measures"]},
    )
    adapter = CallbackSetAdapter(callbacks)
    trainer = quiet(max_epochs=case["epochs"], callbacks=[adapter])
    loaders = [batches(record["x"], record["y"])]
    if record.get("vx"):
        loaders.append(batches(record["vx"], record["vy"]))
    trainer.fit(module, *loaders)

    assert trainer.current_epoch == record["epochs"]
    assert losses == close(record["loss"])
    assert rates == close(record["lr"], rel=1e-6)
    states = adapter.states
    same_scores(record["scores_train"], states["history"], "train", record["epochs"])
    same_scores(record["scores_valid"], states["history"], "valid", record["epochs"])
    for name, value in module.network.state_dict().items():
        assert value.tolist() == close_nested(record["final"][name]), name
    trainable = [name for name, parameter in module.network.named_parameters() if parameter.requires_grad]
    assert trainable == record["trainable"]
    for id, state in record["states"].items():
        same_state(id, states[id], state)


def close_nested(values: list[Any]) -> Any:
    return [close(value) for value in values] if isinstance(values[0], list) else close(values)


def same_state(id: str, ours: Any, theirs: Any) -> None:
    if id == "history":
        assert ours["epoch"] == (theirs["epoch"] if isinstance(theirs["epoch"], list) else [theirs["epoch"]])
    elif id == "early_stopping":
        assert ours["measure"] == theirs["measure"].removeprefix("classif.")
        for name in ("best_epochs", "best_score", "stagnation"):
            assert ours[name] == close(theirs[name]), name
    elif id.startswith("lr_"):
        same_schedule(ours, theirs)
    else:
        assert ours == (theirs if isinstance(theirs, dict) else close(theirs))


def same_schedule(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """What R's schedulers and torch's both keep."""
    assert ours["_last_lr"] == close([theirs[".last_lr"]], rel=1e-6)
    shared = (
        "last_epoch",
        "base_lrs",
        "gamma",
        "step_size",
        "T_max",
        "eta_min",
        "total_steps",
        "best",
        "num_bad_epochs",
    )
    for name in set(shared) & set(theirs):
        assert ours[name] == close(theirs[name]), name
