"""What fits in child processes leave is there in the calling process, and nothing is left on the disk."""

import copy
import json
import os
import pickle
import stat
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacksets import CallbackSetAdapter
from callbacksets.fit.handover import Handover, Result
from callbacksets.fit.loop import StoppedBy
from callbacksets.fit.states import KEY
from tests.helpers import RELEASE, Tiny, fit, ones, quiet, script


@pytest.mark.skipif(not hasattr(os, "fork"), reason="gloo between processes, and ddp_notebook, are for POSIX")
@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param("ddp_spawn", marks=RELEASE),
        pytest.param("forkserver", marks=pytest.mark.slow),
        "ddp_notebook",
    ],
)
def test_states_come_back_from_child_processes(strategy: str) -> None:
    with tempfile.TemporaryDirectory() as short:  # the path of a socket has at most a hundred characters
        folder = Path(short) / "children"
        result = script("children", folder, strategy, TMPDIR=str(folder))
        left = list(folder.glob("callbacksets-*"))  # of the third fit, after which nobody asked
    assert result.returncode == 0, result.stderr
    in_a_checkpoint, stopped, failed, *killed = map(json.loads, result.stdout.splitlines())
    assert in_a_checkpoint == [1, 2]
    by = "callback 'guard' set ctx.terminate in on_epoch_end, epoch 2 was the last"
    expected = {"epochs": [1, 2], "weight": [1, 2], "files": 0, "exits": ["0", "1"]}  # on_exit, once on each rank
    assert stopped == expected | {"stopped_by": by, "how": "trained"}
    assert failed == expected | {"stopped_by": "None", "how": "failed"}
    assert killed == ([{}] if strategy == "ddp_notebook" else [])
    assert not left


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
        adapter._handover.give(Result("stale"))
    fit(adapter, max_epochs=2)
    assert adapter.states["history"]["epoch"] == [1, 2]


@pytest.fixture
def _as_a_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("multiprocessing.parent_process", os_process)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def saved(**states: Any) -> Any:
    return {"callbacks": {id: {"cls": "X", "state": state} for id, state in states.items()}}


@pytest.mark.usefixtures("_as_a_child")
def test_a_state_that_cannot_be_pickled_is_left_out() -> None:
    handover = Handover()
    with pytest.warns(UserWarning, match=r"The state of callback 'bad' cannot be pickled"):
        handover.give(Result(saved(good=1, bad=lambda: None), "stopped"))
    assert handover.take() == Result(saved(good=1), "stopped")


@pytest.mark.usefixtures("_as_a_child")
def test_what_is_not_written_completely_does_not_replace_what_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stops(what: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    handover = Handover()
    handover.give(Result(saved(a=1)))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", stops)
        with pytest.warns(UserWarning, match=r"adapter.states cannot be .*no space left"):
            handover.give(Result(saved(a=2)))
    assert handover.take() == Result(saved(a=1))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_as_a_child")
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no such owners")
def test_nothing_of_another_user_is_read_or_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    handover = Handover()
    handover.give(Result(saved(a=1)))
    [folder] = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
        assert handover.take() is None
        with pytest.warns(UserWarning, match="belongs to somebody else"):
            handover.give(Result(saved(a=2)))
    folder.chmod(0o755)
    assert handover.take() is None
    folder.chmod(0o700)
    elsewhere = folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(elsewhere)
    assert handover.take() is None
    folder.unlink()
    elsewhere.rename(folder)
    assert handover.take() == Result(saved(a=1))


@pytest.mark.usefixtures("_as_a_child")
def test_until_a_child_gives_there_is_nothing_of_the_fit_before(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = CallbackSetAdapter("history")
    adapter._handover.give(Result(saved(history=1)))
    assert adapter.states == {"history": 1}
    monkeypatch.setattr("multiprocessing.util.Finalize", lambda *args, **kwargs: None)
    adapter._handover.at_end(lambda: None, gives=False)
    assert adapter.states == {"history": 1}
    adapter._handover.at_end(lambda: None, gives=True)
    assert (adapter.states, adapter.stopped_by) == ({}, None)


@pytest.mark.parametrize("look", ["states", "stopped_by", "html", "checkpoint"])
def test_whatever_one_looks_at_first_is_what_a_child_left(look: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = CallbackSetAdapter("history")
    fit(adapter, max_epochs=2)
    left = adapter._result._replace(stopped_by=StoppedBy("a child", "on_epoch_end", 2))
    trainer = quiet(max_epochs=1, callbacks=[adapter])
    trainer.fit(Tiny(), ones(2))
    with monkeypatch.context() as patch:
        patch.setattr("multiprocessing.parent_process", os_process)
        adapter._handover.give(left)
    checkpoint: dict[str, Any] = {"callbacks": {}}
    looks = {
        "states": lambda: adapter.states["history"]["epoch"],
        "stopped_by": lambda: [1, 2] if adapter.stopped_by else [],
        "html": lambda: [1, 2] if "a child" in adapter._repr_html_() else [],
        "checkpoint": lambda: (
            adapter.on_save_checkpoint(trainer, trainer.lightning_module, checkpoint),
            checkpoint["callbacks"][KEY]["callbacks"]["history"]["state"]["epoch"],
        )[1],
    }
    assert looks[look]() == [1, 2]


def test_a_copy_of_an_adapter_has_a_handover_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = CallbackSetAdapter("history")
    copied, pickled = copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))
    monkeypatch.setattr("multiprocessing.parent_process", os_process)
    copied._handover.give(Result("copy's"))
    assert adapter._handover.take() is None
    pickled._handover.give(Result("child's"))
    assert adapter._handover.take() == Result("child's")
