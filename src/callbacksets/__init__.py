"""The training callbacks of mlr3torch for PyTorch, in any Lightning Trainer."""

from importlib.metadata import version

from callbacksets.adapter import CallbackSetAdapter
from callbacksets.base import STAGES, CallbackSet
from callbacksets.callbacks.checkpoint import CallbackSetCheckpoint, latest_checkpoint
from callbacksets.callbacks.early_stopping import CallbackSetEarlyStopping
from callbacksets.callbacks.grad_norm import CallbackSetGradNorm
from callbacksets.callbacks.history import CallbackSetHistory
from callbacksets.callbacks.lr_monitor import CallbackSetLRMonitor
from callbacksets.callbacks.lr_one_cycle import CallbackSetLRSchedulerOneCycle
from callbacksets.callbacks.lr_reduce_on_plateau import CallbackSetLRSchedulerReduceOnPlateau
from callbacksets.callbacks.lr_scheduler import CallbackSetLRScheduler
from callbacksets.callbacks.nan_guard import CallbackSetNanGuard
from callbacksets.callbacks.predictions import CallbackSetPredictions
from callbacksets.callbacks.progress import CallbackSetProgress
from callbacksets.callbacks.select import select_all, select_grep, select_invert, select_name, select_none
from callbacksets.callbacks.tensorboard import CallbackSetTB
from callbacksets.callbacks.unfreeze import CallbackSetUnfreeze
from callbacksets.describe.descriptor import TorchCallback
from callbacksets.describe.dictionary import as_torch_callback, as_torch_callbacks, t_clbk, t_clbks, torch_callbacks
from callbacksets.describe.factory import callback_set, torch_callback
from callbacksets.describe.param_set import ParamSet
from callbacksets.describe.schedulers import as_lr_scheduler
from callbacksets.fit.context import ContextTorch
from callbacksets.fit.loop import StoppedBy
from callbacksets.fit.states import read_states
from callbacksets.show.plotting import plot_history
from callbacksets.supervised import SupervisedModule

__version__ = version("callbacksets")

__all__ = [
    "STAGES",
    "CallbackSet",
    "CallbackSetAdapter",
    "CallbackSetCheckpoint",
    "CallbackSetEarlyStopping",
    "CallbackSetGradNorm",
    "CallbackSetHistory",
    "CallbackSetLRMonitor",
    "CallbackSetLRScheduler",
    "CallbackSetLRSchedulerOneCycle",
    "CallbackSetLRSchedulerReduceOnPlateau",
    "CallbackSetNanGuard",
    "CallbackSetPredictions",
    "CallbackSetProgress",
    "CallbackSetTB",
    "CallbackSetUnfreeze",
    "ContextTorch",
    "ParamSet",
    "StoppedBy",
    "SupervisedModule",
    "TorchCallback",
    "as_lr_scheduler",
    "as_torch_callback",
    "as_torch_callbacks",
    "callback_set",
    "latest_checkpoint",
    "plot_history",
    "read_states",
    "select_all",
    "select_grep",
    "select_invert",
    "select_name",
    "select_none",
    "t_clbk",
    "t_clbks",
    "torch_callback",
    "torch_callbacks",
]
