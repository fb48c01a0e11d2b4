"""What the error messages of this package share."""

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """` Did you mean 'epoch_end'?`, or nothing when no known name is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def listed(names: Iterable[str]) -> str:
    """`'a', 'b'`, or `none` when there are none."""
    return ", ".join(repr(name) for name in names) or "none"


class MisplacedCallbackError(TypeError, AttributeError):
    """A `TypeError` to the user, and to `hasattr` an attribute that is not there."""


class NotALightningCallback:
    """An attribute that a Trainer reads from its callbacks: reading it from one of ours says where that belongs.

    A Trainer looks at its callbacks by attribute only, so what is none of them fails late and obscurely. This makes
    it fail at the first look, for instances and for classes.
    """

    def __get__(self, instance: object, owner: type) -> Any:
        raise misplaced(owner if instance is None else instance)


def misplaced(callback: object) -> MisplacedCallbackError:
    """The error for one of our callbacks, or a class of them, that was given to a Trainer."""
    if isinstance(callback, type):
        given, inside = f"the class {callback.__name__}", callback.__name__
    else:
        given, inside = f"a {type(callback).__name__}", f"{type(callback).__name__}(...)"
    return MisplacedCallbackError(
        f"Expected the Trainer's callbacks to be Lightning callbacks but got {given}. "
        f"Wrap it: Trainer(callbacks=[CallbackSetAdapter([{inside}])])."
    )
