"""Fits without the callback: they show whether fits of this training can be compared at all."""

from callbacksets.testing.bench import Bench, CannotTrain, TrainingAtFault, apart
from callbacksets.testing.moments import SavePoint


def check_training(bench: Bench, moment: SavePoint | None = None) -> None:
    """Check that a difference is not due to `training`: fits without the callback must not differ either.

    If the module trains only with the callback, nothing can be said.

    Args:
        bench: The bench.
        moment: The moment of a checkpoint, to resume it without the callback too.

    Raises:
        TrainingAtFault: If they differ, or if the resumed fit fails.
    """
    without = bench.without
    try:
        differs = without.differs_by_itself
    except CannotTrain:
        return
    if differs:
        raise TrainingAtFault(
            f"Two fits without the callback differ, {differs}. Let training() make new objects each time, with "
            "weights and data from the seeded global generators of torch, NumPy or Python, and from no others."
        )
    if moment is None or moment not in without.whole.moments:
        return
    try:
        differs = apart(without.whole.outcome, without.resumed(moment), without.whole.rest(moment))
    except AssertionError as error:
        raise TrainingAtFault(f"Without the callback too: {error}") from error
    if differs:
        raise TrainingAtFault(
            f"A fit without the callback that is resumed {moment} differs from an uninterrupted fit, {differs}. Let "
            "training() return a module that draws from the random numbers of torch, NumPy or Python, and loaders that "
            "can be read again. A resumed run gets those numbers back, but not the numbers of a generator of its own."
        )
