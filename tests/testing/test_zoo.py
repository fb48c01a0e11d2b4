"""The kit finds what is broken, says what to do, and passes the sound twin of it."""

from collections.abc import Iterator

import pytest

from callbacksets import CallbackSet
from callbacksets.testing import CHECKS, StageRecorder, check_callback_set
from tests.helpers import RELEASE
from tests.zoo import ZOO, fits, states, training
from tests.zoo.entry import Entry


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    yield
    fits.KEPT.clear()


ITS_CHECK = [pytest.param(entry, False, id=f"{entry.broken.__name__}-its check") for entry in ZOO]
EVERY_CHECK = [
    pytest.param(entry, True, id=f"{entry.broken.__name__}-every check", marks=RELEASE if i % 12 else pytest.mark.slow)
    for i, entry in enumerate(ZOO)
]


@pytest.mark.parametrize(("entry", "every"), [*ITS_CHECK, *EVERY_CHECK])
def test_a_broken_callback_fails_its_check_and_no_other(entry: Entry, every: bool) -> None:
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
]
TWINS = dict.fromkeys(entry.sound for entry in ZOO if entry.sound not in training.ON_PURPOSE)


@pytest.mark.slow
@pytest.mark.parametrize("sound", [*SOUND, *(pytest.param(twin, marks=RELEASE) for twin in TWINS)])
def test_a_sound_callback_passes(sound: type[CallbackSet]) -> None:
    check_callback_set(sound)


def test_every_check_has_a_broken_callback() -> None:
    assert {entry.check for entry in ZOO} == set(CHECKS)
    assert len({entry.broken for entry in ZOO}) >= 25
