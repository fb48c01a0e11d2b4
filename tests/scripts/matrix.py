"""Runs the tests with several versions of Lightning, torch and Python, and says what is skipped, and what was not run.

`python tests/scripts/matrix.py [NAME...]`, by default all of `WAYS`. Each has its own environment, `.venv-<name>`.
With every Lightning, the tests of the bridge run in both of its namespaces. They are written for the namespace
`lightning`. For the other they are copied, and their imports replaced: `lightning.pytorch` by `pytorch_lightning`, and
the adapter by that of `callbacksets.pytorch_lightning`. With every other Python and torch, all tests run. A Python is
looked for on the PATH and among those of pyenv.
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


class Way(NamedTuple):
    """What differs from constraints.txt and from the Python that runs this; empty if nothing does."""

    lightning: str = ""
    torch: str = ""
    python: str = ""

    @property
    def namespaces(self) -> tuple[str, ...]:
        return ("lightning", "pytorch_lightning") if self.lightning else ("lightning",)


WAYS = {version: Way(lightning=version) for version in ("2.4", "2.5", "2.6")}
WAYS |= {f"torch{version}": Way(torch=version) for version in ("2.14",)}
WAYS |= {f"python{version}": Way(python=version) for version in ("3.11", "3.12", "3.13", "3.14")}
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


class NotRun(Exception):
    """There is no such Python, or pip cannot install what belongs to it."""


def interpreter(version: str) -> str:
    """A Python of this version. One of pyenv may be on the PATH and yet not run."""
    if not version:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for found in (shutil.which(f"python{version}"), *pyenv.glob(f"{version}.*/bin/python"), sys.executable):
        if found and says(found, "import sys; print('%d.%d' % sys.version_info[:2])") == version:
            return str(found)
    raise NotRun("there is no such Python here")


def says(python: str | Path, code: str) -> str:
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def constraints(way: Way) -> list[str]:
    replaced = {"lightning": way.lightning, "pytorch-lightning": way.lightning, "torch": way.torch}
    replaced = {name: version for name, version in replaced.items() if version}
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    others = [line for line in pinned if line.split("==")[0] not in replaced]
    return [*others, *(f"{name}=={version}.*" for name, version in replaced.items())]


def environment(name: str) -> Path:
    """The Python of an environment in which this is installed."""
    folder = ROOT / f".venv-{name}"
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    sources = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
    if not ready.exists() or any(source.stat().st_mtime > ready.stat().st_mtime for source in sources):
        subprocess.run([interpreter(WAYS[name].python), "-m", "venv", folder], check=True)
        (folder / "constraints.txt").write_text("\n".join(constraints(WAYS[name])))
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", folder / "constraints.txt"]
        if subprocess.run([*install, "--editable", f"{ROOT}[dev]"]).returncode:
            raise NotRun("pip cannot install it")
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


def run(name: str, namespace: str) -> Cell:
    print(f"--- {name}, {namespace}", flush=True)
    python = environment(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy_for(namespace, folder)
        chosen = TESTS[namespace] if WAYS[name].lightning else ("tests",)
        tests = [test for test in chosen if (folder / test).exists()]
        report = folder / "report.xml"
        start = time.monotonic()
        command = [python, "-m", "pytest", "-q", "-m", "not slow", "-n", "2", "--dist", "loadgroup", *tests]
        environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        subprocess.run([*command, f"--junit-xml={report}"], cwd=folder, env=environ)
        if not report.exists():
            sys.exit(f"pytest gave no report with {name} in {namespace}")
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


def main(names: Iterable[str]) -> None:
    cells: dict[tuple[str, str], Cell] = {}
    not_run: list[tuple[str, NotRun]] = []
    for name in names:
        try:
            cells |= {(name, namespace): run(name, namespace) for namespace in WAYS[name].namespaces}
        except NotRun as why:
            not_run.append((name, why))
    head = ("with", "namespace", "passed", "skipped", "failed", "seconds")
    rows = [(*where, *cell.counts.values(), round(cell.seconds)) for where, cell in cells.items()]
    print("\n" + table([head, *rows]))
    where: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (name, namespace), cell in cells.items():
        for (test, why), number in cell.skipped.items():
            where[test, why].append(f"{name} {namespace} ({number})")
    if where:
        rows = [(test, ", ".join(places), why) for (test, why), places in sorted(where.items())]
        print("\n" + table([("skipped", "where (how many)", "why"), *rows]))
    if not_run:
        print("\n" + table([("not run", "why"), *not_run]))
    if failed := [f"{' '.join(place)}: {test}" for place, cell in cells.items() for test in cell.failed]:
        sys.exit("\nFailed:\n" + "\n".join(failed))


if __name__ == "__main__":
    if unknown := [name for name in sys.argv[1:] if name not in WAYS]:
        sys.exit(f"There is no {unknown[0]!r} among {', '.join(WAYS)}.")
    main(sys.argv[1:] or WAYS)
