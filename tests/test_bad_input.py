"""Every public entry refuses bad input with words that help: the argument, what was expected, what came, the remedy.

What only a fit can refuse is in `BAD` of tests/test_adapter.py.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Timer
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ChainedScheduler, ReduceLROnPlateau, StepLR
from torchmetrics import MeanMetric

import callbacksets
from callbacksets import (
    CallbackSet,
    CallbackSetAdapter,
    CallbackSetCheckpoint,
    CallbackSetEarlyStopping,
    CallbackSetGradNorm,
    CallbackSetHistory,
    CallbackSetLRScheduler,
    CallbackSetLRSchedulerOneCycle,
    CallbackSetLRSchedulerReduceOnPlateau,
    CallbackSetNanGuard,
    CallbackSetPredictions,
    CallbackSetProgress,
    CallbackSetTB,
    CallbackSetUnfreeze,
    ParamSet,
    SupervisedModule,
    TorchCallback,
    as_lr_scheduler,
    as_torch_callback,
    as_torch_callbacks,
    callback_set,
    latest_checkpoint,
    plot_history,
    read_states,
    select_all,
    select_grep,
    select_invert,
    select_name,
    t_clbk,
    t_clbks,
    torch_callback,
    torch_callbacks,
)
from callbacksets.testing import StageRecorder, check_callback_set, make_context

network = nn.Linear(2, 1)
sgd = partial(SGD, lr=0.1)
history = CallbackSetHistory()


def nothing(self: Any) -> None: ...


def takes_ctx(self: Any, ctx: Any) -> None: ...


def assign(name: str, value: object) -> None:
    setattr(make_context(epoch=1), name, value)


def supervised(network: Any = network, loss_fn: Any = nn.MSELoss(), optimizer: Any = sgd, **others: Any) -> Any:  # noqa: B008
    return SupervisedModule(network, loss_fn, optimizer, **others)


Case = tuple[Callable[[], object], type[Exception], tuple[str, ...]]
"""What is done, the type of the error, and the words that matter."""

CASES: dict[str, dict[str, Case]] = {
    "CallbackSet": {
        "misspelled stage": (
            lambda: type("X", (CallbackSet,), {"on_epoch_ned": nothing}),
            TypeError,
            ("X.on_epoch_ned is not a stage", "Did you mean 'on_epoch_end'?"),
        ),
        "Lightning's hook": (
            lambda: type("X", (CallbackSet,), {"on_train_batch_end": nothing}),
            TypeError,
            ("hook of Lightning", "'on_batch_end'"),
        ),
        "stage with an argument": (
            lambda: type("X", (CallbackSet,), {"on_end": takes_ctx}),
            TypeError,
            ("X.on_end takes 'ctx'", "Define on_end(self)", "self.ctx"),
        ),
        "stage that is none": (
            lambda: type("X", (CallbackSet,), {"on_end": 3}),
            TypeError,
            ("X.on_end", "a method or None", "got 3"),
        ),
    },
    "CallbackSetAdapter": {
        "key": (lambda: CallbackSetAdapter("histroy"), KeyError, ("'histroy'", "Did you mean 'history'?")),
        "callback": (lambda: CallbackSetAdapter([3]), TypeError, ("Expected callbacks", "got 3")),
        "Lightning's": (lambda: CallbackSetAdapter(Timer()), TypeError, ("Timer", "Trainer(callbacks=[Timer(...)")),
        "missing value": (
            lambda: CallbackSetAdapter("checkpoint"),
            TypeError,
            ("without 'path', 'freq'", "t_clbk('checkpoint', path=..., freq=...)"),
        ),
        "ids": (lambda: CallbackSetAdapter(["history", history]), ValueError, ("id 'history'", "{'a': ..., 'b': ...}")),
        "id": (lambda: CallbackSetAdapter({1: history}), TypeError, ("ids", "strings", "got 1")),
        "values alone": (
            lambda: CallbackSetAdapter({"early_stopping": {"patience": 5}}),
            TypeError,
            ("got {'patience': 5}", "the keys are ids, so put keys with values into a list"),
        ),
        "configuration": (
            lambda: CallbackSetAdapter([{"class_path": "callbacksets.CallbackSetProgress", "init_arg": {"digits": 7}}]),
            TypeError,
            ("'init_arg'", "Did you mean 'init_args'?"),
        ),
        "adapter": (
            lambda: CallbackSetAdapter([CallbackSetAdapter([])]),
            TypeError,
            ("CallbackSetAdapter", "one adapter"),
        ),
        "weight": (
            lambda: CallbackSetAdapter(type("CallbackSetX", (CallbackSet,), {"weight": "a"})),
            TypeError,
            ("the weight of callback 'x'", "a number", "got 'a'"),
        ),
        "network": (lambda: CallbackSetAdapter([], network=network), TypeError, ("network", "the name", "got Linear")),
        "loss_fn": (lambda: CallbackSetAdapter([], loss_fn=torch.mean), TypeError, ("loss_fn", "the name")),
        "terminate_at": (lambda: CallbackSetAdapter([], terminate_at="step"), ValueError, ("'validation'", "'step'")),
    },
    "t_clbk": {
        "typo": (lambda: t_clbk("histroy"), KeyError, ("'histroy'", "Did you mean 'history'?", "There are 'check")),
        "key": (lambda: t_clbk(3), TypeError, ("key", "a string", "got 3")),
        "no key": (lambda: t_clbk(""), ValueError, ("key", "non-empty string", "got ''")),
        "parameter": (
            lambda: t_clbk("early_stopping", patince=3),
            TypeError,
            (
                "'early_stopping' has no parameter 'patince'",
                "Did you mean 'patience'?",
                "Its parameters are 'patience'",
            ),
        ),
        "weight": (lambda: t_clbk("history", weight="heavy"), TypeError, ("weight", "a number", "got 'heavy'")),
        "id": (lambda: t_clbk("history", id=3), TypeError, ("id", "a string", "got 3")),
        "missing": (
            lambda: t_clbk("early_stopping").generate(),
            TypeError,
            ("without 'patience'", "set_values(patience=...)"),
        ),
    },
    "t_clbks": {
        "keys": (lambda: t_clbks(3), TypeError, ("keys", "a non-empty string or several", "got 3")),
        "twice": (lambda: t_clbks(["tb", "tb"]), ValueError, ("'tb' is given twice", "'tb_1'", "map ids to keys")),
        "id": (lambda: t_clbks({3: "history"}), TypeError, ("id", "a string", "got 3")),
    },
    "torch_callbacks": {
        "key": (lambda: torch_callbacks["progres"], KeyError, ("'progres'", "Did you mean 'progress'?")),
        "added key": (lambda: torch_callbacks.add(3, t_clbk), TypeError, ("key", "a string", "got 3")),
        "added class": (
            lambda: torch_callbacks.add("mine", CallbackSetHistory),
            TypeError,
            ("make", "a function that makes a TorchCallback", "CallbackSetHistory"),
        ),
    },
    "as_torch_callback": {
        "anything": (lambda: as_torch_callback(3), TypeError, ("x", "TorchCallback", "dictionary key", "got 3")),
        "instance": (lambda: as_torch_callback(history), TypeError, ("instance", "Give its class, CallbackSetHistory")),
        "several": (lambda: as_torch_callbacks(["history", 3]), TypeError, ("x", "got 3")),
    },
    "as_lr_scheduler": {
        "class": (lambda: as_lr_scheduler(SGD, True), TypeError, ("x", "scheduler class", "SGD")),
        "instance": (lambda: as_lr_scheduler(3, True), TypeError, ("x", "scheduler class", "got 3")),
        "plateau": (lambda: as_lr_scheduler(ReduceLROnPlateau, True), TypeError, ("t_clbk('lr_reduce_on_plateau'",)),
        "chained": (
            lambda: as_lr_scheduler(ChainedScheduler, True),
            TypeError,
            ("x", "the optimizer first", "ChainedScheduler", "lambda optimizer:"),
        ),
        "no optimizer": (lambda: as_lr_scheduler(lambda: 1, True), TypeError, ("x", "the optimizer first")),
        "when": (lambda: as_lr_scheduler(StepLR, "epoch"), TypeError, ("step_on_epoch", "True or False", "'epoch'")),
    },
    "TorchCallback": {
        "anything": (lambda: TorchCallback(3), TypeError, ("callback_generator", "a CallbackSet class", "got 3")),
        "instance": (lambda: TorchCallback(history), TypeError, ("Give its class: CallbackSetHistory",)),
        "id": (lambda: TorchCallback(CallbackSetTB, id=""), ValueError, ("id", "non-empty string")),
        "label": (lambda: TorchCallback(CallbackSetTB, label=3), TypeError, ("label", "a string", "got 3")),
        "packages": (
            lambda: TorchCallback(CallbackSetTB, packages=3),
            TypeError,
            ("packages", "a non-empty string or several"),
        ),
        "not installed": (
            lambda: TorchCallback(CallbackSetHistory, packages="no_such_package").generate(),
            ModuleNotFoundError,
            ("'history'", "pip install no_such_package"),
        ),
        "weight": (lambda: TorchCallback(CallbackSetTB, weight=float("nan")), ValueError, ("weight", "got nan")),
        "no argument": (
            lambda: TorchCallback(CallbackSetProgress, additional_args={"digit": 3}),
            TypeError,
            ("additional_args", "CallbackSetProgress", "'digit'", "Did you mean 'digits'?"),
        ),
        "no parameter": (
            lambda: TorchCallback(CallbackSetProgress, param_set=ParamSet(["digit"])),
            TypeError,
            ("param_set", "CallbackSetProgress", "'digit'", "Did you mean 'digits'?"),
        ),
        "arguments": (lambda: TorchCallback(CallbackSetTB, additional_args=[1]), TypeError, ("additional_args", "[1]")),
        "parameters": (lambda: TorchCallback(CallbackSetTB, param_set={}), TypeError, ("param_set", "ParamSet", "{}")),
        "reserved": (
            lambda: TorchCallback(CallbackSetTB, param_set=ParamSet(["weight"])),
            ValueError,
            ("'weight'", "TorchCallback(..., weight=...)"),
        ),
    },
    "ParamSet": {
        "twice": (lambda: ParamSet(["a"], {"a": 1}), ValueError, ("'a' twice",)),
        "value": (
            lambda: t_clbk("early_stopping").param_set.set_values(patince=3),
            TypeError,
            ("no parameter 'patince'", "Did you mean 'patience'?"),
        ),
    },
    "callback_set": {
        "name": (lambda: callback_set("Mine"), ValueError, ("classname", "'CallbackSet'", "got 'Mine'")),
        "no name": (lambda: callback_set(3), TypeError, ("classname", "a string", "got 3")),
        "typo of a stage": (
            lambda: callback_set("CallbackSetX", on_epoch_ned=nothing),
            TypeError,
            ("CallbackSetX.on_epoch_ned is not a stage", "Did you mean 'on_epoch_end'?"),
        ),
        "typo": (
            lambda: callback_set("CallbackSetX", initialise=nothing),
            TypeError,
            ("'initialise'", "Did you mean 'initialize'?"),
        ),
        "no function": (lambda: callback_set("CallbackSetX", on_end=3), TypeError, ("on_end", "a method", "got 3")),
        "argument": (
            lambda: callback_set("CallbackSetX", on_end=takes_ctx),
            TypeError,
            ("on_end", "'ctx'", "read what it needs from self.ctx"),
        ),
        "half a state": (
            lambda: callback_set("CallbackSetX", state_dict=nothing),
            ValueError,
            ("but no load_state_dict", "Give both"),
        ),
        "public": (lambda: callback_set("CallbackSetX", public=[1]), TypeError, ("public", "a mapping", "got [1]")),
        "active": (lambda: callback_set("CallbackSetX", active={"a": 3}), TypeError, ("active['a']", "got 3")),
        "inherit": (
            lambda: callback_set("CallbackSetX", inherit=history),
            TypeError,
            ("inherit", "CallbackSetHistory"),
        ),
        "lock_objects": (lambda: callback_set("CallbackSetX", lock_objects=1), TypeError, ("lock_objects", "got 1")),
        "weight": (lambda: callback_set("CallbackSetX", weight="a"), TypeError, ("weight", "a number", "got 'a'")),
    },
    "torch_callback": {
        "hyphen": (lambda: torch_callback("my-callback"), ValueError, ("id", "underscores", "'my-callback'")),
        "id": (lambda: torch_callback(3), TypeError, ("id", "a string", "got 3")),
        "typo": (lambda: torch_callback("x", pakages="a"), TypeError, ("'pakages'", "Did you mean 'packages'?")),
        "stage": (lambda: torch_callback("x", on_ned=nothing), TypeError, ("on_ned is not a stage", "'on_end'")),
    },
    "CallbackSetEarlyStopping": {
        "patience": (lambda: CallbackSetEarlyStopping(0), ValueError, ("patience", "at least 1", "got 0")),
        "patience type": (lambda: CallbackSetEarlyStopping("5"), TypeError, ("patience", "whole number", "got '5'")),
        "min_delta": (lambda: CallbackSetEarlyStopping(1, -1), ValueError, ("min_delta", "at least 0", "got -1")),
        "mode": (
            lambda: CallbackSetEarlyStopping(1, mode="maximum"),
            ValueError,
            ("mode", "'min', 'max'", "got 'maximum'", "Did you mean 'max'?"),
        ),
        "restore": (
            lambda: CallbackSetEarlyStopping(1, restore_best_weights="yes"),
            TypeError,
            ("restore_best_weights", "True or False", "got 'yes'"),
        ),
        "monitor": (lambda: CallbackSetEarlyStopping(1, monitor=0), TypeError, ("monitor", "a string", "got 0")),
    },
    "other predefined callbacks": {
        "checkpoint path": (lambda: CallbackSetCheckpoint(3, 1), TypeError, ("path", "a folder", "got 3")),
        "checkpoint URL": (lambda: CallbackSetCheckpoint("s3://a", 1), ValueError, ("path", "on this machine")),
        "checkpoint freq": (lambda: CallbackSetCheckpoint("a", 0.5), TypeError, ("freq", "whole number", "got 0.5")),
        "checkpoint keep": (lambda: CallbackSetCheckpoint("a", 1, keep=0), ValueError, ("keep", "at least 1", "got 0")),
        "checkpoint every_minutes": (
            lambda: CallbackSetCheckpoint("a", 1, every_minutes=-1),
            ValueError,
            ("every_minutes", "at least 0", "got -1"),
        ),
        "checkpoint on_interrupt": (
            lambda: CallbackSetCheckpoint("a", 1, on_interrupt="yes"),
            TypeError,
            ("on_interrupt", "True or False", "got 'yes'"),
        ),
        "tb path": (lambda: CallbackSetTB(None), TypeError, ("path", "a folder", "got None")),
        "tb flag": (lambda: CallbackSetTB("a", 1), TypeError, ("log_train_loss", "True or False", "got 1")),
        "norm type": (lambda: CallbackSetGradNorm(-1), ValueError, ("norm_type", "at least 0", "got -1")),
        "every": (lambda: CallbackSetNanGuard(0), ValueError, ("every", "at least 1", "got 0")),
        "keep": (lambda: CallbackSetPredictions("bets"), ValueError, ("keep", "got 'bets'", "Did you mean 'best'?")),
        "digits": (lambda: CallbackSetProgress(-1), ValueError, ("digits", "at least 0", "got -1")),
        "selector": (
            lambda: CallbackSetUnfreeze("bias", []),
            TypeError,
            ("starting_weights", "select_grep('bias')", "got 'bias'"),
        ),
        "rows": (
            lambda: CallbackSetUnfreeze(select_all(), {"epoch": 1, "weights": select_all()}),
            TypeError,
            ("unfreeze", "a list of rows"),
        ),
        "row": (
            lambda: CallbackSetUnfreeze(select_all(), [{"epohc": 1, "weights": select_all()}]),
            ValueError,
            ("unfreeze[0]", "'epohc'", "Did you mean 'epoch'?"),
        ),
        "row of both": (
            lambda: CallbackSetUnfreeze(select_all(), [{"epoch": 1, "batch": 3, "weights": select_all()}]),
            ValueError,
            ("unfreeze[0]", "either 'epoch' or 'batch'"),
        ),
        "scheduler": (lambda: CallbackSetLRScheduler(3), TypeError, ("scheduler", "scheduler class", "got 3")),
        "scheduler's argument": (
            lambda: CallbackSetLRScheduler(StepLR, step_sise=3),
            TypeError,
            ("StepLR has no argument 'step_sise'", "Did you mean 'step_size'?"),
        ),
        "scheduler's value": (
            lambda: t_clbk("lr_step", step_size=0.5).generate(),
            TypeError,
            ("step_size", "whole number", "got 0.5"),
        ),
        "plateau": (
            lambda: CallbackSetLRScheduler(ReduceLROnPlateau),
            TypeError,
            ("needs a score", "CallbackSetLRSchedulerReduceOnPlateau"),
        ),
        "plateau's mode": (
            lambda: CallbackSetLRSchedulerReduceOnPlateau(mode="up"),
            ValueError,
            ("mode", "'min', 'max'", "got 'up'"),
        ),
        "plateau's typo": (
            lambda: CallbackSetLRSchedulerReduceOnPlateau(monitr="loss"),
            TypeError,
            ("'monitr'", "Did you mean 'monitor'?"),
        ),
        "plateau's step": (
            lambda: CallbackSetLRSchedulerReduceOnPlateau(step_on_epoch=True),
            TypeError,
            ("ReduceLROnPlateau has no argument 'step_on_epoch'",),
        ),
        "one cycle's step": (
            lambda: CallbackSetLRSchedulerOneCycle(max_lr=0.1, step_on_epoch=False),
            TypeError,
            ("OneCycleLR has no argument 'step_on_epoch'",),
        ),
        "one cycle": (lambda: CallbackSetLRSchedulerOneCycle(), TypeError, ("needs 'max_lr'", "max_lr=...")),
        "one cycle's length": (
            lambda: CallbackSetLRSchedulerOneCycle(max_lr=1, total_steps=0),
            ValueError,
            ("total_steps", "a whole number of at least 1", "got 0"),
        ),
    },
    "selectors": {
        "names": (lambda: select_name(3), TypeError, ("names", "a non-empty string or several", "got 3")),
        "an empty name": (lambda: select_name(["a", ""]), ValueError, ("names", "non-empty string or several")),
        "typo": (
            lambda: select_name("wieght")(["weight", "bias"]),
            ValueError,
            ("'wieght'", "Did you mean 'weight'?", "'bias'"),
        ),
        "pattern": (lambda: select_grep("("), ValueError, ("patterns", "regular expressions", "'('", "unterminated")),
        "ignore_case": (lambda: select_grep("a", "x"), TypeError, ("ignore_case", "True or False", "got 'x'")),
        "invert": (lambda: select_invert("a"), TypeError, ("select", "select_grep('bias')", "got 'a'")),
    },
    "SupervisedModule": {
        "network": (lambda: supervised(network="net"), TypeError, ("network", "torch.nn.Module", "got 'net'")),
        "loss_fn": (lambda: supervised(loss_fn=3), TypeError, ("loss_fn", "callable", "got 3")),
        "optimizer": (
            lambda: supervised(optimizer=sgd([network.weight])),
            TypeError,
            ("optimizer", "a function", "SGD"),
        ),
        "measure": (lambda: supervised(measures_valid={"acc": 3}), TypeError, ("measures_valid", "torchmetrics", "3")),
        "a measure's class": (
            lambda: supervised(measures_train=[MeanMetric]),
            TypeError,
            ("measures_train", "Call it: MeanMetric(...)"),
        ),
        "loss": (lambda: supervised(measures_valid={"loss": MeanMetric()}), ValueError, ("'loss'", "Give another id")),
        "encoder": (lambda: supervised(prediction_encoder=3), TypeError, ("prediction_encoder", "callable", "got 3")),
    },
    "results": {
        "axes": (lambda: plot_history({"epoch": [1], "a.b": [1]}, ax=5), TypeError, ("ax", "one Axes", "got 5")),
        "column": (lambda: plot_history({"epoch": [1], "a.b": 5}), TypeError, ("state", "lists", "'a.b' is 5")),
        "no history": (lambda: plot_history({"epoch": []}), ValueError, ("no scores to plot", "logged none")),
        "path": (lambda: latest_checkpoint(3), TypeError, ("path", "a folder", "got 3")),
        "no checkpoint": (
            lambda: read_states({"a": 1}),
            ValueError,
            ("checkpoint", "got {'a': 1}"),
        ),
    },
    "ctx": {
        "field": (lambda: make_context().epohc, AttributeError, ("no field 'epohc'", "Did you mean 'epoch'?")),
        "epoch": (lambda: assign("epoch", 2), AttributeError, ("ctx.epoch cannot be set", "set ctx.terminate = True")),
        "loss_fn": (lambda: assign("loss_fn", print), AttributeError, ("ctx.loss_fn cannot be set", "ctx.learner.")),
        "terminate": (lambda: assign("terminate", 1), TypeError, ("ctx.terminate", "True or False", "got 1")),
        "scores": (lambda: assign("last_scores_valid", 3), TypeError, ("ctx.last_scores_valid", "mapping", "got 3")),
    },
    "callbacksets.testing": {
        "field": (
            lambda: make_context(epohc=1),
            TypeError,
            ("no field 'epohc'", "Did you mean 'epoch'?", "ctx.epohc = ..."),
        ),
        "field not given": (
            lambda: make_context(step=1).epoch,
            AttributeError,
            ("ctx.epoch", "not given", "make_context(epoch=...)"),
        ),
        "minimize": (lambda: make_context(minimize=True), TypeError, ("minimize", "a function", "got True")),
        "terminate": (lambda: make_context(terminate=None), TypeError, ("ctx.terminate", "True or False", "got None")),
        "recorded field": (lambda: StageRecorder(3), TypeError, ("fields", "a string", "got 3")),
        "recorded stage": (
            lambda: StageRecorder(stages="epoch_end"),
            ValueError,
            ("stages", "got 'epoch_end'", "Did you mean 'on_epoch_end'?"),
        ),
        "stage": (lambda: StageRecorder().at("on_ned"), ValueError, ("stage", "got 'on_ned'", "'on_end'")),
        "instance": (lambda: check_callback_set(history), TypeError, ("make", "lambda: CallbackSetHistory(...)")),
        "descriptor": (lambda: check_callback_set(t_clbk("tb")), TypeError, ("make", "descriptor.generate")),
        "key": (lambda: check_callback_set("history"), TypeError, ("make", "t_clbk('history', ...).generate")),
        "made": (lambda: check_callback_set(lambda: 3), TypeError, ("make", "a new CallbackSet", "returned 3")),
        "made twice": (lambda: check_callback_set(lambda: history), TypeError, ("make", "each time", "twice")),
        "check": (
            lambda: check_callback_set(CallbackSetHistory, checks="rond_trip"),
            ValueError,
            ("checks", "'rond_trip'", "Did you mean 'round_trip'?"),
        ),
        "no checks": (
            lambda: check_callback_set(CallbackSetHistory, checks=[]),
            ValueError,
            ("checks", "at least one"),
        ),
        "skip": (lambda: check_callback_set(CallbackSetHistory, skip=["resume"]), TypeError, ("skip", "reasons")),
        "skipped": (
            lambda: check_callback_set(CallbackSetHistory, skip={"resum": "no"}),
            ValueError,
            ("skip", "'resum'", "Did you mean 'resume'?"),
        ),
        "reason": (
            lambda: check_callback_set(CallbackSetHistory, skip={"resume": ""}),
            ValueError,
            ("the reason to skip 'resume'", "non-empty string"),
        ),
        "training": (
            lambda: check_callback_set(CallbackSetHistory, training=network),
            TypeError,
            ("training", "a module and two loaders", "got Linear"),
        ),
        "trained": (
            lambda: check_callback_set(CallbackSetHistory, training=lambda: 3),
            AssertionError,
            ("training", "(LightningModule, loader, loader)", "returned 3"),
        ),
        "beside": (
            lambda: check_callback_set(CallbackSetHistory, beside="progres"),
            KeyError,
            ("'progres'", "Did you mean 'progress'?"),
        ),
        "the same beside": (
            lambda: check_callback_set(CallbackSetHistory, beside="history"),
            TypeError,
            ("beside", "the id 'history'", "checked callback"),
        ),
    },
}


ALL = {f"{entry}, {name}": case for entry, cases in CASES.items() for name, case in cases.items()}


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_bad_input(case: Case) -> None:
    do, error, words = case
    with pytest.raises(error) as caught:
        do()
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert re.search(r"[.?]['\"]?$", message), message


@pytest.mark.parametrize(
    "make",
    [
        lambda page: CallbackSetEarlyStopping(page),
        lambda page: CallbackSetEarlyStopping(1, min_delta=page),
        lambda page: CallbackSetEarlyStopping(1, restore_best_weights=page),
        lambda page: CallbackSetEarlyStopping(1, monitor=page),
        lambda page: CallbackSetEarlyStopping(1, mode=page),
        lambda page: CallbackSetCheckpoint(page, 1),
        lambda page: CallbackSetGradNorm(page),
        lambda page: CallbackSetPredictions(target=page),
        lambda page: CallbackSetLRScheduler(page),
        lambda page: CallbackSetLRScheduler(StepLR, step_size=page),
        lambda page: CallbackSetUnfreeze(page, []),
        lambda page: CallbackSetUnfreeze(select_all(), {"epoch": page}),
        lambda page: CallbackSetUnfreeze(select_all(), [{"epoch": 1, "weights": page}]),
        lambda page: CallbackSetUnfreeze(select_all(), [{"epoch": 1, "batch": 2, "weights": page}]),
        lambda page: CallbackSetUnfreeze(select_all(), [page]),
        lambda page: select_name(page),
        lambda page: select_invert(page),
    ],
)
@pytest.mark.parametrize("page", [torch.ones(50, 50), [torch.ones(50)] * 99, dict.fromkeys(range(999), "x" * 99)])
def test_no_message_is_a_page(make: Callable[[Any], Any], page: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make(page)
    assert len(str(caught.value)) < 1500


def test_every_public_entry_is_here() -> None:
    assert len(ALL) >= 60
    used = {name for do, *_ in ALL.values() for name in do.__code__.co_names}
    # a constant, two that are made in a fit only, what takes no arguments, and what `supervised()` makes
    apart = {
        "STAGES",
        "ContextTorch",
        "StoppedBy",
        "CallbackSetHistory",
        "CallbackSetLRMonitor",
        "select_none",
        "SupervisedModule",
    }
    assert set(callbacksets.__all__) - apart <= used
