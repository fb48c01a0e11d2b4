"""Runs all that needs a GPU, the tests and the measurements, and prints one table: `python -m tests.scripts.gpu`."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.__main__ import heading, prepare
from benchmarks.gpu import measure
from benchmarks.report import Row, table
from tests.helpers import ROOT


def tests() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "tests/test_gpu.py", f"--junit-xml={report}"]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return [
            Row(f"test: {_name(case)}", _result(case), "passed") for case in ElementTree.parse(report).iter("testcase")
        ]


def _name(case: ElementTree.Element) -> str:
    return str(case.get("name")).removeprefix("test_").replace("_", " ")


def _result(case: ElementTree.Element) -> str:
    skipped = case.find("skipped")
    if skipped is not None:
        return f"skipped: {skipped.get('message')}"
    return "passed" if case.find("failure") is None and case.find("error") is None else "failed"


def main() -> None:
    rows = tests()
    prepare()
    rows += measure(quick="--quick" in sys.argv)
    print(f"\n{heading()}\n\n{table(rows)}")
    if any(row.result == "failed" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
