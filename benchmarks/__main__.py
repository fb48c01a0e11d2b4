"""Measure, print one table and write it to `benchmarks/results.md`.

`python -m benchmarks dispatch memory` measures these only, and writes nothing. `--quick` shows in a minute that all of
it runs; its numbers mean nothing, and it writes nothing either.
"""

import argparse
import importlib
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import lightning  # noqa: F401  # first, as it sets the level of its logger
import torch

from benchmarks import SECTIONS
from benchmarks.report import Row, table

PACKAGES = ("callbacksets", "lightning", "torch", "skorch", "pytorch-ignite", "keras", "accelerate", "torchdata")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What callbacks cost.")
    parser.add_argument("sections", nargs="*", metavar="section", help=f"{', '.join(SECTIONS)}; by default all")
    parser.add_argument("--quick", action="store_true", help="only see whether it runs")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.sections if name not in SECTIONS]:
        parser.error(f"there is no section {unknown[0]!r} among {', '.join(SECTIONS)}")
    prepare()
    report = "\n\n".join([heading(), *(section(name, arguments.quick) for name in arguments.sections or SECTIONS)])
    print(report)
    if not (arguments.sections or arguments.quick):
        (Path(__file__).parent / "results.md").write_text(report + "\n")


def prepare() -> None:
    """Let nothing be said but the results, and nothing be computed in several threads."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def heading() -> str:
    """When, where and with what this was measured."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    machine = f"{_processor()}, {os.cpu_count()} cores, {device}, {platform.system()}"
    packages = ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))
    return (
        f"# Results\n\n{date.today()}; {machine}; Python {platform.python_version()}; {packages}.\n\n"
        "Unless it says otherwise, a result is the median of several rounds, with the quartiles in brackets, on one "
        "thread of the CPU, in seconds of computing."
    )


def section(name: str, quick: bool = False) -> str:
    """Measure one subject; a title and a table."""
    module = importlib.import_module(f"benchmarks.{name}")
    start = time.perf_counter()
    rows: Sequence[Row] = module.measure(quick)
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return f"## {module.__doc__.splitlines()[0].rstrip('.')}\n\n{table(rows)}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.split(": ", 1)[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
