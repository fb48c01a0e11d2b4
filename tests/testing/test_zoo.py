"""The kit finds what is broken, says what to do, and passes the sound twin of it."""

from collections.abc import Iterator

import lightning as L
import pytest
from packaging.version import Version

from callbacksets import CallbackSet
from callbacksets.testing import CHECKS, StageRecorder, check_callback_set
from tests.zoo import ZOO, fits, states, training
from tests.zoo.entry import Entry

FAILS_INSIDE_EPOCH = (
    states.CallbackSetCountsInEpoch,
    training.CallbackSetUnfreezesAt,
    training.CallbackSetUnfreezesAtThird,
)


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    yield
    fits.KEPT.clear()


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["its check", "every check"])
@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.broken.__name__)
def test_a_broken_callback_fails_its_check_and_no_other(entry: Entry, every: bool) -> None:
    if entry.broken in FAILS_INSIDE_EPOCH and Version(L.__version__) < Version("2.5"):
        pytest.skip("resumed inside an epoch, Lightning 2.4 validates at once, so that nothing is compared there")
    name, check = entry.broken.__name__, entry.check
    with pytest.raises(AssertionError, match=rf"(?s)^{name} fails '{check}'\.\n- {check}: .*{entry.message}"):
        check_callback_set(entry.broken, checks=None if every else [check])


SOUND = [
    CallbackSet,
    StageRecorder,
    fits.CallbackSetRefuses,
    fits.CallbackSetStops,
    states.CallbackSetByTheClock,
    states.CallbackSetLoadsInBegin,
    *training.ON_PURPOSE,
    *dict.fromkeys(entry.sound for entry in ZOO if entry.sound not in training.ON_PURPOSE),
]


@pytest.mark.slow
@pytest.mark.parametrize("sound", SOUND)
def test_a_sound_callback_passes(sound: type[CallbackSet]) -> None:
    check_callback_set(sound)


def test_every_check_has_a_broken_callback() -> None:
    assert {entry.check for entry in ZOO} == set(CHECKS)
    assert len({entry.broken for entry in ZOO}) >= 25
