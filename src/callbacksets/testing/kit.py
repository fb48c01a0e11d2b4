"""The test kit: all checks by name, and the function that runs them."""

import tempfile
import unittest
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from torch import nn

from callbacksets.base import CallbackSet
from callbacksets.checks import did_you_mean, listed, names_of, text
from callbacksets.describe.descriptor import TorchCallback
from callbacksets.describe.sources import Callbacks, sources_by_id
from callbacksets.testing.bench import Bench, CannotTrain, Make, TrainingAtFault, WrongArgument, described
from callbacksets.testing.checks.alone import leaves_training_alone
from callbacksets.testing.checks.copies import clone, pickles
from callbacksets.testing.checks.fits import (
    ctx_released,
    fits_are_independent,
    interruption,
    no_validation,
    nothing_to_train,
    stages,
    start_over,
)
from callbacksets.testing.checks.ranks import ranks
from callbacksets.testing.checks.resume import resume, resume_inside_epoch
from callbacksets.testing.checks.states import (
    begin_keeps_state,
    no_aliasing,
    no_graph,
    round_trip,
    state_methods,
    weights_only,
)
from callbacksets.testing.training import Training


def check_callback_set(
    make: Make,
    checks: str | Iterable[str] | None = None,
    skip: Mapping[str, str] = {},
    *,
    training: Training | None = None,
    beside: Callbacks = (),
) -> None:
    """Check that a callback keeps its state, does not disturb training, and handles all situations of a fit.

    The callback is trained in about eighty tiny fits on the CPU, which takes some seconds. Each fit has its own empty
    working directory, so relative paths of the callback are safe. The clock moves by one second per batch. Every fit
    has the same seed, and a resumed fit gets its random numbers back. So fits can be compared exactly. If two equal
    fits still differ, for example because of `datetime.now()` or `uuid4()`, `fits_are_independent` fails. You can skip
    it with that reason; `resume` and `start_over` then compare nothing. If fits differ without the callback too, the
    error says that `training` is at fault.

    Example:
        >>> from callbacksets import CallbackSetHistory
        >>> from callbacksets.testing import CHECKS, check_callback_set
        >>> check_callback_set(CallbackSetHistory, checks=["round_trip", "resume"])
        >>> for name, what in CHECKS.items():
        ...     print(f"{name}: {what}")  # doctest: +ELLIPSIS
        stages: Its stages are spelled and declared correctly, also those that it sets during training.
        ...

    With pytest, write one test for each check:

        @pytest.mark.parametrize("check", CHECKS)
        def test_loss_ema(check):
            check_callback_set(CallbackSetLossEma, checks=check)

    Args:
        make: A function that returns a new callback each time it is called, such as its class.
        checks: The names of some of `CHECKS`, or a single name; by default all. There is also the check `"ranks"`. It
            starts two processes, so `make` and `training` must be importable from a module.
        skip: The checks to skip, each with the reason. If no check is left, the test is skipped.
        training: A function that returns a new LightningModule, a training loader of at least two batches and a
            validation loader, for callbacks that need their own. The module logs scores for the epoch. Module and
            loader may draw random numbers of torch, NumPy and Python (`shuffle=True`, dropout). A loader may have a
            generator of its own; a module may not. By default a small classifier with dropout and the scores `acc`
            and `loss`, and a shuffled loader.
        beside: Other callbacks that every fit has, as the adapter takes them: those whose values the callback reads,
            such as `"predictions"`, and those that the module needs to train. Of the same weight, they run before it.
            Every fit makes new ones; of an instance, it makes a copy.

    Raises:
        AssertionError: If a check fails. The message says what is wrong and what to do.
        KeyError, TypeError, ValueError: If an argument is wrong, or a check does not exist.
        unittest.SkipTest: If all the checks are skipped. pytest reports it as a skipped test.
    """
    _check_makes(make)
    names = [_known("checks", name) for name in names_of("checks", CHECKS if checks is None else checks)]
    if not isinstance(skip, Mapping):
        raise TypeError(f"Expected skip to be a mapping of checks to reasons but got {skip!r}.")
    reasons = {_known("skip", name): text(f"the reason to skip {name!r}", reason) for name, reason in skip.items()}
    if training is not None and (not callable(training) or isinstance(training, nn.Module)):
        raise TypeError(
            f"Expected training to be a function that returns a module and two loaders but got {training!r}."
        )
    if not names:
        raise ValueError(
            f"Expected checks to name at least one check but got {checks!r}. There are {listed(_FUNCTIONS)}."
        )
    if set(names) <= set(reasons):
        raise unittest.SkipTest("; ".join(dict.fromkeys(reasons[name] for name in names)))

    try:
        others = sources_by_id(beside)
    except (KeyError, TypeError, ValueError) as error:
        error.add_note("in the argument beside of check_callback_set")
        raise
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        bench = Bench(make, training, others, Path(folder).resolve())
        _make([name for name in names if name not in reasons], bench)


