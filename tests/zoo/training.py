"""Callbacks that harm training, each with a twin that leaves it alone; and some that change it on purpose."""

from typing import Any

import torch
from torch import nn

from callbacksets import CallbackSet
from tests.zoo.entry import Entry, StartsOver


class CallbackSetAveraged(StartsOver):
    """Sound: validates with averaged weights, and trains with the others, whatever happens."""

    def start_over(self) -> None:
        self.average: dict[str, torch.Tensor] | None = None
        self.aside: dict[str, torch.Tensor] | None = None

    def on_begin(self) -> None:
        if self.average is None:
            self.average = self._weights()
        self._put_back()  # a checkpoint that was written inside a validation holds the average

    def on_batch_end(self) -> None:
        self.average = {name: 0.5 * self.average[name] + 0.5 * one for name, one in self._weights().items()}

    def on_before_valid(self) -> None:
        if self.ctx.validates:
            self._exchange()

    def on_valid_end(self) -> None:
        self._put_back()

    def on_exit(self) -> None:
        self._put_back()

    def state_dict(self) -> Any:
        return {name: value and dict(value) for name, value in self._kept().items()}

    def load_state_dict(self, state_dict: Any) -> None:
        self.average, self.aside = dict(state_dict["average"]), state_dict["aside"] and dict(state_dict["aside"])

    def _kept(self) -> dict[str, Any]:
        return {"average": self.average, "aside": self.aside}

    def _exchange(self) -> None:
        self.aside = self._weights()
        self._set(self.average)

    def _put_back(self) -> None:
        if self.aside is not None:
            self._set(self.aside)
            self.aside = None

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.ctx.network.named_parameters()}

    def _set(self, weights: Any) -> None:
        with torch.no_grad():
            for name, parameter in self.ctx.network.named_parameters():
                parameter.copy_(weights[name])


class CallbackSetAveragedAlways(CallbackSetAveraged):
    """Exchanges weights also where no validation follows."""

    def on_before_valid(self) -> None:
        self._exchange()


class CallbackSetAveragedUnlessInterrupted(CallbackSetAveraged):
    on_exit = None  # type: ignore[assignment]


class CallbackSetAveragedUnlessSaved(CallbackSetAveraged):
    """A checkpoint that is written inside a validation has the averaged weights only."""

    def _kept(self) -> dict[str, Any]:
        return {"average": self.average, "aside": None}


class CallbackSetEvaluates(CallbackSet):
    """Sound: puts back the mode of each module."""

    def on_epoch_end(self) -> None:
        modes = {module: module.training for module in self.ctx.network.modules()}
        self._evaluate()
        for module, training in modes.items():
            module.training = training

    def _evaluate(self) -> None:
        self.ctx.network.eval()
        with torch.no_grad():
            self.output = self.ctx.network(torch.ones(1, 4))


class CallbackSetLeavesEval(CallbackSetEvaluates):
    def on_epoch_end(self) -> None:
        self._evaluate()


class CallbackSetWakesAll(CallbackSetEvaluates):
    """Wakes layers that were frozen in eval mode."""

    def on_epoch_end(self) -> None:
        self._evaluate()
        self.ctx.network.train()


class CallbackSetValidatesInTraining(CallbackSetEvaluates):
    """Evaluates before validation, which then runs in training mode."""

    on_epoch_end = None  # type: ignore[assignment]

    def on_before_valid(self) -> None:
        self._evaluate()
        self.ctx.network.train()


class CallbackSetSwitchesGradientsOff(CallbackSet):
    def on_epoch_end(self) -> None:
        torch.set_grad_enabled(False)
        self.norm = sum(float(parameter.norm()) for parameter in self.ctx.network.parameters())


class CallbackSetFreezes(CallbackSet):
    """Freezes all for the validation, and then trains also what was frozen before."""

    def on_before_valid(self) -> None:
        self.ctx.network.requires_grad_(False)

    def on_valid_end(self) -> None:
        self.ctx.network.requires_grad_(True)

    on_epoch_end = on_exit = on_valid_end


class CallbackSetFreezesAndRemembers(CallbackSetFreezes):
    def __init__(self) -> None:
        self.trained: list[nn.Parameter] = []

    def on_before_valid(self) -> None:
        self.trained = [parameter for parameter in self.ctx.network.parameters() if parameter.requires_grad]
        super().on_before_valid()

    def on_valid_end(self) -> None:
        for parameter in self.trained:
            parameter.requires_grad_(True)

    on_epoch_end = on_exit = on_valid_end


class CallbackSetHooks(CallbackSet):
    """Looks at the network's output in validation, and goes on looking."""

    def on_before_valid(self) -> None:
        self.ctx.network.register_forward_hook(_look)


class CallbackSetHooksInValidation(CallbackSet):
    handle: Any

    def on_before_valid(self) -> None:
        if self.ctx.validates:
            self.handle = self.ctx.network.register_forward_hook(_look)

    def on_valid_end(self) -> None:
        _remove(self)

    on_exit = on_valid_end


