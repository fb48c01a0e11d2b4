"""Imports go one way, from the rooms on the left to those on their right."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import callbacksets

SOURCE = Path(callbacksets.__file__).parent
ROOMS = (
    ("__init__", "__main__", "demo", "testing"),
    ("pytorch_lightning",),
    ("adapter", "supervised"),
    ("describe",),
    ("callbacks",),
    ("fit",),
    ("base", "scores"),
    ("show", "elsewhere"),
    ("checks",),
)
LEVELS = {name: level for level, names in enumerate(ROOMS) for name in names}


def imported(file: Path, *, types: bool = False) -> list[str]:
    """The modules of this package that a module needs to run, and those that only its types name if asked for."""
    tree = ast.parse(file.read_text())
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = set() if types else {id(inner) for block in typing for inner in ast.walk(block)}
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and id(node) not in skipped]
    names = [node.module or "" for node in nodes]
    names += [f"callbacksets.{alias.name}" for node in nodes if node.module == "callbacksets" for alias in node.names]
    return [name for name in names if name.startswith("callbacksets.")]


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_every_module_has_its_room() -> None:
    assert {room(path) for path in SOURCE.rglob("*.py")} == set(LEVELS)


def test_imports_go_one_way() -> None:
    for path in SOURCE.rglob("*.py"):
        if room(path) in ROOMS[0]:
            continue
        for name in imported(path):
            there = name.split(".")[1]
            assert there == room(path) or LEVELS[there] > LEVELS[room(path)], f"{path} imports {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Neither inside a room nor for types."""
    modules = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): path for path in SOURCE.rglob("*.py")}
    needs = {name: set(imported(path, types=True)) & modules.keys() for name, path in modules.items()}
    while free := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in free:
            del needs[name]
    assert not needs, f"circles among {sorted(needs)}"


@pytest.mark.slow
def test_what_is_not_asked_for_is_not_imported() -> None:
    code = """
import sys, lightning
had = {*sys.modules}
import callbacksets
optional = {"callbacksets.testing", "matplotlib", "pandas", "pytest", "pytorch_lightning", "sklearn", "tensorboard"}
print(optional & {*sys.modules} - had)
import callbacksets.testing
print("pytest" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "False"]
