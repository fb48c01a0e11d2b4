"""The data of a fit: an interrupted epoch goes on with its next batch, and random numbers are noted for that.

Lightning makes the iterator of an epoch when the epoch has begun, but that of a fit's first epoch before
`on_train_start`. The order is drawn then, or with the first batch if the loader has no worker processes. A loader that
has a state goes on by itself. Any other is read again from the start of the epoch, with the random numbers of that
time, and the batches that were trained are left out.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Literal

from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.types import _Stateful
from torch.utils.data import DataLoader
from tqdm import tqdm

from callbacksets.fit import lightning
from callbacksets.fit.plain import unloadable
from callbacksets.fit.position import Continuation, Point
from callbacksets.fit.random_state import Numbers, SavedRandom, collect, plain, restore

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_NOTHING = object()


class Data:
    """What is to do when Lightning makes iterators: to note random states, and in a resumed run to go on."""

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
        self._ahead: list[Any] = []
        self._last: _Remembering | None = None

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
            lightning.set_epoch_of_samplers(self._trainer)
            if to.epochs == 0:
                self._load_loaders(goes_on=True)
                self._restore("order")
        load()
        self._order = self._collect()

    def _epoch(self, start: Callable[[], None]) -> None:
        """An epoch begins. In a resumed run, what others have drawn since the callbacks began does not count."""
        self._restore("now")
        start()

    def _reset(self, reset: Callable[[], None]) -> None:
        """Lightning sets its counts of batches to zero. In an epoch that goes on they are right already."""
        if self._to is None or not self._to.inside:
            reset()

    def _batches_of_epoch(self, start: Callable[[Any], None], fetcher: Any) -> None:
        """The batches of an epoch come. Lightning makes iterators now, but for a fit's first epoch."""
        to = self._to
        if to is not None and to.inside:
            start(fetcher)
            self._go_on(to, fetcher)
            self._remember(fetcher)
            if to.rest:
                lightning.finish_batch(self._trainer, validates=to.point is Point.VALIDATION)
        else:
            if to is not None and to.epochs:
                drawn = self._collect()
                self._load_loaders(goes_on=False)
                if drawn is not None:
                    restore(self._trainer, drawn)
            self.forget()
            self._batches = self._collect()
            start(fetcher)
            self._remember(fetcher)

    def _remember(self, fetcher: Any) -> None:
        """Keep the batch under way, if the loaders go on behind it."""
        self._last = None
        if all(map(_has_state, lightning.combined_loader(self._trainer).flattened)):
            fetcher.iterator = self._last = _Remembering(fetcher.iterator)

    def _validation_run(self, run: Callable[[], Any]) -> Any:
        """A validation begins. If it is interrupted, it begins again in the resumed run, with the same numbers."""
        self._validation = self._collect()
        outputs = run()
        self._validation = None
        return outputs

    def _collect(self) -> Numbers | None:
        return collect(self._trainer) if self._has_random else None

    # --- a resumed run -----------------------------------------------------------------------------------------------

    def resume(self, to: Continuation, random: SavedRandom | None, loaders: list[Any], ahead: list[Any]) -> None:
        """Go on where the checkpoint was saved.

        Args:
            to: Where that is.
            random: The random states of this rank.
            loaders: The states of the loaders that have one.
            ahead: The batches that had been read and not trained.
        """
        self._to, self._loaders, self._ahead = to, loaders, ahead
        self._random = random if self._has_random else None

    def forget(self) -> None:
        """There is nothing to go on with any more."""
        self._to = self._random = None

    def begin(self) -> None:
        """`on_begin` has run. What the callbacks drew there does not count, but what they draw from now on does."""
        self._restore("now")

    def begun(self) -> None:
        """The callbacks have finished what was due."""
        if self._random is not None:
            self._random["now"] = collect(self._trainer)

    def _restore(self, which: Literal["now", "order", "batches"]) -> None:
        if self._random is not None and (numbers := self._random[which]) is not None:
            restore(self._trainer, numbers)

    def _go_on(self, to: Continuation, fetcher: Any) -> None:
        """Go on in the epoch that was interrupted."""
        if not to.has_all:
            self._restore("batches")
            if self._random is not None:
                self._order, self._batches = self._random["order"], self._random["batches"]
            if to.epochs:  # the iterators that Lightning has made are those of a first epoch
                self._load_loaders(goes_on=True)
                iter(fetcher)
            self._leave_out(fetcher, to.batch)
        else:
            self._load_loaders(goes_on=False)
        if to.batch or self._batches is None:  # else the first batch is read again, and so draws its numbers again
            self._restore("now")
        self.forget()

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

    def _leave_out(self, fetcher: Any, batches: int) -> None:
        """Read as many batches as were trained, without those of loaders that go on by themselves."""
        its = lightning.iterators(self._trainer)
        goes_on = [_has_state(loader) for loader in lightning.combined_loader(self._trainer).flattened]
        if fetcher.length is not None:  # Lightning has counted the batches of the epoch before
            fetcher.fetched, fetcher.done = (batches if all(goes_on) else 0), False
        if all(goes_on):
            if fetcher.length is None and hasattr(fetcher, "batches"):
                fetcher.batches[:0] = self._ahead
            else:
                fetcher.iterator = chain(self._ahead, fetcher.iterator)
            return
        kept = [it for it, has_state in zip(its, goes_on, strict=True) if has_state]
        its[:] = [repeat(None) if has_state else it for it, has_state in zip(its, goes_on, strict=True)]
        with lightning.only_orders(its if fetcher.length is not None else []):
            source = getattr(fetcher, "iterator_wrapper", fetcher)
            is_hidden = not self._trainer.is_global_zero
            told = "Leaving out the batches that were trained"
            for _ in tqdm(range(batches), told, delay=2, leave=False, disable=is_hidden):
                next(source, None)
        its[:] = [kept.pop(0) if has_state else it for it, has_state in zip(its, goes_on, strict=True)]

    # --- a checkpoint ------------------------------------------------------------------------------------------------

    def save(self, *, validates: bool) -> SavedRandom | None:
        """The random states of this rank for a checkpoint written now."""
        if not self._has_random:
            return None
        now = self._validation if validates and self._validation is not None else collect(self._trainer)
        has_all = lightning.is_processed(self._trainer) and lightning.has_all_batches(self._trainer)
        order, batches = (None, None) if has_all else (self._order, self._batches)
        saved: SavedRandom = plain({"now": now, "order": order, "batches": batches})
        return saved

    def read_ahead(self) -> list[Any]:
        """The batches that were read and not trained, of loaders that go on behind them."""
        if self._last is None:
            return []
        under_way = [] if lightning.is_processed(self._trainer) else [self._last.batch]
        ahead = [*under_way, *getattr(lightning.fetcher(self._trainer), "batches", ())]
        return ahead if not any(unloadable(ahead)) else []


class _Remembering(Iterator[Any]):
    """An iterator that keeps what it has given last."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self.batch: Any = None

    def __next__(self) -> Any:
        self.batch = batch = next(self._iterator)
        return batch


def _has_state(loader: object) -> bool:
    return isinstance(loader, _Stateful)
