"""Callbacks for PyTorch as mlr3torch has them, in any Lightning Trainer."""

from callbacksets.adapter import CallbackSetAdapter, StoppedBy
from callbacksets.callback_set import CallbackSet
from callbacksets.callbacks.early_stopping import CallbackSetEarlyStopping
from callbacksets.callbacks.history import CallbackSetHistory
from callbacksets.context import ContextTorch
from callbacksets.states import read_states

__all__ = [
    "CallbackSet",
    "CallbackSetAdapter",
    "CallbackSetEarlyStopping",
    "CallbackSetHistory",
    "ContextTorch",
    "StoppedBy",
    "read_states",
]
