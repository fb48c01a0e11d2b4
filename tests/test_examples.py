"""The scripts in `docs/examples` run as they are, and their callbacks pass the kit."""

import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from callbacksets import SupervisedModule
from callbacksets.testing import check_callback_set
from callbacksets.testing.training import Training, small_classifier
from tests.scripts.user_code import ROOT, SCRIPTS

PAGE = (ROOT / "docs" / "how-to" / "examples.md").read_text()


class Sums(nn.Module):
    """Adds up its inputs, so that it accepts any number of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x.sum(1, keepdim=True))


def of_network(network: Callable[[], nn.Module], loss: Any = nn.functional.cross_entropy) -> Training:
    def training() -> tuple[L.LightningModule, Any, Any]:
        _, train, valid = small_classifier()
        return SupervisedModule(network(), loss, partial(torch.optim.SGD, lr=0.1)), train, valid

    return training


def optuna_pruning(found: dict[str, Any]) -> None:
    states = {trial.state.name for trial in found["study"].trials}
    assert states == {"COMPLETE", "PRUNED"}
    assert found["study"].best_value < 0.2
    trial = pytest.importorskip("optuna").trial.FixedTrial({})
    check_callback_set(lambda: found["CallbackSetPruning"](trial))


def cross_validation(found: dict[str, Any]) -> None:
    assert len(found["best"]) == len(found["histories"]) == 5
    assert found["scores"].mean() > 0.9
    for best, history in zip(found["best"], found["histories"].values(), strict=True):
        assert best == max(history["valid.acc"])
        assert history["epoch"][0] == 1


def confusion_matrices(found: dict[str, Any]) -> None:
    same, more = (torch.tensor(matrix) for matrix in found["adapter"].states["confusion"])
    assert (same.sum(1).tolist(), more.sum(1).tolist()) == ([50] * 3, [30] * 3)
    assert same.trace() / 150 > more.trace() / 90
    recall = min((matrix.diag() / matrix.sum(1)).min() for matrix in (same, more))
    assert found["adapter"].states["history"]["valid.worst_recall"][-1] == pytest.approx(recall.item())
    check_callback_set(found["CallbackSetConfusion"])


def fine_tuning(found: dict[str, Any]) -> None:
    history = found["states"]["history"]
    assert history["train.lr"] == pytest.approx([0.02] * 2 + [0.002] * 4)
    assert history["valid.loss"][-1] < history["valid.loss"][0]
    assert len(found["states"]["unfreeze"]["trainable"]) == 4
    check_callback_set(lambda: found["CallbackSetLowerRate"](epoch=3, factor=0.1))


def distillation(found: dict[str, Any]) -> None:
    assert found["losses"][-1] < found["losses"][0] / 2
    assert found["same"] > 0.9
    training = of_network(lambda: nn.Linear(4, 2), found["distillation_loss"])
    check_callback_set(lambda: found["CallbackSetTeacher"](nn.Linear(4, 2)), training=training)


def gan(found: dict[str, Any]) -> None:
    assert found["adapter"].stopped_by.callback == "samples"
    assert abs(found["samples"].moments[-1][0] - 3.0) < 0.1
    check_callback_set(lambda: found["CallbackSetSamples"](target=9.0), training=of_network(Sums))


COMES_TO: dict[str, Callable[[dict[str, Any]], None]] = {
    function.__name__: function
    for function in (optuna_pruning, cross_validation, confusion_matrices, fine_tuning, distillation, gan)
}


def test_every_script_is_tested_and_on_the_page() -> None:
    assert {script.stem for script in SCRIPTS} == set(COMES_TO)
    assert [script.name for script in SCRIPTS if f"(../examples/{script.name})" not in PAGE] == []


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.filterwarnings("ignore")  # as users see them
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if script.stem == "optuna_pruning":
        pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path(str(script), run_name="__main__")
    assert not list(tmp_path.iterdir())
    COMES_TO[script.stem](found)
