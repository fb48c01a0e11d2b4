"""Callbacks that lose something of their state, each with a twin that does not."""

import time
from collections import deque
from random import random
from typing import Any

import torch

from callbacksets import CallbackSet
from tests.zoo.entry import Entry, StartsOver


class CallbackSetLastLoss(CallbackSet):
    """Sound: the base of others here."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.steps = 0

    def on_batch_end(self) -> None:
        self.last, self.steps = self.ctx.last_loss, self.ctx.global_step

    def state_dict(self) -> Any:
        return {"last": self.last, "steps": self.steps}

    def load_state_dict(self, state_dict: Any) -> None:
        self.last, self.steps = state_dict["last"], state_dict["steps"]


class CallbackSetStateOfSomething(CallbackSetLastLoss):
    def state_dict(self, destination: Any) -> Any:  # type: ignore[override]
        return super().state_dict()


class CallbackSetForgets(CallbackSetLastLoss):
    def load_state_dict(self, state_dict: Any) -> None:
        self.steps = state_dict["steps"]


class CallbackSetResets(CallbackSetLastLoss):
    def on_begin(self) -> None:
        self.last = None


class CallbackSetLosses(StartsOver):
    """Sound: the base of others here."""

    def start_over(self) -> None:
        self.losses: list[float] = []

    def on_batch_end(self) -> None:
        self.losses.append(self.ctx.last_loss)

    def state_dict(self) -> Any:
        return {"losses": list(self.losses)}

    def load_state_dict(self, state_dict: Any) -> None:
        self.losses = list(state_dict["losses"])


class CallbackSetSavesOnly(StartsOver):
    def start_over(self) -> None:
        self.losses: list[float] = []

    def on_batch_end(self) -> None:
        self.losses.append(self.ctx.last_loss)

    def state_dict(self) -> Any:
        return {"losses": list(self.losses)}


class CallbackSetAdds(CallbackSetLosses):
    def load_state_dict(self, state_dict: Any) -> None:
        self.losses.extend(state_dict["losses"])


class CallbackSetLive(CallbackSetLosses):
    def state_dict(self) -> Any:
        return {"losses": self.losses}


class CallbackSetTakesWhatItIsGiven(CallbackSetLosses):
    def load_state_dict(self, state_dict: Any) -> None:
        self.losses = state_dict["losses"]


class CallbackSetDeque(CallbackSetLosses):
    def state_dict(self) -> Any:
        return {"losses": deque(self.losses)}


class CallbackSetWeightsAverage(StartsOver):
    """Sound: an average of the weights that starts as a copy of them, unless there is one already."""

    def start_over(self) -> None:
        self.average: list[torch.Tensor] | None = None

    def on_begin(self) -> None:
        if self.average is None:
            self.average = self._weights()

    def on_batch_end(self) -> None:
        self.average = [0.9 * one + 0.1 * other for one, other in zip(self.average, self._weights(), strict=True)]

    def state_dict(self) -> Any:
        return {"average": None if self.average is None else list(self.average)}

    def load_state_dict(self, state_dict: Any) -> None:
        self.average = list(state_dict["average"])

    def _weights(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.ctx.network.parameters()]


class CallbackSetStartsFromCopy(CallbackSetWeightsAverage):
    def on_begin(self) -> None:
        self.average = self._weights()


class CallbackSetMean(StartsOver):
    def start_over(self) -> None:
        self.mean, self.steps = 0.0, 0

    def on_batch_end(self) -> None:
        self.steps += 1
        self.mean += (self.ctx.last_loss - self.mean) / self.steps

    def state_dict(self) -> Any:
        return {"mean": self.mean}

    def load_state_dict(self, state_dict: Any) -> None:
        self.mean = state_dict["mean"]


class CallbackSetMeanAndSteps(CallbackSetMean):
    def state_dict(self) -> Any:
        return {"mean": self.mean, "steps": self.steps}

    def load_state_dict(self, state_dict: Any) -> None:
        self.mean, self.steps = state_dict["mean"], state_dict["steps"]


class CallbackSetCountsInEpoch(StartsOver):
    """Forgets, inside an epoch, what it has counted since the epoch began."""

    def start_over(self) -> None:
        self.batches, self.epochs = 0, list[int]()

    def on_batch_end(self) -> None:
        self.batches += 1

    def on_epoch_end(self) -> None:
        self.epochs.append(self.batches)
        self.batches = 0

    def state_dict(self) -> Any:
        return {"epochs": list(self.epochs), "batches": self.batches if self.ctx.step == 3 else 0}

    def load_state_dict(self, state_dict: Any) -> None:
        self.epochs, self.batches = list(state_dict["epochs"]), state_dict["batches"]


class CallbackSetCountsInEpochToo(CallbackSetCountsInEpoch):
    def state_dict(self) -> Any:
        return {"epochs": list(self.epochs), "batches": self.batches}


class CallbackSetFirstLoss(StartsOver):
    """Needs at the end what it has seen in the first epoch, and does not save."""

    def start_over(self) -> None:
        self.first: float | None = None
        self.gain: float | None = None

    def on_batch_end(self) -> None:
        if self.first is None and self.ctx.epoch == 1:
            self.first = self.ctx.last_loss

    def on_end(self) -> None:
        self.gain = None if self.first is None else self.first - self.ctx.last_loss

    def state_dict(self) -> Any:
        return {"gain": self.gain}

    def load_state_dict(self, state_dict: Any) -> None:
        self.gain = state_dict["gain"]


class CallbackSetFirstLossSaved(CallbackSetFirstLoss):
    def state_dict(self) -> Any:
        return {"gain": self.gain, "first": self.first}

    def load_state_dict(self, state_dict: Any) -> None:
        self.gain, self.first = state_dict["gain"], state_dict["first"]


class CallbackSetDecays(StartsOver):
    """Changes the weights, by something that it does not save."""

    def start_over(self) -> None:
        self.factor = 1.0

    def on_epoch_end(self) -> None:
        self.factor *= 0.9
        for parameter in self.ctx.network.parameters():
            parameter.data.mul_(self.factor)


class CallbackSetDecaysByEpoch(CallbackSetDecays):
    def on_epoch_end(self) -> None:
        self.factor = 0.9 ** (self.ctx.epoch - 1)
        super().on_epoch_end()


class CallbackSetScores(CallbackSet):
    """Sound: a checkpoint holds the scores as a plain dict."""

    def __init__(self) -> None:
        self.best: Any = None

    def on_valid_end(self) -> None:
        self.best = self.ctx.last_scores_valid

    def state_dict(self) -> Any:
        return {"best": self.best}

    def load_state_dict(self, state_dict: Any) -> None:
        self.best = state_dict["best"]


class CallbackSetKeepsGraph(CallbackSet):
    """Keeps the output of the network, and so all that it was computed from."""

    def __init__(self) -> None:
        self.last: dict[str, list[torch.Tensor]] = {"y_hat": []}

    def on_batch_end(self) -> None:
        self.last["y_hat"] = [self._kept(self.ctx.y_hat)]

    def _kept(self, output: torch.Tensor) -> torch.Tensor:
        return output


class CallbackSetKeepsOutput(CallbackSetKeepsGraph):
    def _kept(self, output: torch.Tensor) -> torch.Tensor:
        return output.detach()


class CallbackSetCountsValidation(StartsOver):
    """Counts the batches of all validations, so the batches of an interrupted validation count twice."""

    def start_over(self) -> None:
        self.batches, self.new = 0, 0

    def on_batch_valid_end(self) -> None:
        self.batches += 1

    def state_dict(self) -> Any:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: Any) -> None:
        self.batches = state_dict["batches"]


class CallbackSetCountsWholeValidations(CallbackSetCountsValidation):
    def on_before_valid(self) -> None:
        self.new = 0

    def on_batch_valid_end(self) -> None:
        self.new += 1

    def on_valid_end(self) -> None:
        self.batches += self.new


# --- sound, though they look otherwise -------------------------------------------------------------------------------


class CallbackSetByTheClock(StartsOver):
    """Has times and chance in its state, and waits."""

    def start_over(self) -> None:
        self.seconds, self.noise = 0.0, 0.0

    def on_batch_begin(self) -> None:
        self.started = time.perf_counter()
        while time.monotonic() < self.started + 3:
            time.sleep(0.5)

    def on_batch_end(self) -> None:
        self.seconds += time.perf_counter() - self.started
        self.noise += random()

    def state_dict(self) -> Any:
        return {"seconds": self.seconds, "noise": self.noise}

    def load_state_dict(self, state_dict: Any) -> None:
        self.seconds, self.noise = state_dict["seconds"], state_dict["noise"]


class CallbackSetLoadsInBegin(CallbackSet):
    """Has no state before it has begun, and takes over then what it was given."""

    def load_state_dict(self, state_dict: Any) -> None:
        self.given = state_dict

    def on_begin(self) -> None:
        self.steps = getattr(self, "given", {"steps": 0})["steps"] if self.ctx.resumed else 0

    def on_batch_end(self) -> None:
        self.steps += 1

    def state_dict(self) -> Any:
        return {"steps": self.steps}


class CallbackSetCountsSessions(CallbackSet):
    """Changes what was loaded in begin, as it should; the count is no part of what can be compared."""

    def __init__(self) -> None:
        self.sessions = 0

    def on_begin(self) -> None:
        self.sessions += 1

    def state_dict(self) -> Any:
        return {"sessions": self.sessions}

    def load_state_dict(self, state_dict: Any) -> None:
        self.sessions = state_dict["sessions"]


STATES = [
    Entry(
        CallbackSetKeepsGraph,
        "no_graph",
        r"self.last\['y_hat'\]\[0\] holds a tensor with the graph that computed it.*tensor.detach\(\)",
        CallbackSetKeepsOutput,
    ),
    Entry(
        CallbackSetCountsValidation,
        "resume",
        r"after batch 1 of the validation of epoch 1 .*at \['batches'\] 3 instead of 2.*Reset there what they add up",
        CallbackSetCountsWholeValidations,
    ),
    Entry(
        CallbackSetStateOfSomething,
        "stages",
        r"missing a required argument: 'destination'. Define state_dict\(self\)",
        CallbackSetLastLoss,
    ),
    Entry(CallbackSetSavesOnly, "state_methods", r"state_dict\(\) without load_state_dict\(\)", CallbackSetLosses),
    Entry(
        CallbackSetForgets,
        "round_trip",
        r"written at the end of epoch 2.*another state: at \['last'\] None instead of.*Restore everything",
        CallbackSetLastLoss,
    ),
    Entry(
        CallbackSetAdds,
        "round_trip",
        r"mixture: at \['losses'\].*18 values instead of 6.*must replace",
        CallbackSetLosses,
    ),
    Entry(
        CallbackSetResets,
        "begin_keeps_state",
        r"on_begin resets state\['last'\] to its initial value.*at the end of epoch 2.*not self.ctx.resumed",
        CallbackSetLastLoss,
    ),
    Entry(
        CallbackSetStartsFromCopy,
        "begin_keeps_state",
        r"on_begin resets state\['average'\] to its initial value",
        CallbackSetWeightsAverage,
    ),
    Entry(
        CallbackSetLive,
        "no_aliasing",
        r"state_dict\(\) had returned changed.*at \['losses'\].*list\(self.values\)",
        CallbackSetLosses,
    ),
    Entry(
        CallbackSetTakesWhatItIsGiven,
        "no_aliasing",
        r"load_state_dict\(\) got changed.*Keep a copy",
        CallbackSetLosses,
    ),
    Entry(
        CallbackSetDeque,
        "weights_only",
        r"\['losses'\] \(a collections.deque\).*weights_only=True",
        CallbackSetLosses,
    ),
    Entry(
        CallbackSetMean,
        "resume",
        r"at \['mean'\].*Attributes that differ: self.mean .*; self.steps 1 instead of 2. Keep in state_dict",
        CallbackSetMeanAndSteps,
    ),
    Entry(
        CallbackSetFirstLoss,
        "resume",
        r"first in on_end, the state: at \['gain'\]",
        CallbackSetFirstLossSaved,
    ),
    Entry(
        CallbackSetCountsInEpoch,
        "resume",
        r"after batch 1 of epoch 1.*first in on_.*epoch 1, the state: at \['(batches|epochs)'\]",
        CallbackSetCountsInEpochToo,
    ),
    Entry(
        CallbackSetDecays,
        "resume",
        r"written at the end of epoch 1.*on_epoch_end of epoch 2, the weights: at \['network.0.weight'\]\[0, 0\]",
        CallbackSetDecaysByEpoch,
    ),
]
