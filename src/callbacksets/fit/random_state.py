"""The random numbers of a fit: a resumed run draws the same numbers as an uninterrupted run.

Lightning does not restore random states. It makes the iterator of an epoch after `on_train_epoch_start`, but that of
the first epoch of a fit before `on_train_start`. The order of the data is drawn then, or with the first batch if the
loader has no worker processes.
"""

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils._pytree import tree_leaves

from callbacksets.fit.lightning import (
    FAST_FORWARD,
    LOAD_LOADERS,
    Taps,
    batch_progress,
    draws_order_again,
    has_all_batches,
    is_processed,
    set_epoch_of_samplers,
    validation_loop,
)

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from callbacksets.fit.fit import Fit

Numbers = dict[str, Any]
"""The states of the generators of one rank, as types that load with `weights_only=True`."""


class SavedRandom(TypedDict):
    """The random states of one rank in a checkpoint."""

    now: Numbers
    order: Numbers | None  # the states before this epoch's iterator was made, if the resumed run continues the epoch
    begun: NotRequired[Numbers | None]  # the same when the first epoch of a fit has begun, which has its iterator then


def collect(trainer: "Trainer") -> Numbers:
    """The states of the generators of Python, NumPy, torch and the rank's device."""
    numpy: Any = np.random.get_state(legacy=False)
    device = trainer.strategy.root_device
    is_usual = numpy["bit_generator"] == "MT19937"  # NumPy's default; users of another generator must keep its state
    state = {"key": numpy["state"]["key"].tolist(), "pos": int(numpy["state"]["pos"])} if is_usual else None
    return {
        "python": random.getstate(),
        "numpy": numpy | {"state": state} if is_usual else None,
        "torch": torch.get_rng_state(),
        "device": None if device.type == "cpu" else _generator(device).get_rng_state(),
    }


def restore(trainer: "Trainer", numbers: Numbers) -> None:
    """Restore the states of the generators."""
    version, internal, gauss = numbers["python"]
    random.setstate((version, tuple(internal), gauss))
    if numbers["numpy"] is not None:
        keys = numbers["numpy"]["state"]
        np.random.set_state(numbers["numpy"] | {"state": keys | {"key": np.array(keys["key"], dtype=np.uint32)}})
    torch.set_rng_state(numbers["torch"].cpu())
    device = trainer.strategy.root_device
    if numbers["device"] is not None and device.type != "cpu":
        _generator(device).set_rng_state(numbers["device"].cpu())


def _generator(device: torch.device) -> Any:
    return getattr(torch, device.type)


Ranks = list[SavedRandom | None]
"""The random states of all ranks; None for a rank that could not be reached."""


def gathered(trainer: "Trainer", own: SavedRandom | Ranks | None) -> Ranks | None:
    """Gather the random states of all ranks. While an exception is handled, the other ranks may be gone."""
    if own is None or isinstance(own, list):
        return own  # passed on from a checkpoint
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return [own]
    ranks: Ranks = [None] * trainer.world_size
    if trainer.interrupted:
        ranks[trainer.global_rank] = own
    else:
        torch.distributed.all_gather_object(ranks, own)
    return ranks


