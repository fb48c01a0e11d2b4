"""What an adapter says of its callbacks before anything is trained."""

import re
import textwrap
from typing import Any

import numpy as np

from callbacksets import (
    CallbackSet,
    CallbackSetAdapter,
    CallbackSetHistory,
    CallbackSetProgress,
    CallbackSetTB,
    TorchCallback,
    t_clbk,
)
from callbacksets.testing import StageRecorder
from tests.helpers import fit, quiet


class Sized(CallbackSet):
    """Needs a size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def on_end(self) -> None: ...


class Fails(CallbackSet):
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("not today")

    def on_exit(self) -> None: ...


def test_plan() -> None:
    adapter = CallbackSetAdapter(
        [
            t_clbk("early_stopping"),
            "history",
            t_clbk("lr_step", step_size=2, weight=-1.5),
            CallbackSetTB("events"),
            CallbackSetProgress,
            TorchCallback(Sized, weight=3),
            Fails,
        ]
    )
    assert str(adapter) == textwrap.dedent(
        """\
        <CallbackSetAdapter: 7 callbacks>
        callback        class                     weight
        lr_step         CallbackSetLRScheduler    -1.5    its constructor may set or unset on_batch_end, on_epoch_end
        history         CallbackSetHistory        0
        tb              CallbackSetTB             0
        progress        CallbackSetProgress       0
        fails           Fails                     0
        sized           Sized                     3       still needs 'size'
        early_stopping  CallbackSetEarlyStopping  1000    still needs 'patience'; its constructor may set or unset on_before_valid, on_batch_valid_begin

        stage                 callbacks in running order
        on_begin              lr_step, tb, progress, early_stopping
        on_batch_end          lr_step, progress
        on_before_valid       early_stopping
        on_batch_valid_begin  early_stopping
        on_batch_valid_end    progress
        on_valid_end          progress, early_stopping
        on_epoch_end          lr_step, history, tb, progress
        on_end                progress, sized
        on_exit               history, tb, progress, fails, early_stopping"""  # noqa: E501
    )


class Made(CallbackSet):
    """Keeps a list of those that were made."""

    made: list[Any] = []

    def __init__(self, size: int = 1) -> None:
        self.made.append(self)

    def on_end(self) -> None: ...


def test_to_show_an_adapter_makes_no_callback() -> None:
    descriptor = TorchCallback(Made, id="described")
    descriptor.param_set.set_values(size=2)
    adapter = CallbackSetAdapter([Made, descriptor])
    quiet(callbacks=[adapter])  # a Trainer formats its arguments, at any level of logging
    for text in (repr(adapter), str(adapter), adapter._repr_html_()):
        assert "described" in text
    assert "size=2" in repr(descriptor)
    assert "size=2" in descriptor._repr_html_()
    assert not Made.made


def test_plan_in_a_notebook() -> None:
    shown = CallbackSetAdapter({"<a>": CallbackSetHistory(), "b": "progress"})._repr_html_()
    assert "&lt;a&gt;" in shown
    assert shown.count("<tr>") == 3
    stages = ["on_begin", "on_batch_end", "on_batch_valid_end", "on_valid_end", "on_epoch_end", "on_end", "on_exit"]
    assert re.findall(r"<b>(\w+)</b>", shown) == ["CallbackSetAdapter", "callback", "class", "weight", *stages]
    assert shown.count("●") == len(CallbackSetHistory().stages) + len(CallbackSetProgress().stages)


def test_plan_is_that_of_the_fit() -> None:
    recorders = {id: StageRecorder() for id in ("late", "early", "tie")}
    recorders["late"].weight = 7
    adapter = CallbackSetAdapter(recorders)
    order = re.findall(r"^(\w+) +StageRecorder", repr(adapter), flags=re.MULTILINE)
    fit(adapter)
    assert order == list(adapter.sets) == ["early", "tie", "late"]


def test_a_weight_of_numpy_is_a_number_in_the_plan() -> None:
    recorders = {id: StageRecorder() for id in ("late", "early")}
    recorders["early"].weight, recorders["late"].weight = np.float32(1), 2.5
    assert re.findall(r"^(\w+) +StageRecorder +(\S+)", repr(CallbackSetAdapter(recorders)), flags=re.MULTILINE) == [
        ("early", "1"),
        ("late", "2.5"),
    ]


def test_plan_of_nothing_and_of_one() -> None:
    assert repr(CallbackSetAdapter([])) == "<CallbackSetAdapter: no callbacks>"
    assert repr(CallbackSetAdapter(CallbackSet())).startswith("<CallbackSetAdapter: 1 callback>\n")
