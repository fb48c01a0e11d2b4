"""Search a learning rate with Optuna, which stops bad trials early: `pip install optuna`.

The callback reports the validation loss of every epoch. If Optuna gives the trial up,
the callback sets `ctx.terminate`, and `adapter.stopped_by` tells that it did.
"""

import lightning as L
import optuna
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacksets import CallbackSet, CallbackSetAdapter, SupervisedModule


class CallbackSetPruning(CallbackSet):
    """Stops a trial that Optuna gives up."""

    def __init__(self, trial, monitor="loss"):
        self.trial, self.monitor = trial, monitor

    def on_valid_end(self):
        self.trial.report(self.ctx.last_scores_valid[self.monitor], self.ctx.epoch)
        if self.trial.should_prune():
            self.ctx.terminate = True


torch.manual_seed(1)
x = torch.randn(512, 2)
y = (x.norm(dim=1) > 1.2).long()  # inside or outside of a circle
train_data, valid_data = (
    TensorDataset(x[:384], y[:384]),
    TensorDataset(x[384:], y[384:]),
)


def objective(trial):
    lr = trial.suggest_float("lr", 1e-5, 1.0, log=True)
    torch.manual_seed(2)
    module = SupervisedModule(
        nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2)),
        nn.CrossEntropyLoss(),
        lambda parameters: torch.optim.Adam(parameters, lr=lr),
    )
    adapter = CallbackSetAdapter(["history", CallbackSetPruning(trial)])
    trainer = L.Trainer(
        max_epochs=10,
        callbacks=[adapter],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        module,
        DataLoader(train_data, batch_size=64, shuffle=True),
        DataLoader(valid_data, batch_size=128),
    )
    if adapter.stopped_by is not None and adapter.stopped_by.callback == "pruning":
        raise optuna.TrialPruned
    return adapter.states["history"]["valid.loss"][-1]


study = optuna.create_study(
    sampler=optuna.samplers.TPESampler(seed=1),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
)
study.optimize(objective, n_trials=12)
pruned = [trial.number for trial in study.trials if trial.state.name == "PRUNED"]
print(f"pruned trials: {pruned}")
print(f"best loss {study.best_value:.3f} with lr {study.best_params['lr']:.4f}")
