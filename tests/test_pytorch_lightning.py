"""The two namespaces of Lightning."""

from typing import Any

import lightning as L
import pytest
import pytorch_lightning as pl
import torch
from packaging.version import Version

import callbacksets
import callbacksets.pytorch_lightning
from tests.helpers import StageLog, Tiny, ones

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 2,
}


class Old(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.network(batch).mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=1)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.network(batch).mean(), batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("alone", [True, False])
def test_runs_in_a_trainer_of_pytorch_lightning(alone: bool) -> None:
    log = StageLog("y_hat", stages=("on_batch_end",))
    adapter = callbacksets.pytorch_lightning.CallbackSetAdapter(["history", log])
    pl.Trainer(callbacks=adapter if alone else [adapter], **QUIET).fit(Old(), ones(2), ones(1))
    history = adapter.states["history"]
    assert list(history) == ["epoch", "train.loss", "valid.loss"]
    assert history["epoch"] == [1, 2]
    assert len(log.at("batch_end")) == 4


@pytest.mark.skipif(
    Version(L.__version__) < Version("2.6"),
    reason="there, Lightning refuses what is no Callback of its own namespace with an error of its own",
)
def test_the_wrong_adapter_says_which_to_import() -> None:
    message = "Expected a Trainer of {} but got one of {}. Use: from {} import CallbackSetAdapter"
    wrong = callbacksets.CallbackSetAdapter(["history"])
    namespaces = "lightning.pytorch", "pytorch_lightning"
    with pytest.raises(TypeError, match=message.format(*namespaces, "callbacksets.pytorch_lightning")):
        pl.Trainer(callbacks=[wrong], **QUIET).fit(Old(), ones(2))
    other = callbacksets.pytorch_lightning.CallbackSetAdapter(["history"])
    with pytest.raises(TypeError, match=message.format(*reversed(namespaces), "callbacksets")):
        L.Trainer(callbacks=[other], **QUIET).fit(Tiny(), ones(2))
