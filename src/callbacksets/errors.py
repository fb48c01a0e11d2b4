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
    """An attribute that Lightning reads from its callbacks: reading it from ours says where they belong.

    A Trainer looks at its callbacks by attribute only, so what is none of them fails late and obscurely. This makes
    it fail at the first look, for instances and for classes.
    """

    def __get__(self, instance: object, owner: type) -> Any:
        given = f"the class {owner.__name__}" if instance is None else f"a {owner.__name__}"
        inside = owner.__name__ if instance is None else f"{owner.__name__}(...)"
        raise MisplacedCallbackError(
            f"Expected the Trainer's callbacks to be Lightning callbacks but got {given}. "
            f"Wrap it: Trainer(callbacks=[CallbackSetAdapter([{inside}])])."
        )
