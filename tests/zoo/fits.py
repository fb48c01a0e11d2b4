"""Callbacks that what can happen to a fit breaks, each with a twin that comes through it."""

from typing import Any

from callbacksets import CallbackSet
from tests.zoo.entry import Entry, StartsOver

KEPT: list[Any] = []


class CallbackSetNoStage(CallbackSet):
    def epoch_end(self) -> None: ...


class CallbackSetStage(CallbackSet):
    def on_epoch_end(self) -> None: ...


class CallbackSetSetsNoStage(CallbackSet):
    def on_begin(self) -> None:
        self.on_epoch_ned = print


class CallbackSetSetsStage(CallbackSet):
    def on_begin(self) -> None:
        self.on_epoch_end = self._ended  # type: ignore[method-assign]

    def _ended(self) -> None: ...


class CallbackSetValidates(CallbackSet):
    def on_epoch_end(self) -> None:
        self.best = self.ctx.last_scores_valid["loss"]


class CallbackSetMayValidate(CallbackSet):
    def on_epoch_end(self) -> None:
        self.best = (self.ctx.last_scores_valid or {}).get("loss")


class CallbackSetAverage(CallbackSet):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_batch_end(self) -> None:
        self.losses.append(self.ctx.last_loss)

    def on_end(self) -> None:
        self.average = sum(self.losses) / len(self.losses)


class CallbackSetAverageOfAny(CallbackSetAverage):
    def on_end(self) -> None:
        if self.losses:
            super().on_end()


class CallbackSetFile(CallbackSet):
    def on_begin(self) -> None:
        self.file = "open"

    def on_exit(self) -> None:
        del self.file


class CallbackSetFileIfOpen(CallbackSetFile):
    file: str | None = None

    def on_exit(self) -> None:
        self.file = None


class CallbackSetHolds(CallbackSet):
    def on_end(self) -> None:
        KEPT.append(self.ctx)


class CallbackSetHoldsEpoch(CallbackSet):
    def on_end(self) -> None:
        self.epoch = self.ctx.epoch


class CallbackSetLeaks(CallbackSet):
    seen: list[int] = []

    def on_epoch_end(self) -> None:
        self.seen.append(self.ctx.epoch)

    def state_dict(self) -> Any:
        return {"seen": list(self.seen)}

    def load_state_dict(self, state_dict: Any) -> None:
        self.seen = list(state_dict["seen"])


class CallbackSetOwns(StartsOver, CallbackSetLeaks):
    def start_over(self) -> None:
        self.seen = []


class CallbackSetCountsOn(CallbackSetOwns):
    """Counts on from the fit before, when the instance is used again."""

    def __init__(self) -> None:
        self.seen = []

    start_over = CallbackSet.start_over


class CallbackSetClosed(CallbackSet):
    """Can be used once only."""

    is_open = True

    def on_begin(self) -> None:
        if not self.is_open:
            raise OSError("the file is closed")

    def on_exit(self) -> None:
        self.is_open = False


class CallbackSetOpened(CallbackSetClosed):
    def start_over(self) -> None:
        self.is_open = True


class CallbackSetNeedsEpochBegin(CallbackSet):
    def on_epoch_begin(self) -> None:
        self.losses: list[float] = []

    def on_batch_end(self) -> None:
        self.losses.append(self.ctx.last_loss)


class CallbackSetExpectsNoEpochBegin(CallbackSetNeedsEpochBegin):
    def __init__(self) -> None:
        self.losses = []


class CallbackSetUncloned(CallbackSet):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("there is only one")


class CallbackSetCloned(CallbackSet):
    def __deepcopy__(self, memo: Any) -> Any:
        return type(self)()


class CallbackSetUnpickled(CallbackSet):
    def __init__(self) -> None:
        self.function = lambda loss: loss


class CallbackSetPickled(CallbackSet):
    def __init__(self) -> None:
        self.function = round


class CallbackSetRefuses(CallbackSet):
    """Refuses at the right moment what it cannot do."""

    def on_begin(self) -> None:
        if not self.ctx.trainer.enable_validation:
            raise RuntimeError("This needs validation.")


class CallbackSetStops(CallbackSet):
    """Stops after the first epoch: there are no later checkpoints."""

    def on_epoch_end(self) -> None:
        self.ctx.terminate = True


FITS = [
    Entry(CallbackSetNoStage, "stages", r"epoch_end\(\) looks like a stage.*Rename it on_epoch_end", CallbackSetStage),
    Entry(
        CallbackSetSetsNoStage,
        "stages",
        "on_epoch_ned is not a stage. Did you mean 'on_epoch_end'",
        CallbackSetSetsStage,
    ),
    Entry(
        CallbackSetValidates,
        "no_validation",
        "without validation.*TypeError.*on_epoch_end, epoch 1.*last_scores_valid",
        CallbackSetMayValidate,
    ),
    Entry(
        CallbackSetAverage,
        "nothing_to_train",
        "max_epochs=0.*ZeroDivisionError.*on_end.*if there was no epoch and no batch",
        CallbackSetAverageOfAny,
    ),
    Entry(
        CallbackSetFile,
        "interruption",
        "interrupted before on_begin. There was also AttributeError: .*on_exit",
        CallbackSetFileIfOpen,
    ),
    Entry(CallbackSetHolds, "ctx_released", "still holds ctx after the fit", CallbackSetHoldsEpoch),
    Entry(
        CallbackSetLeaks,
        "fits_are_independent",
        r"on_batch_end of batch 1 of epoch 1, the state: at \['seen'\].*class attribute",
        CallbackSetOwns,
    ),
    Entry(
        CallbackSetCountsOn,
        "start_over",
        r"on_batch_end of batch 1 of epoch 1, the state: at \['seen'\].*"
        r"Attributes that differ: self.seen \[1, 2, 3, 4\] instead of \[\].*Define start_over\(self\)",
        CallbackSetOwns,
    ),
    Entry(
        CallbackSetClosed,
        "start_over",
        "in the second fit of the same instance. OSError: the file is closed.*Define start_over",
        CallbackSetOpened,
    ),
    Entry(
        CallbackSetNeedsEpochBegin,
        "resume_inside_epoch",
        "written at the start of epoch 1. AttributeError.*set its attributes in __init__",
        CallbackSetExpectsNoEpochBegin,
    ),
    Entry(
        CallbackSetUncloned,
        "clone",
        r"clone\(deep=True\), before a fit. TypeError: there is only one",
        CallbackSetCloned,
    ),
    Entry(CallbackSetUnpickled, "pickles", "before a fit.*not as lambdas", CallbackSetPickled),
]
