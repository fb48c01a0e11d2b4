"""The check that starts two processes."""

import sys

import pytest

from callbacksets import CallbackSet, CallbackSetHistory
from callbacksets.testing import check_callback_set
from tests.helpers import RELEASE
from tests.zoo.entry import Entry
from tests.zoo.ranks import RANKS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="gloo between processes is for POSIX"),
]


@pytest.mark.parametrize(
    "entry",
    [pytest.param(entry, id=entry.broken.__name__, marks=RELEASE if i else []) for i, entry in enumerate(RANKS)],
)
def test_a_callback_that_ranks_break_is_found(entry: Entry) -> None:
    with pytest.raises(AssertionError, match=rf"(?s)^{entry.broken.__name__} fails 'ranks'\.\n.*{entry.message}"):
        check_callback_set(entry.broken, checks="ranks")


@pytest.mark.parametrize("sound", [CallbackSetHistory, pytest.param(RANKS[0].sound, marks=RELEASE)])
def test_a_sound_callback_passes(sound: type[CallbackSet]) -> None:
    check_callback_set(sound, checks="ranks")


def test_what_cannot_be_sent_to_processes_is_told() -> None:
    with pytest.raises(AssertionError, match=r"(?s)cannot be sent to other processes.*defined in a module"):
        check_callback_set(lambda: CallbackSetHistory(), checks="ranks")