class CallbackSetLeavesHooks(CallbackSet):
    def on_begin(self) -> None:
        self.ctx.network.register_forward_hook(_look)


class CallbackSetRemovesHooks(CallbackSet):
    handle: Any

    def on_begin(self) -> None:
        self.handle = self.ctx.network.register_forward_hook(_look)

    def on_exit(self) -> None:
        _remove(self)


def _remove(callback: Any) -> None:
    if handle := vars(callback).pop("handle", None):
        handle.remove()


def _look(module: nn.Module, inputs: Any, output: Any) -> None: ...


class CallbackSetRates(CallbackSet):
    """Sets the rate to nothing while it looks, and then to what it takes for the rate."""

    def on_before_valid(self) -> None:
        for group in self.ctx.optimizer.param_groups:
            group["lr"] = 0.0

    def on_valid_end(self) -> None:
        for group in self.ctx.optimizer.param_groups:
            group["lr"] = 0.1

    on_epoch_end = on_valid_end


class CallbackSetRatesAsFound(CallbackSetRates):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_begin(self) -> None:
        self.on_valid_end()  # a checkpoint that was written inside a validation holds the others

    def on_before_valid(self) -> None:
        self.rates = [group["lr"] for group in self.ctx.optimizer.param_groups]
        super().on_before_valid()

    def on_valid_end(self) -> None:
        for group, rate in zip(self.ctx.optimizer.param_groups, self.rates, strict=False):
            group["lr"] = rate
        self.rates = []

    on_epoch_end = on_valid_end

    def state_dict(self) -> Any:
        return {"rates": list(self.rates)}

    def load_state_dict(self, state_dict: Any) -> None:
        self.rates = list(state_dict["rates"])


class CallbackSetRatesUnlessSaved(CallbackSetRatesAsFound):
    def state_dict(self) -> Any:
        return {"rates": []}


class CallbackSetUnfreezesAt(CallbackSet):
    """Freezes a layer until an epoch. A run that is resumed after that freezes it for good."""

    at = 2

    def on_begin(self) -> None:
        self.ctx.network[0].requires_grad_(False)

    def on_epoch_begin(self) -> None:
        if self.ctx.epoch == self.at:
            self.ctx.network[0].requires_grad_(True)


class CallbackSetUnfreezesAtThird(CallbackSetUnfreezesAt):
    at = 3


class CallbackSetUnfreezesFrom(CallbackSetUnfreezesAt):
    on_epoch_begin = None  # type: ignore[assignment]

    def on_batch_begin(self) -> None:
        self.ctx.network[0].requires_grad_(self.ctx.epoch >= self.at)


class CallbackSetJitters(StartsOver):
    """Adds noise from a generator of its own, which starts anew in a resumed run."""

    def start_over(self) -> None:
        self.generator = torch.Generator().manual_seed(1)

    def on_batch_begin(self) -> None:
        x, _ = self.ctx.batch
        x.add_(0.1 * torch.randn(x.shape, generator=self.generator))


class CallbackSetJittersOn(CallbackSetJitters):
    def state_dict(self) -> Any:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: Any) -> None:
        self.generator.set_state(state_dict["generator"])


class CallbackSetSeeds(CallbackSet):
    """Probes the network with the same points in every epoch; the dropout and the order of the data are seeded too."""

    def on_epoch_begin(self) -> None:
        self._probe()

    def _probe(self) -> None:
        torch.manual_seed(1)
        with torch.no_grad():
            self.norm = torch.linalg.matrix_norm(self.ctx.network[0].weight @ torch.randn(4, 8)).item()


class CallbackSetSeedsApart(CallbackSetSeeds):
    def on_epoch_begin(self) -> None:
        with torch.random.fork_rng(devices=[]):
            self._probe()


class CallbackSetPrunesForValidation(CallbackSet):
    """Means to change weights where others only lend them: it has to say so."""

    def on_before_valid(self) -> None:
        _prune(self.ctx.network)


# --- sound: they mean to change training -----------------------------------------------------------------------------


class CallbackSetPrunes(CallbackSet):
    def on_epoch_end(self) -> None:
        _prune(self.ctx.network)


class CallbackSetClips(CallbackSet):
    def on_after_backward(self) -> None:
        nn.utils.clip_grad_norm_(self.ctx.network.parameters(), 0.01)


class CallbackSetAveragesAtTheEnd(StartsOver):
    """Gives the network the mean of its weights after each epoch."""

    def start_over(self) -> None:
        self.sums: list[torch.Tensor] = []
        self.epochs = 0

    def on_epoch_end(self) -> None:
        weights = [parameter.detach().clone() for parameter in self.ctx.network.parameters()]
        self.sums = [one + other for one, other in zip(self.sums, weights, strict=True)] if self.sums else weights
        self.epochs += 1

    def on_end(self) -> None:
        with torch.no_grad():
            for parameter, total in zip(self.ctx.network.parameters(), self.sums, strict=False):
                parameter.copy_(total / self.epochs)

    def state_dict(self) -> Any:
        return {"sums": list(self.sums), "epochs": self.epochs}

    def load_state_dict(self, state_dict: Any) -> None:
        self.sums, self.epochs = list(state_dict["sums"]), state_dict["epochs"]


