"""What fits in child processes leave is there in the calling process, and nothing is left on the disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from callbacksets import CallbackSetAdapter
from tests.helpers import fit


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="gloo between processes, and ddp_notebook, are for POSIX")
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook"])
def test_states_come_back_from_child_processes(tmp_path: Path, strategy: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.scripts.children", strategy],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    stopped, failed = map(json.loads, result.stdout.splitlines())
    by = "callback 'guard' set ctx.terminate in on_epoch_end, epoch 2 was the last"
    assert stopped == {"epochs": [1, 2], "weight": [1, 2], "stopped_by": by, "files": 0}
    assert failed == {"epochs": [1, 2], "weight": [1, 2], "stopped_by": "None", "files": 0}
    assert not list(tmp_path.glob("callbacksets-*"))  # of the third fit, after which nobody asked


def test_what_nobody_asked_a_child_for_is_not_the_result_of_a_later_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = CallbackSetAdapter("history")
    with monkeypatch.context() as patch:
        patch.setattr(adapter._handover, "in_child", lambda: True)
        adapter._handover.give(("stale", None))
    fit(adapter, max_epochs=2)
    assert adapter.states["history"]["epoch"] == [1, 2]
