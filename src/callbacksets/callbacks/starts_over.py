"""What the predefined callbacks with a state have in common."""

from typing import TYPE_CHECKING, Any

from callbacksets.base import CallbackSet

if TYPE_CHECKING:
    from callbacksets.fit.context import ContextTorch


class StartsOver(CallbackSet):
    """A callback whose instance may serve several fits: `begin` starts over, unless a state was loaded for the fit.

    A subclass defines `start_over()`, and calls `self.loaded_state()` at the end of its `load_state_dict()`.
    """

    has_begun = False  # in this fit, so that what there is to restore in `exit` is of this fit
    _state_is_loaded = False
    _ctx: "ContextTorch" = None  # type: ignore[assignment]  # as in the base class

    @property
    def ctx(self) -> "ContextTorch":
        """The context of the fit, None outside of one."""
        return self._ctx

    @ctx.setter
    def ctx(self, ctx: "ContextTorch") -> None:
        self._ctx = ctx
        if ctx is None:  # a fit has ended, which may have failed before it began
            self.has_begun = self._state_is_loaded = False

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_ctx": None}

    def start_over(self) -> None:
        """Forget what an earlier fit has left."""
        raise NotImplementedError

    def loaded_state(self) -> None:
        """To be said when a state was loaded: the next `begin` keeps it."""
        self._state_is_loaded = True

    def on_begin(self) -> None:
        if not self._state_is_loaded:
            self.start_over()
        self._state_is_loaded = False
        self.has_begun = True
