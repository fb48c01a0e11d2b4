"""Runs that are interrupted and started again end as if nothing had happened: see tests/scripts/interrupted.py."""

import sys
from pathlib import Path

import pytest

from tests.helpers import script


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL and no fork")
def test_interrupted_at_random_moments(tmp_path: Path) -> None:
    done = script("interrupted", tmp_path / "runs", str(tmp_path / "runs"), "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("exact") >= 2
