"""Changes the core in one line at a time, and tells which changes no test notices.

`python -m tests.scripts.mutate [FILE...]`, with files relative to `src/callbacksets`, by default the adapter and all of
`fit`. Each line is changed once: a comparison or a condition is turned round, an `and` made an `or`, a number raised by
one, a statement left out. Then the tests of the file run, those that are named like it first, until one fails. A
process forked for it runs them, in which torch is there already, so that most changes take seconds.
"""

import ast
import importlib.machinery
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning  # noqa: F401  # forked processes have what takes long to import
import pytest
import pytorch_lightning  # noqa: F401
import torch
import torchmetrics  # noqa: F401

from tests.helpers import ROOT

SOURCES = ROOT / "src" / "callbacksets"
FILES = ("adapter.py", *sorted(f"fit/{path.name}" for path in (SOURCES / "fit").glob("[!_]*.py")))
TESTS = (
    *("test_adapter.py", "test_golden_traces.py", "test_golden_runs.py", "test_scores.py", "test_resume.py"),
    *("callbacks/test_checkpoint.py", "callbacks/test_early_stopping.py"),
)
PROCESSES = ("test_handover.py", "test_shards.py")
LIMIT = 300  # seconds for the tests of one change, which may have made a loop without end

OPPOSITE = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
LEFT_OUT = (ast.Expr, ast.Assign, ast.AugAssign, ast.Return, ast.Raise, ast.Delete)


class Change(NamedTuple):
    line: int
    what: str
    tree: ast.Module


class Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return ast.copy_location(self.new, node) if node is self.old else self.generic_visit(node)


def mutant(node: Any) -> tuple[str, ast.AST] | None:
    """What a node becomes."""
    match node:
        case ast.Compare(ops=[op, *ops], left=left, comparators=others):
            return "the comparison turned round", ast.Compare(left, [OPPOSITE[type(op)](), *ops], others)
        case ast.BoolOp(op=op, values=values):
            return "and/or exchanged", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return "without not", operand
        case ast.If(test=test, body=body, orelse=orelse) if isinstance(test, ast.Name | ast.Attribute | ast.Call):
            return "the condition turned round", ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return "the condition turned round", ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Constant(value=bool(value)):
            return f"{not value}", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            return f"{value + 1}", ast.Constant(value + 1)
        case ast.Expr(value=ast.Constant()):
            return None  # a docstring
        case _ if isinstance(node, LEFT_OUT):
            return "left out", ast.Pass()
    return None


def in_functions(node: ast.AST, inside: bool = False) -> Iterator[ast.AST]:
    """What runs when a function does: no annotations, no defaults, nothing that only the type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield from in_functions(ast.Module(child.body, []), inside=True)
        elif not isinstance(child, ast.AnnAssign | ast.Assert):
            if inside:
                yield child
            yield from in_functions(child, inside)


def changes(source: str) -> list[Change]:
    """One for each line that can be changed."""
    found: dict[int, Change] = {}
    for number, node in enumerate(in_functions(ast.parse(source))):
        line = getattr(node, "lineno", None)
        new = mutant(node)
        if line is None or new is None:
            continue
        what = new[0]
        if line in found and (what == "left out" or found[line].what != "left out"):
            continue  # a statement is left out only where nothing smaller can be changed
        tree = ast.parse(source)
        same = next(other for index, other in enumerate(in_functions(tree)) if index == number)
        replaced = mutant(same)
        assert replaced is not None
        found[line] = Change(line, what, ast.fix_missing_locations(Replace(same, replaced[1]).visit(tree)))
    return [found[line] for line in sorted(found)]


def tests_of(file: str) -> list[str]:
    own = [f"fit/test_{Path(file).name}", f"test_{Path(file).name}"]
    # less those that start processes, which have the files as they are
    fit = sorted(
        f"fit/{path.name}" for path in (ROOT / "tests" / "fit").glob("test_*.py") if path.name not in PROCESSES
    )
    return [f"tests/{name}" for name in dict.fromkeys((*own, *fit, *TESTS)) if (ROOT / "tests" / name).exists()]


def child(path: Path, tree: ast.Module, tests: list[str]) -> None:
    """Run the tests with a file changed."""
    original = importlib.machinery.SourceFileLoader.get_code

    def get_code(loader: importlib.machinery.SourceFileLoader, name: str) -> Any:
        return compile(tree, path, "exec") if loader.path == str(path) else original(loader, name)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    for name in [name for name in sys.modules if name.split(".")[0] in ("callbacksets", "tests")]:
        del sys.modules[name]
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    os._exit(pytest.main(["-q", "-x", "-m", "not slow", "-p", "no:xdist", *tests]))


def survives(path: Path, tree: ast.Module, tests: list[str]) -> bool:
    process = multiprocessing.get_context("fork").Process(target=child, args=(path, tree, tests))
    process.start()
    process.join(LIMIT)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def main(files: Iterable[str]) -> None:
    torch.set_num_threads(1)
    survivors, total = [], 0
    for file in files:
        path, tests = SOURCES / file, tests_of(file)
        if not survives(path, ast.parse(path.read_text()), tests):
            sys.exit(f"The tests of {file} fail, or take longer than {LIMIT} seconds, with nothing changed.")
        lines = path.read_text().splitlines()
        for change in changes(path.read_text()):
            total += 1
            if survives(path, change.tree, tests):
                survivors.append(f"{file}:{change.line}: {lines[change.line - 1].strip()}  # {change.what}")
                print(survivors[-1], flush=True)
    print(f"{len(survivors)} of {total} changes were not noticed")


if __name__ == "__main__":
    main(sys.argv[1:] or FILES)
