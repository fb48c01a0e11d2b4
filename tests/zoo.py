"""Broken callbacks, one for each check of `callbacksets.testing`, and sound ones that look as if they were broken."""

import time
from collections import deque
from random import random
from typing import Any

from callbacksets import CallbackSet

KEPT: list[Any] = []


class CallbackSetNoStage(CallbackSet):
    def epoch_end(self) -> None: ...


class CallbackSetSetsNoStage(CallbackSet):
    def on_begin(self) -> None:
        self.on_epoch_ned = print


class CallbackSetStateOfSomething(CallbackSet):
    def state_dict(self, destination: Any) -> Any:
        return None

    def load_state_dict(self, state_dict: Any) -> None: ...


class CallbackSetValidates(CallbackSet):
    def on_epoch_end(self) -> None:
        self.best = self.ctx.last_scores_valid["loss"]


class CallbackSetAverage(CallbackSet):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_batch_end(self) -> None:
        self.losses.append(self.ctx.last_loss)

    def on_end(self) -> None:
        self.average = sum(self.losses) / len(self.losses)


class CallbackSetFile(CallbackSet):
    def on_begin(self) -> None:
        self.file = "open"

    def on_exit(self) -> None:
        del self.file


class CallbackSetHolds(CallbackSet):
    def on_end(self) -> None:
        KEPT.append(self.ctx)


class CallbackSetLeaks(CallbackSet):
    seen: list[int] = []

    def on_epoch_end(self) -> None:
        self.seen.append(self.ctx.epoch)

    def state_dict(self) -> Any:
        return {"seen": list(self.seen)}

    def load_state_dict(self, state_dict: Any) -> None:
        self.seen = list(state_dict["seen"])


class CallbackSetSavesOnly(CallbackSet):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_batch_end(self) -> None:
        self.losses.append(self.ctx.last_loss)

    def state_dict(self) -> Any:
        return {"losses": list(self.losses)}


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


class CallbackSetForgets(CallbackSetLastLoss):
    def load_state_dict(self, state_dict: Any) -> None:
        self.steps = state_dict["steps"]


class CallbackSetResets(CallbackSetLastLoss):
    def on_begin(self) -> None:
        self.last = None


class CallbackSetLosses(CallbackSet):
    """Sound: the base of others here."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_batch_end(self) -> None:
        self.losses.append(self.ctx.last_loss)

    def state_dict(self) -> Any:
        return {"losses": list(self.losses)}

    def load_state_dict(self, state_dict: Any) -> None:
        self.losses = list(state_dict["losses"])


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


class CallbackSetEma(CallbackSet):
    def __init__(self) -> None:
        self.ema, self.steps = 0.0, 0

    def on_batch_end(self) -> None:
        self.steps += 1
        self.ema += (self.ctx.last_loss - self.ema) / self.steps

    def state_dict(self) -> Any:
        return {"ema": self.ema}

    def load_state_dict(self, state_dict: Any) -> None:
        self.ema = state_dict["ema"]


class CallbackSetCountsInEpoch(CallbackSet):
    """Forgets, inside an epoch, what it has counted since the epoch began."""

    def __init__(self) -> None:
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


class CallbackSetDecays(CallbackSet):
    """Changes the weights, by something that it does not save."""

    def __init__(self) -> None:
        self.factor = 1.0

    def on_epoch_end(self) -> None:
        self.factor *= 0.9
        for parameter in self.ctx.network.parameters():
            parameter.data.mul_(self.factor)


class CallbackSetNeedsEpochBegin(CallbackSet):
    def on_epoch_begin(self) -> None:
        self.losses: list[float] = []

    def on_batch_end(self) -> None:
        self.losses.append(self.ctx.last_loss)


class CallbackSetUncloned(CallbackSet):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("there is only one")


class CallbackSetUnpickled(CallbackSet):
    def __init__(self) -> None:
        self.function = lambda loss: loss


ZOO: dict[type[CallbackSet], tuple[str, str]] = {
    CallbackSetNoStage: ("stages", r"epoch_end\(\) looks like a stage.*Call it on_epoch_end"),
    CallbackSetSetsNoStage: ("stages", "on_epoch_ned is no stage. Did you mean 'on_epoch_end'"),
    CallbackSetStateOfSomething: ("stages", r"missing a required argument: 'destination'. Define state_dict\(self\)"),
    CallbackSetValidates: ("no_validation", "without validation.*TypeError.*on_epoch_end, epoch 1.*last_scores_valid"),
    CallbackSetAverage: ("nothing_to_train", "max_epochs=0.*ZeroDivisionError.*in on_end.*no epoch and no batch"),
    CallbackSetFile: ("interruption", "interrupted before on_begin. There was also AttributeError: .*on_exit"),
    CallbackSetHolds: ("ctx_released", "still holds ctx after the fit"),
    CallbackSetLeaks: ("fits_are_independent", r"second ends in another state: at \['seen'\].*class attribute"),
    CallbackSetSavesOnly: ("state_methods", r"state_dict\(\) without load_state_dict\(\)"),
    CallbackSetForgets: ("round_trip", r"another: at \['last'\] None instead of.*Restore all"),
    CallbackSetAdds: ("round_trip", r"mixture: at \['losses'\].*18 values instead of 6.*Replace"),
    CallbackSetResets: ("begin_keeps_state", r"on_begin sets state\['last'\] back.*not self.ctx.resumed"),
    CallbackSetLive: ("no_aliasing", r"state_dict\(\) had returned changed.*at \['losses'\].*list\(self.values\)"),
    CallbackSetTakesWhatItIsGiven: ("no_aliasing", r"load_state_dict\(\) was given changed.*Keep a copy"),
    CallbackSetDeque: ("weights_only", r"\['losses'\] \(a collections.deque\).*weights_only=True"),
    CallbackSetEma: ("resume", r"at the end of an epoch ends in another state: at \['ema'\].*Keep in state_dict"),
    CallbackSetCountsInEpoch: ("resume", r"middle of an epoch .* at \['epochs'\]\[1\] 2 instead of 3"),
    CallbackSetDecays: ("resume", "other weights of the network"),
    CallbackSetNeedsEpochBegin: ("resume_inside_epoch", "middle of an epoch. AttributeError.*set in __init__"),
    CallbackSetUncloned: ("clone", r"clone\(deep=True\), before a fit. TypeError: there is only one"),
    CallbackSetUnpickled: ("pickles", "before a fit.*not as lambdas"),
}
"""Which check each fails, alone, and what it says."""


# --- sound -----------------------------------------------------------------------------------------------------------


class CallbackSetRefuses(CallbackSet):
    """Refuses at the right moment what it cannot do."""

    def on_begin(self) -> None:
        if not self.ctx.trainer.enable_validation:
            raise RuntimeError("This needs validation.")


class CallbackSetByTheClock(CallbackSet):
    """Has times and chance in its state, and waits."""

    def __init__(self) -> None:
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


class CallbackSetStops(CallbackSet):
    """Stops after the first epoch: there are no later checkpoints."""

    def on_epoch_end(self) -> None:
        self.ctx.terminate = True
