"""What fits come to without the callback: whether what they train can be compared at all."""

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
    """How a fit without the callback goes otherwise when it is resumed, by the moment; None where it does not.

    Raises:
        TrainingAtFault: When it does so between two epochs, or is not the same from the beginning.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, without_the_callback():
        bench = Bench(CallbackSet, training, Path(folder).resolve())
        if differs := bench.differs_by_itself:
            raise TrainingAtFault(
                f"Two fits without the callback differ: {differs}. Let training() make everything anew, with weights "
                "and data from the seeded random numbers of torch, NumPy or Python, and no generators of their own."
            )
        whole = bench.whole
        found = {moment: first_difference(whole.rest(moment), bench.resumed(moment).rows) for moment in whole.moments}
    for moment, differs in found.items():
        if differs and moment.kind == "epoch":
            raise TrainingAtFault(
                f"A fit without the callback that is resumed {moment} goes otherwise than one that was never "
                f"interrupted, first in {differs}. Let training() give a loader and a module that draw from the random "
                "numbers of torch, NumPy or Python, which a resumed run gets back, and no generator of their own."
            )
    return found


@contextmanager
def without_the_callback() -> Iterator[None]:
    """What fails without the callback is not its fault.

    Raises:
        TrainingAtFault: When anything fails.
    """
    try:
        yield
    except (WrongArgument, TrainingAtFault):
        raise
    except Exception as error:
        cause = error.__cause__ or error
        raise TrainingAtFault(f"A fit without the callback fails. {described(cause)}") from cause
