"""Runs the tests of the bridge with several versions of Lightning, in both of its namespaces, and says what is skipped.

`python tests/scripts/matrix.py [VERSION...]`, by default 2.4, 2.5 and 2.6. Each version has an environment of its own,
`.venv-<version>`. The tests are written for the namespace `lightning`. For the other they are copied, and their imports
replaced: `lightning.pytorch` by `pytorch_lightning`, and the adapter by that of `callbacksets.pytorch_lightning`.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
VERSIONS = ("2.4", "2.5", "2.6")
NAMESPACES = ("lightning", "pytorch_lightning")
TESTS = {
    "lightning": (
        *("tests/fit", "tests/callbacks", "tests/testing", "tests/test_adapter.py"),
        *("tests/test_golden_runs.py", "tests/test_golden_traces.py", "tests/test_resume.py"),
        "tests/test_pytorch_lightning.py",
    ),
    # the kit trains in the other namespace
    "pytorch_lightning": (
        *("tests/fit", "tests/callbacks", "tests/test_adapter.py"),
        *("tests/test_golden_runs.py", "tests/test_golden_traces.py", "tests/test_resume.py"),
    ),
}
REPLACED = (
    (r"^( *)import lightning as L$", r"\1import pytorch_lightning as L"),
    (r"\blightning\.pytorch\b", "pytorch_lightning"),
    (r"\blightning\.fabric\b", "lightning_fabric"),
    (r"\bL\.pytorch\.", "L."),
)
PACKAGE = """
import callbacksets
import callbacksets.pytorch_lightning
import pytest


def SupervisedModule(*args, **kwargs):
    pytest.skip("SupervisedModule is a module of the namespace lightning")


callbacksets.CallbackSetAdapter = callbacksets.pytorch_lightning.CallbackSetAdapter
callbacksets.SupervisedModule = SupervisedModule
"""


class Cell(NamedTuple):
    """What came of the tests with one version in one namespace."""

    counts: dict[str, int]
    seconds: float
    skipped: dict[tuple[str, str], int]
    failed: list[str]


def environment(version: str) -> Path:
    """The Python that has this Lightning."""
    folder = ROOT / f".venv-{version}"
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    sources = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
    if not ready.exists() or any(source.stat().st_mtime > ready.stat().st_mtime for source in sources):
        pinned = (ROOT / "constraints.txt").read_text().splitlines()
        others = [line for line in pinned if not line.startswith("lightning==")]
        constraints = [*others, f"lightning=={version}.*", f"pytorch-lightning=={version}.*"]
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        (folder / "constraints.txt").write_text("\n".join(constraints))
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", folder / "constraints.txt"]
        subprocess.run([*install, "--editable", f"{ROOT}[dev]"], check=True)
        ready.touch()
    return python


def copy_for(namespace: str, folder: Path) -> None:
    """The tests, written for a namespace."""
    for entry in ("pyproject.toml", "docs", "notebooks", "README.md", "benchmarks"):
        (folder / entry).symlink_to(ROOT / entry)
    if namespace == "lightning":
        (folder / "tests").symlink_to(ROOT / "tests")
        return
    shutil.copytree(ROOT / "tests", folder / "tests")
    (folder / "tests" / "__init__.py").write_text(PACKAGE)  # which scripts that tests start import too
    for path in (folder / "tests").rglob("*.py"):
        text = path.read_text()
        for pattern, replacement in REPLACED:
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        path.write_text(text)


def run(version: str, namespace: str) -> Cell:
    print(f"--- Lightning {version}, {namespace}", flush=True)
    python = environment(version)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy_for(namespace, folder)
        tests = [test for test in TESTS[namespace] if (folder / test).exists()]
        report = folder / "report.xml"
        start = time.monotonic()
        command = [python, "-m", "pytest", "-q", "-m", "not slow", "-n", "2", "--dist", "loadgroup", *tests]
        environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        subprocess.run([*command, f"--junit-xml={report}"], cwd=folder, env=environ)
        if not report.exists():
            sys.exit(f"pytest gave no report with Lightning {version} in {namespace}")
        return read(report, time.monotonic() - start)


def read(report: Path, seconds: float) -> Cell:
    counts = dict.fromkeys(("passed", "skipped", "failed"), 0)
    skipped: dict[tuple[str, str], int] = defaultdict(int)
    failed = []
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').removeprefix('tests.')}::{case.get('name', '')}"
        skip = case.find("skipped")
        if skip is not None:
            counts["skipped"] += 1
            skipped[name.split("[")[0], skip.get("message", "")] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
            failed.append(name)
        else:
            counts["passed"] += 1
    return Cell(counts, seconds, dict(skipped), failed)


def table(rows: Iterable[Iterable[object]]) -> str:
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def main(versions: Iterable[str]) -> None:
    cells = {(version, namespace): run(version, namespace) for version in versions for namespace in NAMESPACES}
    head = ("Lightning", "namespace", "passed", "skipped", "failed", "seconds")
    rows = [(*where, *cell.counts.values(), round(cell.seconds)) for where, cell in cells.items()]
    print("\n" + table([head, *rows]))
    where: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (version, namespace), cell in cells.items():
        for (test, why), number in cell.skipped.items():
            where[test, why].append(f"{version} {namespace} ({number})")
    if where:
        rows = [(test, ", ".join(places), why) for (test, why), places in sorted(where.items())]
        print("\n" + table([("skipped", "where (how many)", "why"), *rows]))
    if failed := [f"{' '.join(place)}: {test}" for place, cell in cells.items() for test in cell.failed]:
        sys.exit("\nFailed:\n" + "\n".join(failed))


if __name__ == "__main__":
    main(sys.argv[1:] or VERSIONS)
