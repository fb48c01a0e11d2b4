"""What was recorded from mlr3torch itself: see README.md beside this file."""

import gzip
import json
from pathlib import Path
from typing import Any


def load(name: str) -> list[dict[str, Any]]:
    """The records of `runs` or `traces`."""
    with gzip.open(Path(__file__).parent / f"{name}.json.gz", "rt") as file:
        return json.load(file)
