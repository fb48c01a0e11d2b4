"""A confusion matrix for each of several validation loaders.

`ctx.dataloader_idx` tells which loader a batch comes from. The matrices are the state of
the callback, so they are in `adapter.states` and in every checkpoint.
"""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional.classification import multiclass_confusion_matrix

from callbacksets import CallbackSet, CallbackSetAdapter, SupervisedModule


class CallbackSetConfusion(CallbackSet):
    """Keeps the confusion matrices of the last validation. Adds the worst recall as a score."""

    def __init__(self):
        self.start_over()

    def start_over(self):
        self.matrices = []  # of the last validation: a row for each true class

    def on_before_valid(self):
        self.counts = {}  # of this validation

    def on_batch_valid_end(self):
        (_, y), y_hat = self.ctx.batch, self.ctx.y_hat
        counts = multiclass_confusion_matrix(y_hat, y, num_classes=y_hat.shape[1])
        loader = self.ctx.dataloader_idx
        self.counts[loader] = self.counts.get(loader, 0) + counts

    def on_valid_end(self):
        self.matrices = [counts.cpu() for counts in self.counts.values()]
        recalls = [matrix.diag() / matrix.sum(1) for matrix in self.matrices]
        self.ctx.last_scores_valid["worst_recall"] = float(torch.stack(recalls).min())

    def state_dict(self):
        return [matrix.tolist() for matrix in self.matrices]

    def load_state_dict(self, state_dict):
        self.matrices = [torch.tensor(matrix) for matrix in state_dict]


def samples(n, noise):
    """Three classes around three points."""
    y = torch.arange(n) % 3
    centers = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    return TensorDataset(centers[y] + noise * torch.randn(n, 2), y)


torch.manual_seed(1)
module = SupervisedModule(
    nn.Linear(2, 3),
    nn.CrossEntropyLoss(),
    lambda parameters: torch.optim.SGD(parameters, lr=0.5),
)
adapter = CallbackSetAdapter([CallbackSetConfusion(), "history"])
trainer = L.Trainer(
    max_epochs=5,
    callbacks=[adapter],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(
    module,
    DataLoader(samples(300, noise=1.0), batch_size=50, shuffle=True),
    [
        DataLoader(samples(150, noise=1.0), batch_size=50),  # as in training
        DataLoader(samples(90, noise=2.0), batch_size=50),  # harder
    ],
)
for name, matrix in zip(
    ["same noise", "more noise"], adapter.states["confusion"], strict=True
):
    print(name, *matrix, sep="\n")
print(adapter.states["history"]["valid.worst_recall"])
