"""Train a GAN: a LightningModule of your own with two optimizers and manual steps.

The generator learns to draw from a normal distribution with mean 3 and deviation 0.5.
The callback looks at its samples after every epoch, and stops when they are good enough.
"""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacksets import CallbackSet, CallbackSetAdapter


class CallbackSetSamples(CallbackSet):
    """Keeps mean and deviation of the generator's samples. Stops when the mean is near a target."""

    reads_y_hats = False

    def __init__(self, target, tolerance=0.1, n=1000):
        self.target, self.tolerance, self.n = target, tolerance, n
        self.start_over()

    def start_over(self):
        self.moments = []

    def on_epoch_end(self):
        generator = torch.Generator().manual_seed(1)  # the same noise in every epoch
        noise = torch.randn(self.n, 1, generator=generator).to(self.ctx.device)
        with torch.no_grad():
            samples = self.ctx.network(noise)
        self.moments.append((samples.mean().item(), samples.std().item()))
        self.ctx.last_scores_train["mean"] = self.moments[-1][0]  # history keeps it too
        if abs(self.moments[-1][0] - self.target) < self.tolerance:
            self.ctx.terminate = True

    def state_dict(self):
        return list(self.moments)

    def load_state_dict(self, state_dict):
        self.moments = list(state_dict)


class GAN(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
        self.critic = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))

    def training_step(self, batch, batch_idx):
        (real,) = batch
        of_generator, of_critic = self.optimizers()  # type: ignore  # a list of two
        right, wrong = torch.ones_like(real), torch.zeros_like(real)
        loss = nn.functional.binary_cross_entropy_with_logits

        fake = self.generator(torch.randn_like(real))
        critic_loss = loss(self.critic(real), right) + loss(
            self.critic(fake.detach()), wrong
        )
        of_critic.zero_grad()
        self.manual_backward(critic_loss)
        of_critic.step()

        generator_loss = loss(self.critic(fake), right)
        of_generator.zero_grad()
        self.manual_backward(generator_loss)
        of_generator.step()

        self.log("train_critic", critic_loss, on_step=False, on_epoch=True)
        self.log("train_generator", generator_loss, on_step=False, on_epoch=True)

    def configure_optimizers(self):
        return (
            torch.optim.Adam(self.generator.parameters(), lr=0.002),
            torch.optim.Adam(self.critic.parameters(), lr=0.002),
        )


torch.manual_seed(1)
data = TensorDataset(3 + 0.5 * torch.randn(2000, 1))
samples = CallbackSetSamples(target=3.0)
adapter = CallbackSetAdapter([samples, "history"], network="generator")
trainer = L.Trainer(
    max_epochs=40,
    callbacks=[adapter],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(GAN(), DataLoader(data, batch_size=50, shuffle=True))
print(adapter.stopped_by)
print(
    f"mean of the samples: {samples.moments[0][0]:.2f} at first, {samples.moments[-1][0]:.2f} at the end"
)
