"""What the predefined callbacks with a state have in common."""

from callbacksets.base import CallbackSet


class StartsOver(CallbackSet):
    """A callback whose instance may serve several fits: `begin` starts over, unless a state was loaded for the fit.

    A subclass defines `start_over()`, and calls `self.loaded_state()` at the end of its `load_state_dict()`.
    """

    reads_y_hats = False
    _state_is_loaded = False

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