def _make(names: list[str], bench: Bench) -> None:
    """Run the checks, and report all failures at once."""
    failures: dict[str, AssertionError] = {}
    callback: CallbackSet | None = None
    for name in names:
        if failures.keys() & _SAY_THE_SAME.get(name, set()):
            continue
        try:
            callback = callback or _new_each_time(bench)
            _FUNCTIONS[name](bench)
        except TrainingAtFault as error:
            raise AssertionError(f"The check {name!r} cannot run, because training= is at fault. {error}") from error
        except AssertionError as error:
            failures[name] = error
            if isinstance(error, CannotTrain) or name == "stages":
                break  # the other checks would report the same
        except (WrongArgument, unittest.SkipTest):
            raise
        except Exception as error:
            failures[name] = AssertionError(f"The check itself failed with an error. {described(error)}")
            failures[name].__cause__ = error
    if failures:
        who = "The callback" if callback is None else type(callback).__name__
        told = "".join(f"\n- {name}: {_FUNCTIONS[name].__doc__}\n  But: {error}" for name, error in failures.items())
        raise AssertionError(f"{who} fails {listed(failures)}.{told}") from next(iter(failures.values()))


_DEFAULT: tuple[Callable[[Bench], None], ...] = (
    stages,
    no_graph,
    no_validation,
    nothing_to_train,
    leaves_training_alone,
    interruption,
    ctx_released,
    fits_are_independent,
    start_over,
    state_methods,
    round_trip,
    begin_keeps_state,
    no_aliasing,
    weights_only,
    resume,
    resume_inside_epoch,
    clone,
    pickles,
)
_FUNCTIONS = {function.__name__: function for function in (*_DEFAULT, ranks)}

_SAY_THE_SAME = {
    "resume": {"nothing_to_train", "leaves_training_alone", "round_trip", "begin_keeps_state"},
    "resume_inside_epoch": {"no_validation", "nothing_to_train"},  # a run may miss a validation, or only end
    "clone": {"no_graph"},
    "pickles": {"no_graph"},
}
"""Checks that are skipped if one of these checks has failed, which report the same fault in more detail."""

CHECKS: Mapping[str, str] = MappingProxyType({check.__name__: str(check.__doc__) for check in _DEFAULT})
"""The checks, each with what it checks. There is also `ranks`, which runs only if it is named."""


def _check_makes(make: object) -> None:
    hint = ""
    if isinstance(make, CallbackSet):
        hint = f" Give a function that makes it: lambda: {type(make).__name__}(...)."
    elif isinstance(make, TorchCallback):
        hint = " Give its method: descriptor.generate."
    elif isinstance(make, str):
        hint = f" For a key of the dictionary, give t_clbk({make!r}, ...).generate."
    if hint or not callable(make):
        raise TypeError(f"Expected make to be a function that returns a new CallbackSet but got {make!r}.{hint}")


def _known(argument: str, name: str) -> str:
    if name not in _FUNCTIONS:
        raise ValueError(
            f"Expected {argument} to name checks but got {name!r}.{did_you_mean(name, _FUNCTIONS)} There are "
            f"{listed(_FUNCTIONS)}."
        )
    return name


def _new_each_time(bench: Bench) -> CallbackSet:
    callback = bench.make()
    if bench.make() is callback:
        raise WrongArgument(f"Expected make to return a new callback each time but it returned {callback!r} twice.")
    return callback
