"""What stands in the zoo."""

from dataclasses import dataclass

from callbacksets import CallbackSet


@dataclass(frozen=True)
class Entry:
    """A broken callback, the only check that it fails, what that says, and a sound callback that is like it."""

    broken: type[CallbackSet]
    check: str
    message: str
    sound: type[CallbackSet]


class StartsOver(CallbackSet):
    """A base of callbacks that set all their attributes in `start_over()`."""

    def __init__(self) -> None:
        self.start_over()
