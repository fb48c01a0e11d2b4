"""The traces of mlr3torch's training loop, replayed in a real Trainer."""

from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torchmetrics import Metric

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetEarlyStopping, CallbackSetHistory
from callbacksets.base import STAGES
from tests import golden
from tests.helpers import quiet

SHOWN = ("epoch", "step", "step_valid", "global_step", "last_loss", "terminate", "scores_train", "scores_valid")
BATCH_STAGES = ("on_batch_begin", "on_after_backward", "on_batch_end", "on_batch_valid_begin", "on_batch_valid_end")


class Recorded(Metric):
    """Computes what the scenario says for the epoch."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values
        self.add_state("epoch", torch.tensor(0))

    def update(self, epoch: int) -> None:
        self.epoch = torch.tensor(epoch)

    def compute(self) -> torch.Tensor:
        return torch.tensor(self.values[self.epoch], dtype=torch.float64)


class Loss(Recorded):
    higher_is_better = False


class Gain(Recorded):
    higher_is_better = True


class Network(nn.Module):
    """One weight, which counts the optimizer steps."""

    def __init__(self, trace: list[dict[str, Any]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.trace = trace

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.trace.append({"cb": "network", "stage": "load_state_dict"})
        return super().load_state_dict(*args, **kwargs)


class Scenario(L.LightningModule):
    def __init__(self, scenario: dict[str, Any], trace: list[dict[str, Any]]) -> None:
        super().__init__()
        self.network = Network(trace)
        self.losses = iter(scenario["losses"])
        for loop in ("train", "valid"):
            for name, values in scenario.get(f"scores_{loop}", {}).items():
                self.add_module(f"{loop}_{name}", (Loss if scenario["minimize"][name] else Gain)(values))

    def log_scores(self, loop: str) -> None:
        for name, metric in self.named_children():
            if name.startswith(loop):
                metric.update(self.current_epoch)
                self.log(name, metric, on_step=False, on_epoch=True)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log_scores("train")
        weight = self.network.weight.sum()
        return weight.detach() - weight + next(self.losses)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log_scores("valid")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), lr=1)


class Spy(CallbackSet):
    """Records what `ctx` shows in the stages it has, and does what the scenario tells."""

    def __init__(self, spec: dict[str, Any], trace: list[dict[str, Any]]) -> None:
        self.spec = spec
        self.trace = trace
        self.weight = spec.get("weight", 0)
        for stage in spec.get("stages", STAGES):
            setattr(self, stage, partial(self.run, stage))

    def run(self, stage: str) -> None:
        ctx = self.ctx
        row = {"cb": self.spec["id"], "stage": stage}
        row |= {field: getattr(ctx, f"last_{field}" if field.startswith("scores") else field) for field in SHOWN}
        self.trace.append(row)
        for action in self.spec.get("actions", []):
            if action["stage"] == stage and all(action.get(at, row[at]) == row[at] for at in ("epoch", "step")):
                if action["do"] == "error":
                    raise RuntimeError("boom")
                ctx.terminate = action["do"] == "terminate"


def replay(scenario: dict[str, Any]) -> tuple[list[dict[str, Any]], CallbackSetAdapter, L.Trainer, str | None]:
    trace: list[dict[str, Any]] = []
    callbacks: dict[str, CallbackSet] = {spec["id"]: Spy(spec, trace) for spec in scenario["callbacks"]}
    if scenario["history"]:
        callbacks["history"] = CallbackSetHistory()
    if scenario.get("early_stopping"):
        callbacks["early_stopping"] = CallbackSetEarlyStopping(**scenario["early_stopping"])
    adapter = CallbackSetAdapter(callbacks)
    trainer = quiet(max_epochs=scenario["epochs"], callbacks=[adapter], num_sanity_val_steps=1)
    loaders = [[0] * scenario["n_batches"]]
    if scenario["n_valid"] is not None:
        loaders.append([0] * scenario["n_valid"])
    error = None
    try:
        trainer.fit(Scenario(scenario, trace), *loaders)
    except RuntimeError as raised:
        error = str(raised)
    return trace, adapter, trainer, error


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it can be compared: in stages without a batch the steps mean nothing, and no scores are none."""
    shown = {key: value or None if key.startswith("scores") else value for key, value in row.items()}
    if row["stage"] not in BATCH_STAGES:
        shown["step"] = None
    if row["stage"] not in ("on_batch_valid_begin", "on_batch_valid_end"):
        shown["step_valid"] = None
    return shown


@pytest.mark.parametrize("record", golden.load("traces"), ids=lambda record: record["name"])
def test_trace(record: dict[str, Any]) -> None:
    trace, adapter, trainer, error = replay(record["scenario"])
    assert error == record["error"]
    assert list(map(shown, trace)) == list(map(shown, record["trace"]))
    assert adapter.ctx is None
    assert all(callback.ctx is None for callback in adapter.sets.values())
    if error is not None:
        return
    assert trainer.current_epoch == record["epochs"]
    states = adapter.states
    best = states.get("early_stopping", {}).pop("best_weights", None)
    if best is not None:
        assert best["weight"].item() == states["early_stopping"]["best_epochs"] * record["scenario"]["n_batches"]
    if (best_scores := states.get("early_stopping", {}).pop("best_scores", None)) is not None:  # mlr3torch has none
        assert best_scores[states["early_stopping"]["measure"]] == states["early_stopping"]["best_score"]
    expected = record["states"]
    for column, values in expected.get("history", {}).items():
        expected["history"][column] = values if isinstance(values, list) else [values]  # R unboxes a single row
    assert states == expected
