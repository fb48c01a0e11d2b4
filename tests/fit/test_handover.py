"""What fits in child processes leave is there in the calling process, and nothing is left on the disk."""

import copy
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from callbacksets import CallbackSetAdapter
from tests.helpers import fit, script


@pytest.mark.skipif(not hasattr(os, "fork"), reason="gloo between processes, and ddp_notebook, are for POSIX")
@pytest.mark.parametrize("strategy", [pytest.param("ddp_spawn", marks=pytest.mark.slow), "ddp_notebook"])
def test_states_come_back_from_child_processes(tmp_path: Path, strategy: str) -> None:
    folder = tmp_path / "children"
    result = script("children", folder, strategy, TMPDIR=str(folder))
    assert result.returncode == 0, result.stderr
    stopped, failed = map(json.loads, result.stdout.splitlines())
    by = "callback 'guard' set ctx.terminate in on_epoch_end, epoch 2 was the last"
    assert stopped == {"epochs": [1, 2], "weight": [1, 2], "stopped_by": by, "files": 0}
    assert failed == {"epochs": [1, 2], "weight": [1, 2], "stopped_by": "None", "files": 0}
    assert not list(folder.glob("callbacksets-*"))  # of the third fit, after which nobody asked


def os_process() -> SimpleNamespace:
    """This process, as a child sees it."""
    return SimpleNamespace(pid=os.getpid())


def test_a_process_that_fits_by_itself_hands_nothing_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a search for hyperparameters, with workers that have inherited one adapter."""
    adapter = CallbackSetAdapter("history")
    monkeypatch.setattr("multiprocessing.parent_process", os_process)
    fit(adapter)
    assert adapter._handover.take() is None
    assert adapter.states["history"]["epoch"] == [1]


def test_what_nobody_asked_a_child_for_is_not_the_result_of_a_later_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = CallbackSetAdapter("history")
    with monkeypatch.context() as patch:
        patch.setattr("multiprocessing.parent_process", os_process)
        adapter._handover.give(("stale", None))
    fit(adapter, max_epochs=2)
    assert adapter.states["history"]["epoch"] == [1, 2]


def test_a_copy_of_an_adapter_has_a_handover_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = CallbackSetAdapter("history")
    copied, pickled = copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))
    monkeypatch.setattr("multiprocessing.parent_process", os_process)
    copied._handover.give(("copy's", None))
    assert adapter._handover.take() is None
    pickled._handover.give(("child's", None))
    assert adapter._handover.take() == ("child's", None)
