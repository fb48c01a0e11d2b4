"""Tools to test a callback: checks that every callback should pass, a recorder of stages, a stand-in for `ctx`."""

from callbacksets.testing.context import make_context
from callbacksets.testing.kit import CHECKS, check_callback_set
from callbacksets.testing.recorder import StageRecorder

__all__ = ["CHECKS", "StageRecorder", "check_callback_set", "make_context"]
