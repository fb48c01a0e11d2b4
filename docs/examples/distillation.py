"""Distil a large network into a small one: the small one learns the outputs of the large one.

The callback adds the teacher's outputs to the targets of every training batch. So the
module knows nothing of a teacher. Only its loss does.
"""

import lightning as L
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacksets import CallbackSet, CallbackSetAdapter, SupervisedModule


class CallbackSetTeacher(CallbackSet):
    """Adds the teacher's outputs to the targets of a training batch."""

    reads_y_hats = False

    def __init__(self, teacher):
        self.teacher = teacher

    def on_begin(self):
        self.teacher.to(self.ctx.device).eval()

    def on_batch_begin(self):
        x, y = self.ctx.batch
        with torch.no_grad():
            self.ctx.batch = [x, (y, self.teacher(x))]


def distillation_loss(y_hat, targets, temperature=2.0, share=0.7):
    if isinstance(targets, torch.Tensor):  # in validation
        return F.cross_entropy(y_hat, targets)
    y, taught = targets
    soft = F.kl_div(
        F.log_softmax(y_hat / temperature, dim=1),
        F.log_softmax(taught / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    hard = F.cross_entropy(y_hat, y)
    return share * temperature**2 * soft + (1 - share) * hard


def mlp(width):
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))


def fit(network, loss, callbacks):
    module = SupervisedModule(
        network, loss, lambda parameters: torch.optim.Adam(parameters, lr=0.02)
    )
    trainer = L.Trainer(
        max_epochs=20,
        callbacks=[adapter := CallbackSetAdapter(callbacks)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, DataLoader(data, batch_size=200))
    return adapter.states["history"]["valid.loss"]


torch.manual_seed(1)
x = torch.randn(400, 2)
data = TensorDataset(x, (x.norm(dim=1) > 1.2).long())  # inside or outside of a circle
loader = DataLoader(data, batch_size=50, shuffle=True)

teacher, student = mlp(64), mlp(6)
fit(teacher, nn.CrossEntropyLoss(), "history")
losses = fit(student, distillation_loss, ["history", CallbackSetTeacher(teacher)])
print(f"loss of the student: {losses[0]:.3f} at first, {losses[-1]:.3f} at the end")
with torch.no_grad():
    same = (student(x).argmax(1) == teacher(x).argmax(1)).float().mean()
print(f"the student decides like the teacher for {same:.0%} of the samples")
