"""The import.

New processes import Lightning, and then time `import callbacksets`: what it adds. Modules of others that this brings
along are listed, by how long Python says that they took, in one more process.
"""

import re
import subprocess
import sys

from benchmarks.report import Row, milliseconds

TIMED = """
from time import process_time as clock
start = clock()
import lightning
between = clock()
import callbacksets
print(between - start, clock() - between)
"""
LINE = re.compile(r"import time:\s*\d+ \|\s*(\d+) \|( +)(\S+)")


def measure(quick: bool = False) -> list[Row]:
    seconds = [tuple(map(float, _python("-c", TIMED).stdout.split())) for _ in range(1 if quick else 7)]
    rows = [
        Row("import lightning", milliseconds([lightning for lightning, _ in seconds])),
        Row("import callbacksets, after it", milliseconds([ours for _, ours in seconds]), "at most 50 ms"),
    ]
    rows += [Row(f"  of it {module}", f"{microseconds / 1000:.1f} ms") for module, microseconds in _foreign()[:5]]
    return rows


def _foreign() -> list[tuple[str, int]]:
    """Modules of others that modules of ours are the first to import, the slowest first."""
    report = _python("-X", "importtime", "-c", "import lightning; import callbacksets").stderr
    found = [(len(match[2]), match[3], int(match[1])) for match in map(LINE.match, report.splitlines()) if match]
    foreign, importers = [], []
    for depth, module, microseconds in reversed(found):  # who imports comes after what is imported, less deep
        importers = [(above, name) for above, name in importers if above < depth]
        ours = bool(importers) and importers[-1][1].startswith("callbacksets")
        if ours and not module.startswith("callbacksets"):
            foreign.append((module, microseconds))
        importers.append((depth, module))
    return sorted(foreign, key=lambda item: -item[1])


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
