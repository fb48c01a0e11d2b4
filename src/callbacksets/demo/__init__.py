"""Train a classifier of handwritten digits with callbacks: `python -m callbacksets.demo`."""

import logging
import warnings
from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from callbacksets import (
    CallbackSetAdapter,
    CallbackSetEarlyStopping,
    CallbackSetGradNorm,
    CallbackSetHistory,
    CallbackSetProgress,
    SupervisedModule,
)
from callbacksets.show import epochs


def digits() -> tuple[DataLoader[tuple[torch.Tensor, ...]], DataLoader[tuple[torch.Tensor, ...]]]:
    """1,797 handwritten digits of 8 by 8 pixels; a quarter is for validation."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("The demo needs the data of scikit-learn: pip install scikit-learn.") from error
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    train, valid = train_test_split(range(len(labels)), test_size=0.25, stratify=data.target, random_state=0)
    return (
        DataLoader(TensorDataset(images[train], labels[train]), batch_size=64, shuffle=True),
        DataLoader(TensorDataset(images[valid], labels[valid]), batch_size=256),
    )


def network() -> nn.Module:
    """A small convolutional network."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 10),
    )


def prepare() -> None:
    """Leave out what a reader of the demo does not need to see, and use one thread."""
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # the data is in memory
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")  # Lightning itself uses it
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)  # for such a small network, several threads would mostly wait for each other


def fit(module: nn.Module, adapter: CallbackSetAdapter, max_epochs: int, ckpt_path: Path | None = None) -> None:
    """Train the network on the digits.

    Args:
        module: The network.
        adapter: The callbacks.
        max_epochs: The number of epochs.
        ckpt_path: The checkpoint to resume, if there is one.
    """
    measure = {"acc": MulticlassAccuracy(10, average="micro")}
    optimizer = partial(torch.optim.AdamW, lr=3e-3)
    trainer = L.Trainer(
        max_epochs=max_epochs,
        callbacks=[adapter],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    supervised = SupervisedModule(module, nn.CrossEntropyLoss(), optimizer, measure, measure)
    trainer.fit(supervised, *digits(), ckpt_path=ckpt_path)


def main() -> None:
    """Train, then show the history, why training stopped, and where the plot is."""
    prepare()
    L.seed_everything(0)
    history = CallbackSetHistory()
    adapter = CallbackSetAdapter(
        [
            history,
            CallbackSetProgress(digits=3),
            CallbackSetGradNorm(),
            CallbackSetEarlyStopping(patience=8, restore_best_weights=True),
        ]
    )
    fit(network(), adapter, max_epochs=60)

    best = adapter.states["early_stopping"]
    print(epochs.as_text(adapter.states["history"], best_epoch=best["best_epochs"]))
    print(f"Training stopped: {adapter.stopped_by or 'all epochs are done'}.")
    print(f"The network has the weights of epoch {best['best_epochs']}: {best['measure']} {best['best_score']:.4f}.")
    try:
        fig, _ = history.plot()
    except ModuleNotFoundError as error:
        print(error)
    else:
        path = Path("history.png").resolve()
        fig.savefig(path, dpi=150)
        print(f"The plot of the history is in {path}.")
