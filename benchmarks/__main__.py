"""Measure, print one table and write it to `benchmarks/results.md`."""

import logging
import platform
import warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks.dispatch import dispatch


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows = [("what", "result", "goal"), *dispatch()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    table = "\n".join(lines)
    packages = ", ".join(f"{name} {version(name)}" for name in ("callbacksets", "lightning", "torch"))
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    report = f"# Results\n\n{date.today()}; {machine}; {packages}.\n\n{table}\n"
    (Path(__file__).parent / "results.md").write_text(report)
    print(report)


if __name__ == "__main__":
    main()