class CallbackSetKeepsALayerInEval(CallbackSet):
    def on_begin(self) -> None:
        self.ctx.network[1].eval()


class CallbackSetNoise(CallbackSet):
    def on_batch_begin(self) -> None:
        x, _ = self.ctx.batch
        x.add_(0.1 * torch.randn_like(x))


class CallbackSetSmooths(CallbackSet):
    """Trains with another loss."""

    def on_begin(self) -> None:
        self.ctx.learner.loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)


class CallbackSetHalves(StartsOver):
    """Halves the rate when a score gets worse."""

    def start_over(self) -> None:
        self.before = float("inf")

    def on_valid_end(self) -> None:
        if (loss := self.ctx.last_scores_valid["loss"]) > self.before:
            for group in self.ctx.optimizer.param_groups:
                group["lr"] *= 0.5
        self.before = loss

    def state_dict(self) -> Any:
        return {"before": self.before}

    def load_state_dict(self, state_dict: Any) -> None:
        self.before = state_dict["before"]


def _prune(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter[parameter.abs() < 0.1] = 0.0


ON_PURPOSE = [
    CallbackSetPrunes,
    CallbackSetClips,
    CallbackSetAveragesAtTheEnd,
    CallbackSetKeepsALayerInEval,
    CallbackSetNoise,
    CallbackSetSmooths,
    CallbackSetHalves,
]

ALONE = "leaves_training_alone"
TRAINING = [
    Entry(
        CallbackSetAveragedAlways,
        ALONE,
        r"changes the weights in on_before_valid of epoch 1, where no validation follows.*in on_epoch_begin of epoch "
        r"2: at \['network.0.weight'\]\[0, 0\].*if self.ctx.validates",
        CallbackSetAveraged,
    ),
    Entry(
        CallbackSetAveragedUnlessInterrupted,
        ALONE,
        "inside the validation of epoch 1, in on_batch_valid_begin.*does not restore the weights.*Undo in on_exit",
        CallbackSetAveraged,
    ),
    Entry(
        CallbackSetAveragedUnlessSaved,
        "resume",
        "after batch 1 of the validation of epoch 1 .*the weights: at.*Keep in .*values that on_before_valid replaces",
        CallbackSetAveraged,
    ),
    Entry(CallbackSetLeavesEval, ALONE, "the network in eval mode in on_epoch_end of epoch 1", CallbackSetEvaluates),
    Entry(
        CallbackSetWakesAll,
        ALONE,
        "sets 'network.3', 'network.4' to training mode in on_epoch_end of epoch 1.*frozen",
        CallbackSetEvaluates,
    ),
    Entry(
        CallbackSetValidatesInTraining,
        ALONE,
        "to training mode in on_before_valid of epoch 1, so the validation runs with dropout",
        CallbackSetEvaluates,
    ),
    Entry(
        CallbackSetSwitchesGradientsOff,
        ALONE,
        "leaves in on_epoch_end of epoch 1 with gradients switched off",
        CallbackSetEvaluates,
    ),
    Entry(
        CallbackSetFreezes,
        ALONE,
        r"changes requires_grad in on_before_valid of epoch 1.*at \['network.3.weight'\] True instead of False",
        CallbackSetFreezesAndRemembers,
    ),
    Entry(CallbackSetHooks, ALONE, "changes hooks in on_before_valid of epoch 1", CallbackSetHooksInValidation),
    Entry(
        CallbackSetLeavesHooks, ALONE, "leaves hooks on the network.*Remove them in on_exit", CallbackSetRemovesHooks
    ),
    Entry(
        CallbackSetRates,
        ALONE,
        r"changes the optimizer in on_before_valid of epoch 1.*\['lr'\] 0.1 instead of 0.5",
        CallbackSetRatesAsFound,
    ),
    Entry(
        CallbackSetRatesUnlessSaved,
        "resume",
        r"the validation of epoch 1 .*, the optimizer: .*\['lr'\] 0.0 instead of 0.5.*restore them in on_begin",
        CallbackSetRatesAsFound,
    ),
    Entry(
        CallbackSetUnfreezesAt,
        "resume",
        r"at the start of epoch 2 differs from one.*first in on_batch_end of batch 1 of epoch 2, the weights: at",
        CallbackSetUnfreezesFrom,
    ),
    Entry(CallbackSetUnfreezesAtThird, "resume", "at the start of epoch 3", CallbackSetUnfreezesFrom),
    Entry(
        CallbackSetJitters,
        "resume",
        r"differs from one that was never.*first in on_batch_end of batch \d of epoch \d, the weights: at",
        CallbackSetJittersOn,
    ),
    Entry(
        CallbackSetSeeds,
        ALONE,
        r"none of its stages shows why. First difference: in on_batch_end of batch 1 of epoch 1, the weights.*random",
        CallbackSetSeedsApart,
    ),
    Entry(
        CallbackSetPrunesForValidation, ALONE, "changes the weights in on_before_valid.*on_epoch_end", CallbackSetPrunes
    ),
]
