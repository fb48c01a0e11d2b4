"""Callbacks for PyTorch as mlr3torch has them, in any Lightning Trainer."""

from callbacksets.adapter import CallbackSetAdapter, StoppedBy
from callbacksets.callback_set import CallbackSet
from callbacksets.callbacks.early_stopping import CallbackSetEarlyStopping
from callbacksets.callbacks.history import CallbackSetHistory
from callbacksets.callbacks.progress import CallbackSetProgress
from callbacksets.context import ContextTorch
from callbacksets.plotting import plot_history
from callbacksets.states import read_states
from callbacksets.supervised import SupervisedModule

__all__ = [
    "CallbackSet",
    "CallbackSetAdapter",
    "CallbackSetEarlyStopping",
    "CallbackSetHistory",
    "CallbackSetProgress",
    "ContextTorch",
    "StoppedBy",
    "SupervisedModule",
    "plot_history",
    "read_states",
]
