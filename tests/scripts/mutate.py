"""Changes the core in one line at a time, and tells which changes no test notices.

`python -m tests.scripts.mutate [FILE[:LINE]...]`, with files relative to `src/callbacksets`, by default the adapter and
all of `fit`. Each line is changed once: a comparison or a condition is turned round, an `and` made an `or`, a number
raised by one, a statement left out.

All happens in one run of pytest. Once the tests are collected, a first pass notes which test runs which lines, and how
long it takes. Then a process is forked for each change. It gives the functions of the changed file their new code, and
runs the tests that run the line until one fails, or for two minutes. Tests marked slow do not run, and processes that
tests start have the files as they are.
"""

import ast
import gc
import inspect
import json
import os
import signal
import sys
import tempfile
import time
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import coverage
import pytest
import torch

from tests.helpers import ROOT

SOURCES = ROOT / "src" / "callbacksets"
FILES = ("adapter.py", *sorted(f"fit/{path.name}" for path in (SOURCES / "fit").glob("[!_]*.py")))
JOBS = os.cpu_count() or 1
SHARE = 100  # tests that one process of the first pass runs
ENOUGH = 120.0  # seconds of tests for one change

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
            # not `pass`: what a function closes over, and that it is a generator, stays
            return "left out", ast.If(ast.Constant(False), [node], [])
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


def functions_in(code: CodeType) -> Iterator[CodeType]:
    """The code of the functions and methods of a module, without those inside other functions."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & inspect.CO_NEWLOCALS:
                yield constant
            else:  # the body of a class
                yield from functions_in(constant)


def forked(work: Callable[[], bool]) -> int:
    """Do the work in a process of its own, which ends with 0 if it was done."""
    if process := os.fork():
        return process
    done = False
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        done = work()
    finally:
        os._exit(0 if done else 1)


def in_processes(works: Iterable[tuple[str, Callable[[], bool]]]) -> Iterator[tuple[str, bool]]:
    """Do each work in a process of its own, a few at once, and tell which ended well."""
    running: dict[int, str] = {}

    def ended() -> tuple[str, bool]:
        process, status = os.wait()
        return running.pop(process), status == 0

    for what, work in works:
        if len(running) == JOBS:
            yield ended()
        running[forked(work)] = what
    while running:
        yield ended()


class Mutate:
    """The plugin of pytest that runs the tests for each change."""

    def __init__(self, files: Iterable[str]) -> None:
        self.lines: dict[Path, set[int]] = {}  # of a file; none stands for all
        for file, _, line in (file.partition(":") for file in files):
            self.lines.setdefault(SOURCES / file, set()).update([int(line)] if line else [])
        self.files = list(self.lines)
        self.seconds: dict[str, float] = {}  # what each test takes; only those that pass are here
        self.runs: dict[tuple[Path, int], set[str]] = defaultdict(set)  # the tests that run a line
        self.noticed = Path()  # a file of the tests that noticed changes
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        torch.set_num_threads(1)
        paths = set(map(str, self.files))
        self.functions = [
            item for item in gc.get_objects() if type(item) is FunctionType and item.__code__.co_filename in paths
        ]
        gc.freeze()
        tests = {item.nodeid: item for item in session.items}
        with tempfile.TemporaryDirectory() as folder:
            self.noticed = Path(folder) / "noticed"
            self.noticed.touch()
            self.note(session.items, Path(folder))
            print(f"{len(self.seconds)} of {len(tests)} tests pass with nothing changed", flush=True)
            total = survivors = 0
            for what, survived in in_processes(self.works(tests)):
                total += 1
                if survived:
                    survivors += 1
                    print(what, flush=True)
            print(f"{survivors} of {total} changes were not noticed")
        return True

    def passes(self, item: pytest.Item, following: pytest.Item | None) -> bool:
        self.failed = False
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return not self.failed

    def note(self, items: list[pytest.Item], folder: Path) -> None:
        """Which test runs which lines, and how long it takes."""

        def work(number: int, share: list[pytest.Item]) -> bool:
            os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
            data = coverage.Coverage(str(folder / f"{number}.coverage"), include=list(map(str, self.files)))
            data.set_option("run:disable_warnings", ["no-data-collected"])
            seconds = {}
            for item, following in pairwise([*share, None]):
                data.start()
                data.switch_context(item.nodeid)
                start = time.monotonic()
                if self.passes(item, following):
                    seconds[item.nodeid] = time.monotonic() - start
                data.stop()
            data.save()
            return bool((folder / f"{number}.json").write_text(json.dumps(seconds)))

        shares = [items[start : start + SHARE] for start in range(0, len(items), SHARE)]
        for number, done in in_processes(
            (str(number), partial(work, number, share)) for number, share in enumerate(shares)
        ):
            if not done:
                sys.exit("The tests do not run to their end with nothing changed.")
            self.seconds |= json.loads((folder / f"{number}.json").read_text())
            data = coverage.CoverageData(str(folder / f"{number}.coverage"))
            data.read()
            for path in self.files:
                for line, tests in data.contexts_by_lineno(str(path)).items():
                    self.runs[path, line].update(self.seconds.keys() & tests)

    def works(self, tests: dict[str, pytest.Item]) -> Iterator[tuple[str, Callable[[], bool]]]:
        """What each change is, and whether the tests pass with it."""
        for path in self.files:
            lines = path.read_text().splitlines()
            for change in changes(path.read_text()):
                if self.lines[path] and change.line not in self.lines[path]:
                    continue
                chosen = self.chosen(path, change.line)
                what = f"{path.relative_to(SOURCES)}:{change.line}: {lines[change.line - 1].strip()}  # {change.what}"
                work = partial(self.survives, path, change, [tests[name] for name in chosen])
                yield f"{what}; {len(chosen)} of {len(self.runs[path, change.line])} tests", work

    def chosen(self, path: Path, line: int) -> list[str]:
        """The tests for a line: first those of its file, then those that have noticed most changes so far."""
        noticed = Counter(self.noticed.read_text().splitlines())

        def rank(test: str) -> tuple[bool, int, bool, float]:
            file = Path(test.partition("::")[0])
            is_other = file.name != f"test_{path.name}"
            return is_other, -noticed[test], file.parent.name != path.parent.name, self.seconds[test]

        tests = sorted(self.runs[path, line], key=rank)
        took = list(accumulate(self.seconds[test] for test in tests))
        return tests[: bisect(took, ENOUGH)]

    def survives(self, path: Path, change: Change, tests: list[pytest.Item]) -> bool:
        """Whether the tests pass; a change that makes a loop without end is noticed as well."""
        new = {
            (code.co_qualname, code.co_firstlineno): code for code in functions_in(compile(change.tree, path, "exec"))
        }
        for function in self.functions:
            code = function.__code__
            if code.co_filename == str(path) and (changed := new.get((code.co_qualname, code.co_firstlineno))):
                function.__code__ = changed
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
            for item, following in pairwise([*tests, None]):
                signal.alarm(60 + round(20 * self.seconds[item.nodeid]))
                if not self.passes(item, following):
                    with self.noticed.open("a") as noticed:
                        noticed.write(f"{item.nodeid}\n")
                    return False
        return True


def main(files: Iterable[str]) -> None:
    sys.exit(pytest.main(["-q", "-s", "-m", "not slow", "-p", "no:xdist"], plugins=[Mutate(files)]))


if __name__ == "__main__":
    main(sys.argv[1:] or FILES)
