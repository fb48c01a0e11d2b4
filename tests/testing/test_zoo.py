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


ITS_CHECK = [
    pytest.param(entry, False, id=f"{entry.broken.__name__}-its check", marks=pytest.mark.slow if i % 6 else ())
    for i, entry in enumerate(ZOO)
]
EVERY_CHECK = [
    pytest.param(entry, True, id=f"{entry.broken.__name__}-every check", marks=RELEASE if i % 24 else pytest.mark.slow)
    for i, entry in enumerate(ZOO)
]


@pytest.mark.parametrize(("entry", "every"), [*ITS_CHECK, *EVERY_CHECK])
def test_a_broken_callback_fails_its_check_and_no_other(entry: Entry, every: bool) -> None:
    name, check = entry.broken.__name__, entry.check
    with pytest.raises(AssertionError, match=rf"(?s)^{name} fails '{check}'\.\n- {check}: .*{entry.message}"):
        check_callback_set(entry.broken, checks=None if every else [check])


SOUND = [
    fits.CallbackSetRefuses,
    fits.CallbackSetStops,
    states.CallbackSetByTheClock,
    states.CallbackSetLoadsInBegin,
    *training.ON_PURPOSE,
]
SOUND += dict.fromkeys(entry.sound for entry in ZOO if entry.sound not in SOUND)


@pytest.mark.slow
@pytest.mark.parametrize("sound", [CallbackSet, StageRecorder, *(pytest.param(one, marks=RELEASE) for one in SOUND)])
def test_a_sound_callback_passes(sound: type[CallbackSet]) -> None:
    check_callback_set(sound)


def test_every_check_has_a_broken_callback() -> None:
    assert {entry.check for entry in ZOO} == set(CHECKS)
    assert len({entry.broken for entry in ZOO}) >= 25
