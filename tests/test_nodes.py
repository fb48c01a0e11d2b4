"""Two nodes under torchrun: one is lost and comes back, and the run ends as one in which that never happened."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from tests.helpers import LIMIT, RELEASE, ROOT, free_port, written

pytestmark = [
    *RELEASE,
    pytest.mark.skipif(
        sys.platform == "win32", reason="gloo between processes, as the script sets it up, is for POSIX"
    ),
]


@contextmanager
def agent(port: int, folder: Path, *options: str, hosts: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A node: an agent of torchrun, which starts one process and starts it anew when any of the run has failed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=run"]
    command += [f"--rdzv-conf=is_host={int(hosts)}", "--local-addr=127.0.0.1", "-m", "tests.scripts.nodes", str(folder)]
    # An agent tells the address of its store in the first round only, and one that comes later would wait for it
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with (
        (folder / "stderr").open("a") as errors,
        subprocess.Popen(
            [*command, *options], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        limit = Timer(LIMIT, process.terminate)  # on which it ends its own process too
        limit.start()
        try:
            yield process
        finally:
            limit.cancel()
            process.terminate()


def ends(*agents: subprocess.Popen[str]) -> list[int]:
    return [process.wait(LIMIT) for process in agents]


def train(folder: Path, lost_in_epoch: int | None = None) -> list[dict[str, Any]]:
    """What each rank writes at the end."""
    folder.mkdir()
    port = free_port()
    with ExitStack() as stack:
        first = stack.enter_context(agent(port, folder, hosts=True))
        if lost_in_epoch is not None:
            with agent(port, folder, str(lost_in_epoch)) as lost:
                assert lost.stdout is not None
                _, pid = next(line for line in lost.stdout if line.startswith("waits")).split()
                lost.kill()  # first, or it would start its process anew
                os.kill(int(pid), signal.SIGKILL)
        second = stack.enter_context(agent(port, folder))
        assert ends(first, second) == [0, 0], (folder / "stderr").read_text()
    return [rows[-1] for rows in written(folder)]


def test_a_run_that_has_lost_a_node_ends_as_one_that_has_not(tmp_path: Path) -> None:
    whole, resumed = train(tmp_path / "whole"), train(tmp_path / "resumed", lost_in_epoch=3)
    assert len(whole) == len(resumed) == 2
    assert [row.pop("resumed") for row in whole] == [False, False]
    assert [row.pop("resumed") for row in resumed] == [True, True]
    assert resumed == whole
    assert whole[0].pop("drawn") != whole[1].pop("drawn")  # each rank draws its own noise
    assert whole[0] == whole[1]
    assert whole[0]["states"]["history"]["epoch"] == [1, 2, 3, 4]
