"""Random runs, resumed from each of their checkpoints, end as the run that nothing interrupts.

Where one does not, a warning says so. More runs than the usual:

    CALLBACKSETS_SCENARIOS=2000 pytest tests/test_random_runs.py
"""

import os
import warnings
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch

from tests.helpers import RELEASE, sampled
from tests.random_runs import Run, fit, scenario

SCENARIOS = int(os.environ.get("CALLBACKSETS_SCENARIOS", "240"))
PARTS = 4  # for as many processes
TOLD = ("The checkpoint has no gradients of", "The run had reached its last step")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of odd Trainers and data


def is_exact(whole: Run, resumed: Run) -> bool:
    return (
        all(resumed.rows(id) == whole.rows(id) for id in ("ahead", "behind"))
        and resumed.history == whole.history
        and resumed.states["lr"] == whole.states["lr"]
        and all(map(torch.equal, resumed.weights, whole.weights))
    )


@pytest.mark.parametrize("part", sampled(range(PARTS), 2, RELEASE))
def test_resumed_runs_end_as_uninterrupted_ones(part: int, tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    for seed in range(part, SCENARIOS, PARTS):
        of = scenario(Random(seed))
        folder, other = tmp_path / str(seed), tmp_path / f"{seed}-resumed"
        folder.mkdir()
        other.mkdir()
        whole = fit(of, folder, happens=False)
        for name in dict.fromkeys(fit(of, folder).saved):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                resumed = fit(of, other, folder / name, happens=False)
            told = [str(one.message) for one in caught if str(one.message).startswith(TOLD)]
            exact = is_exact(whole, resumed)
            is_over = of.stop is not None and resumed.stopped != whole.stopped  # who resumes a stopped run goes on
            assert exact or told or is_over, (seed, name, of)
            counts["resumed"] += 1
            counts["exact"] += exact
    print(dict(counts))  # shown with -rP
    assert counts["resumed"] >= SCENARIOS // PARTS
    assert counts["exact"] >= 0.85 * counts["resumed"]  # of all scenarios, 19 of 20