class RandomState:
    """The random states of one fit, saved and restored at the right moments of training."""

    def __init__(self, fit: "Fit") -> None:
        self._fit = fit
        self._trainer = fit.trainer
        self._order: Numbers | None = None
        self._begun: Numbers | None = None
        self._given: SavedRandom | None = None
        self._at_begin: Numbers | None = None
        self._taps = Taps(validation_loop(fit.trainer))
        self._loader_taps = Taps(fit.trainer.fit_loop)

    def load(self, ranks: Sequence[SavedRandom | None]) -> None:
        """Take the random state of this rank from a checkpoint."""
        trainer = self._trainer
        if len(ranks) != trainer.world_size:
            rank_zero_warn(
                f"The checkpoint has the random states of {len(ranks)} ranks, but this run has {trainer.world_size} "
                "ranks. Only rank zero gets its random state back; the others draw new numbers. So this run will end "
                "with other results than an uninterrupted one."
            )
        if len(ranks) == trainer.world_size or trainer.is_global_zero:
            self._given = ranks[trainer.global_rank]
        self.begin_fit()  # again, because some strategies load after `on_fit_start`

    def begin_fit(self) -> None:
        """Lightning is about to draw the order of the first epoch's data."""
        if self._given is not None:
            restore(self._trainer, self._given["order"] or self._given["now"])
            self._loader_taps.remove()
            if hasattr(self._trainer.fit_loop, LOAD_LOADERS):
                self._loader_taps.put(LOAD_LOADERS, self._in_the_epoch_to_come)
        self._order = collect(self._trainer)

    def begin(self) -> None:
        """The callbacks are about to begin. In a resumed run, the random numbers they draw do not count."""
        self._at_begin = collect(self._trainer) if self._given is not None else None

    def begun(self, *, goes_on_in_epoch: bool) -> None:
        """The callbacks have begun.

        Args:
            goes_on_in_epoch: Whether Lightning continues the epoch of the checkpoint. In any case it has already drawn
                an order of the data.
        """
        given, self._given = self._given, None
        if given is None or self._at_begin is None:
            return
        self._begun = given.get("begun")
        restore(self._trainer, self._begun or self._at_begin)
        if not goes_on_in_epoch:
            if draws_order_again(self._trainer):
                restore(self._trainer, given["now"])
            return
        if has_all_batches(self._trainer) or self._loader_goes_on():
            restore(self._trainer, given["now"])
        elif batch_progress(self._trainer).current.completed > 0:
            # The loader starts again and draws the order of the whole epoch with the first batch.
            self._before_first_batch(lambda: restore(self._trainer, given["now"]))
        elif hasattr(validation_loop(self._trainer), FAST_FORWARD):
            self._taps.put(FAST_FORWARD, self._without_trace)

    def stop(self) -> None:
        """Restore Lightning's loops as they were."""
        self._taps.remove()
        self._loader_taps.remove()

    def _in_the_epoch_to_come(self, load: Callable[[], None]) -> Callable[[], None]:
        def loaded() -> None:
            self._loader_taps.remove()
            set_epoch_of_samplers(self._trainer)
            load()

        return loaded

    def _without_trace(self, call: Callable[[], None]) -> Callable[[], None]:
        def isolated() -> None:
            numbers = collect(self._trainer)
            call()
            restore(self._trainer, numbers)
            self._taps.remove()

        return isolated

    def _loader_goes_on(self) -> bool:
        loaders = tree_leaves(self._trainer.train_dataloader)
        return all(hasattr(loader, "load_state_dict") for loader in loaders)

    def _before_first_batch(self, do: Callable[[], None]) -> None:
        fit = self._fit
        begin_batch = fit.begin_batch

        def first(batch: Any) -> None:
            fit.begin_batch = begin_batch  # type: ignore[method-assign]
            do()
            begin_batch(batch)

        fit.begin_batch = first  # type: ignore[method-assign]  # a flag would have to be checked in every batch

    def begin_epoch(self) -> None:
        """The callbacks have begun an epoch. Lightning makes its iterator now; that of a fit's first epoch is there."""
        numbers = collect(self._trainer)
        if "on_batch_begin" in self._fit.loop.ran:
            self._order, self._begun = numbers, None
        else:
            self._begun = numbers

    def save(self) -> SavedRandom:
        """The random states of this rank for a checkpoint written now."""
        trainer, loop = self._trainer, self._fit.loop
        if loop.caller is not None and loop.stage == "on_epoch_begin":
            self.begin_epoch()  # a callback saves; the resumed run continues with the one after it
        is_inside = loop.in_epoch and not (is_processed(trainer) and has_all_batches(trainer))
        order, begun = (self._order, self._begun) if is_inside else (None, None)
        return {"now": collect(trainer), "order": order, "begun": begun}
