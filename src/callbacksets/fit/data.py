"""The data of a fit: an interrupted epoch goes on with its next batch, and random numbers are noted for that.

Lightning makes the iterator of an epoch when the epoch has begun, but that of a fit's first epoch before
`on_train_start`. The order is drawn then, or with the first batch if the loader has no worker processes. A loader that
has a state goes on by itself. Any other is read again from the start of the epoch, with the random numbers of that
time, and the batches that were trained are left out.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from inspect import isgenerator
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from tqdm import tqdm

from callbacksets.fit import lightning
from callbacksets.fit.plain import unloadable
from callbacksets.fit.position import Continuation, Point
from callbacksets.fit.random_state import Numbers, SavedRandom, collect, persistent, restore, with_lists

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_NOTHING = object()


class Data:
    """What we do when Lightning makes iterators: we note random states, and go on with the data in a resumed run."""

    def __init__(self, trainer: "Trainer", *, random_state: bool) -> None:
        self._trainer = trainer
        self._has_random = random_state
        self._order: Numbers | None = None
        self._batches: Numbers | None = None
        self._validation: Numbers | None = None
        # what a resumed run has not done yet
        self._to: Continuation | None = None
        self._random: SavedRandom | None = None
        self._loaders: list[Any] = []
        self._ahead: list[Any] | None = []
        self._read: _Remembering | None = None
        self._starts_workers = False

    def watch(self, taps: ExitStack) -> None:
        """Notice when Lightning makes iterators."""
        fit_loop = self._trainer.fit_loop
        lightning.tap(taps, fit_loop, lightning.LOADERS_ARE_SET_UP, self._first_iterators)
        lightning.tap(taps, fit_loop, "on_advance_start", self._epoch)
        lightning.tap(taps, fit_loop.epoch_loop, "reset", self._reset)
        lightning.tap(taps, fit_loop.epoch_loop, "on_run_start", self._batches_of_epoch)
        lightning.tap(taps, lightning.validation_loop(self._trainer), "run", self._validation_run)

    def _first_iterators(self, load: Callable[[], None]) -> None:
        """The loaders are there. Lightning makes iterators, those of a run's first epoch."""
        to = self._to
        if to is not None:
            loaders = lightning.combined_loader(self._trainer).flattened
            if to.epochs and any(isinstance(one, Iterator) and not _has_state(one) for one in loaders):
                rank_zero_warn(
                    "A training loader is an iterator, which starts from its beginning in this process. So the data "
                    "differ from those of an uninterrupted run. Give a loader that can be read again in every epoch."
                )
            lightning.set_epoch_of_samplers(self._trainer)
            if to.epochs == 0:
                self._load_loaders(goes_on=True)
                self._restore("order")
        load()
        self._order = self._collect()

    def _epoch(self, start: Callable[[], None]) -> None:
        """An epoch begins. In a resumed run, what others have drawn since the callbacks began does not count."""
        self._restore("now")
        if self._to is not None and not self._to.inside:
            self._random = None  # from now on, what is drawn counts
        start()

    def _reset(self, reset: Callable[[], None]) -> None:
        """Lightning sets its counts of batches to zero. In an epoch that goes on they are right already."""
        if self._to is None or not self._to.inside:
            reset()

    def _batches_of_epoch(self, start: Callable[[Any], None], fetcher: Any) -> None:
        """The batches of an epoch come. Lightning makes iterators now, except in a fit's first epoch: it has them."""
        to = self._to
        if to is not None and to.inside:
            start(fetcher)
            self._go_on(to, fetcher)
            fetcher.iterator = self._read = _Remembering(fetcher.iterator)
            if to.rest:
                lightning.finish_batch(self._trainer, validates=to.point is Point.VALIDATION)
        else:
            if to is not None and to.epochs:
                drawn = self._collect()
                self._load_loaders(goes_on=False)
                if drawn is not None:
                    restore(self._trainer, drawn)
            self.forget()
            for loader in lightning.combined_loader(self._trainer).flattened:
                if getattr(loader, "restore", None) is True:  # litdata takes it back at the end, which nobody reads
                    loader.restore = False
            self._batches = self._collect()
            start(fetcher)
            fetcher.iterator = self._read = _Remembering(fetcher.iterator)

    def _validation_run(self, run: Callable[[], Any]) -> Any:
        """A validation begins. If it is interrupted, it begins again in the resumed run, with the same numbers."""
        self._validation = self._collect()
        if self._starts_workers and self._validation is not None:
            self._starts_workers = False
            lightning.validation_loop(self._trainer).setup_data()
            for loader in persistent(self._trainer.val_dataloaders):
                iter(loader)  # the run that was interrupted had started their workers already
            restore(self._trainer, self._validation)
        outputs = run()
        self._validation = None
        return outputs

    def _collect(self) -> Numbers | None:
        return collect(self._trainer) if self._has_random else None

    # --- a resumed run -----------------------------------------------------------------------------------------------

    def resume(self, to: Continuation, random: SavedRandom | None, loaders: list[Any], ahead: list[Any] | None) -> None:
        """Go on where the checkpoint was saved.

        Args:
            to: Where that is.
            random: The random states of this rank.
            loaders: The states of the loaders that have one.
            ahead: The batches that had been read and not trained; None if they could not be kept.
        """
        self._to, self._loaders, self._ahead = to, loaders, ahead
        self._random = random if self._has_random else None
        self._starts_workers = self._random is not None and self._random["now"].get("persistent", False)

    @property
    def pending(self) -> Continuation | None:
        """Where a resumed run goes on, until it does."""
        return self._to

    def pass_on(self, checkpoint: dict[str, Any]) -> None:
        """Give a checkpoint that is saved before the run goes on what Lightning does not have then.

        These are the states that its loaders will get, and with Lightning 2.4 its counts.
        """
        to = self._to
        if to is None or lightning.batch_progress(self._trainer).total.ready != to.batches:
            return  # a tuner saves before Lightning restores its counts
        loops = checkpoint["loops"]["fit_loop"]
        lightning.set_progress(loops, to)
        if self._loaders:
            loops["state_dict"]["combined_loader"] = self._loaders

    def forget(self) -> None:
        """There is nothing to go on with any more."""
        self._to = self._random = None

    def undo_draws(self) -> None:
        """`on_begin` has run. What the callbacks drew there does not count, but what they draw from now on does."""
        self._restore("now")

    def keep_draws(self) -> None:
        """The callbacks have finished what was due."""
        if self._random is not None:
            self._random["now"] = collect(self._trainer)

    def _restore(self, which: Literal["now", "order", "batches"]) -> None:
        if self._random is not None and (numbers := self._random[which]) is not None:
            restore(self._trainer, numbers)

    def _go_on(self, to: Continuation, fetcher: Any) -> None:
        """Go on in the epoch that was interrupted."""
        if to.has_all:
            self._load_loaders(goes_on=False)
            self._restore("now")
            self.forget()
            return
        self._restore("batches")
        if self._random is not None:
            self._order, self._batches = self._random["order"], self._random["batches"]
        states = self._loaders
        if to.epochs:  # the iterators that Lightning has made are those of a first epoch
            self._load_loaders(goes_on=True)
            iter(fetcher)
        # a later batch comes from the checkpoint: a data set that draws would draw other numbers now
        begins_again = self.begins_again(to)
        self._leave_out(fetcher, to.batch, [] if begins_again else self._ahead or [], states)
        if not begins_again:
            self._restore("now")
            if self._ahead is None:
                fetcher.iterator = self._read_again(fetcher.iterator)
        lightning.keep_logged(self._trainer)
        self.forget()

    def begins_again(self, to: Continuation) -> bool:
        """Whether the epoch goes on with its first batch. It is read again, and so draws its numbers again."""
        if to.batch or self._random is None or self._random["batches"] is None:
            return False
        return not any(map(_has_state, lightning.combined_loader(self._trainer).flattened))

    def _load_loaders(self, *, goes_on: bool) -> None:
        """Give loaders their states. Without batches left in the epoch, they have to be ready for the next one."""
        states, self._loaders = self._loaders, []
        combined = lightning.combined_loader(self._trainer)
        if goes_on:
            combined._load_state_dicts(states)
            return
        for loader, state in zip(filter(_has_state, combined.flattened), states, strict=False):
            loader.load_state_dict(state)
            has_more = next(iter(loader), _NOTHING) is not _NOTHING
            is_cut = isinstance(loader, DataLoader) and (sized_len(loader) or 0) > self._trainer.num_training_batches
            if has_more and not is_cut:  # the state is already that of the next epoch, whose first batch was read
                loader.load_state_dict(state)

    def _leave_out(self, fetcher: Any, batches: int, ahead: list[Any], states: list[Any]) -> None:
        """Read the batches that were trained, but for loaders that go on by themselves.

        Args:
            fetcher: What reads the loaders for Lightning.
            batches: How many were trained.
            ahead: The batches that were read after these. They come next.
            states: The states of the loaders that go on by themselves.
        """
        trainer, is_sized = self._trainer, fetcher.length is not None
        its = lightning.iterators(trainer)
        loaders = lightning.combined_loader(trainer).flattened
        goes_on = [_has_state(loader) for loader in loaders]
        kept = [_seeded(it, loader) for it, loader, state in zip(its, loaders, goes_on, strict=True) if state]
        its[:] = [repeat(None) if has_state else it for it, has_state in zip(its, goes_on, strict=True)]
        if is_sized:  # Lightning has counted the batches of the epoch before
            fetcher.fetched, fetcher.done = 0, False
        if not all(goes_on):
            source = getattr(fetcher, "iterator_wrapper", fetcher)
            n = batches + max(0, len(ahead) - (not is_sized))  # without a length, one is read ahead at once
            told = "Leaving out the batches that were trained"
            with lightning.only_orders(its if is_sized else []):
                for _ in tqdm(range(n), told, delay=2, leave=False, disable=not trainer.is_global_zero):
                    next(source, None)
            if ahead and not is_sized:
                fetcher.batches.clear()
        its[:] = [kept.pop(0) if has_state else it for it, has_state in zip(its, goes_on, strict=True)]
        rest: Iterator[Any] = _Remembering(fetcher.iterator)  # `iter` of it would begin again
        if ahead and all(goes_on):
            if not is_sized:
                ahead = ahead if not fetcher.batches or _differs(fetcher.batches[0], ahead[0]) else []
            elif batches + len(ahead) < fetcher.length:
                rest = _without(ahead[0], rest)
            elif (following := next(rest, None)) is not None and _differs(following, ahead[0]):
                lightning.combined_loader(trainer)._load_state_dicts(states)  # it had begun the next epoch
        if is_sized:
            fetcher.fetched, fetcher.done = batches, False
            fetcher.iterator = chain(ahead, rest)
        elif hasattr(fetcher, "batches"):
            fetcher.batches[:0] = ahead

    def _read_again(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Warn if the batch that was under way draws when it is read again: it had been drawn with other numbers."""
        before = with_lists(collect(self._trainer))
        first = list(islice(batches, 1))
        if with_lists(collect(self._trainer)) != before:
            rank_zero_warn(
                "The checkpoint could not keep the batch under way: it has a type that torch.load() does not read, or "
                "it had been changed in place. So it was read again and drew other random numbers, and this run "
                "differs from an uninterrupted one."
            )
        yield from chain(first, batches)

    # --- a checkpoint ------------------------------------------------------------------------------------------------

    def save(self, *, validates: bool) -> SavedRandom | None:
        """The random states of this rank for a checkpoint written now."""
        if not self._has_random or (self._to is not None and self._random is not None):
            pending: SavedRandom | None = with_lists(self._random)
            return pending  # nothing has been drawn since
        now = self._validation if validates and self._validation is not None else collect(self._trainer)
        has_all = lightning.is_processed(self._trainer) and lightning.has_all_batches(self._trainer)
        order, batches = (None, None) if has_all else (self._order, self._batches)
        saved: SavedRandom = with_lists({"now": now, "order": order, "batches": batches})
        return saved

    def read_ahead(self, *, in_step: bool) -> list[Any] | None:
        """The batches that were read and not trained: the one under way, and one that Lightning reads ahead.

        None if they cannot be kept: because of their type, or because others have changed them in place.
        """
        if self._read is None:
            return self._ahead
        fetcher = lightning.fetcher(self._trainer)
        ahead = list(getattr(fetcher, "batches", ()))
        is_read = in_step or not hasattr(fetcher, "iterator_wrapper")  # such a module reads its batch in the step
        if is_read and not lightning.is_processed(self._trainer):
            # nothing is noted of a first batch behind which another one is read ahead
            batch, versions, read = (self._read.before if ahead else self._read.last) or (None, [], ())
            if versions != _versions(batch):
                return None
            ahead.insert(0, (batch, *read[1:]) if read else None)
        return None if any(unloadable(ahead)) else ahead


class _Remembering(Iterator[Any]):
    """An iterator that keeps the last two batches, as they were read: others may change them in place."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self.before: tuple[Any, ...] | None = None
        self.last: tuple[Any, ...] | None = None

    def __next__(self) -> Any:
        read = next(self._iterator)
        batch = read[0]
        self.before, self.last = (
            self.last,
            (batch.copy() if type(batch) in (dict, list) else batch, _versions(batch), read),
        )
        return read


def _versions(batch: Any) -> list[int]:
    """How often the tensors of a batch have been changed in place."""
    kind = type(batch)
    parts = batch.values() if kind is dict else batch if kind in (list, tuple) else (batch,)
    try:
        return [one._version for one in parts if type(one) is torch.Tensor]
    except RuntimeError:  # those of an inference mode are not counted
        return []


def _seeded(iterator: Iterator[Any], loader: Any) -> Iterator[Any]:
    """An iterator that draws the seed of its epoch now, if it would draw it with its first batch, as that of litdata.

    The interrupted run had drawn it when the epoch began.
    """
    if not (isgenerator(iterator) and isinstance(loader, DataLoader) and loader.generator is None):
        return iterator
    drawn = torch.Generator()
    drawn.set_state(torch.get_rng_state())

    def batches() -> Iterator[Any]:
        loader.generator = drawn
        first = list(islice(iterator, 1))
        loader.generator = None
        yield from chain(first, iterator)

    return batches()


def _without(under_way: Any, batches: Iterator[Any]) -> Iterator[Any]:
    """The batches of a loader, without the one under way, which the state of the loader may not have counted."""
    yield from (one for number, one in enumerate(batches) if number or _differs(one, under_way))


def _differs(one: Any, other: Any) -> bool:
    """Whether two batches have different values."""
    leaves, others = tree_leaves(one[0]), tree_leaves(other[0])
    pairs = zip(leaves, others, strict=False)
    equal = all(_are_equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)
    return not equal or len(leaves) != len(others)


def _are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have the same values. Two NaN are the same."""
    other = other.to(one.device)
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def _has_state(loader: object) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
