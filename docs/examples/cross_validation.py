"""Cross-validate: five folds, one adapter.

The callbacks are given as a key and as a descriptor, so every fit makes new ones.
An instance of your own would have to reset itself in `start_over()`.
"""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from callbacksets import CallbackSetAdapter, SupervisedModule, t_clbk

FOLDS = 5

torch.manual_seed(1)
x = torch.randn(500, 2)
y = (x.norm(dim=1) > 1.2).long()  # inside or outside of a circle
data = TensorDataset(x, y)
folds = torch.randperm(len(data)).chunk(FOLDS)

stop = t_clbk("early_stopping", patience=3, monitor="acc", restore_best_weights=True)
adapter = CallbackSetAdapter(["history", stop])
histories, best = {}, []

for n, valid in enumerate(folds):
    train = torch.cat([fold for fold in folds if fold is not valid])
    module = SupervisedModule(
        nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2)),
        nn.CrossEntropyLoss(),
        lambda parameters: torch.optim.Adam(parameters, lr=0.03),
        measures_valid={"acc": MulticlassAccuracy(2)},
    )
    trainer = L.Trainer(
        max_epochs=30,
        callbacks=[adapter],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        module,
        DataLoader(Subset(data, train.tolist()), batch_size=50, shuffle=True),
        DataLoader(Subset(data, valid.tolist()), batch_size=100),
    )
    histories[f"fold {n + 1}"] = adapter.states["history"]
    best.append(adapter.states["early_stopping"]["best_score"])
    print(f"fold {n + 1}: {best[-1]:.3f} after {trainer.current_epoch} epochs")

scores = torch.tensor(best)
print(f"accuracy {scores.mean():.3f} ± {scores.std():.3f}")
# from callbacksets import plot_history; plot_history(histories) shows all folds
