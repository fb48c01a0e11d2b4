"""Fits without the callback: they show whether fits of this training can be compared at all."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from callbacksets.base import CallbackSet
from callbacksets.testing.bench import Bench, TrainingAtFault, WrongArgument, described
from callbacksets.testing.moments import Moment
from callbacksets.testing.trace import first_difference
from callbacksets.testing.training import Training


@lru_cache(maxsize=4)
def resumed_without(training: Training) -> Mapping[Moment, str | None]:
    """How a resumed fit without the callback differs from an uninterrupted one, by moment; None if it does not.

    Raises:
        TrainingAtFault: If they differ after a checkpoint at the end of an epoch, or if two whole fits differ.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, without_the_callback():
        bench = Bench(CallbackSet, training, Path(folder).resolve())
        if differs := bench.differs_by_itself:
            raise TrainingAtFault(
                f"Two fits without the callback differ: {differs}. Let training() make new objects each time, with "
                "weights and data from the seeded global generators of torch, NumPy or Python, and from no others."
            )
        whole = bench.whole
        found = {moment: first_difference(whole.rest(moment), bench.resumed(moment).rows) for moment in whole.moments}
    for moment, differs in found.items():
        if differs and moment.kind == "epoch":
            raise TrainingAtFault(
                f"A fit without the callback that is resumed {moment} differs from an uninterrupted fit, first in "
                f"{differs}. Let training() return a module that draws from the random numbers of torch, NumPy or "
                "Python. A resumed run gets those back, but not the numbers of a generator of its own."
            )
    return found


@contextmanager
def without_the_callback() -> Iterator[None]:
    """Convert any failure: without the callback it is the fault of `training`.

    Raises:
        TrainingAtFault: If anything fails.
    """
    try:
        yield
    except (WrongArgument, TrainingAtFault):
        raise
    except Exception as error:
        cause = error.__cause__ or error
        raise TrainingAtFault(f"A fit without the callback fails. {described(cause)}") from cause
