"""Random runs, resumed from each of their checkpoints, end as the run that nothing interrupts.

What is otherwise has one of the reasons below, all of which are Lightning's. Then the callbacks have to see what
Lightning has done, to the row: `tests/random_runs.py` says what that is. More runs than the usual:

    CALLBACKSETS_SCENARIOS=2000 pytest tests/test_random_runs.py
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import lightning as L
import pytest
import torch
from packaging.version import Version

from tests.random_runs import Run, Scenario, course, expected, fit, near, scenario

SCENARIOS = int(os.environ.get("CALLBACKSETS_SCENARIOS", "240"))
PARTS = 4  # for as many processes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of odd Trainers and data
    pytest.mark.skipif(Version(L.__version__) < Version("2.5"), reason="2.4 resumes inside an epoch otherwise"),
]


def resumed_inside(run: Run) -> set[int]:
    """The epochs inside of which a run was resumed: some of their batches were trained before."""
    inside, epoch, trained = set(), 0, 0
    for event in run.events:
        if event[0] == "batch":
            epoch, trained = event[1], trained + 1 if event[1] == epoch else 1
        if event[0] == "resumed" and trained:
            inside.add(epoch)
    return inside


def of_course(kind: str, *, more: bool) -> Callable[[Scenario, Run, Run], bool]:
    """Whether Lightning has done something of a kind more often, or less, than the run that nothing interrupts."""

    def tell(of: Scenario, whole: Run, resumed: Run) -> bool:
        one, other = Counter(course(resumed.events)), Counter(course(whole.events))
        differs = one - other if more else other - one
        return any(step[0] == kind for step in differs)

    return tell


def scores_of_the_rest(of: Scenario, whole: Run, resumed: Run) -> bool:
    """Only training scores differ, and only of epochs inside of which the run was resumed."""
    inside = resumed_inside(resumed)
    differ = [one[0] for one, other in zip(resumed.history, whole.history, strict=False) if one[1] != other[1]]
    return bool(differ) and set(differ) <= inside


def window_lost(of: Scenario, whole: Run, resumed: Run) -> bool:
    return of.accumulate > 1 and bool(resumed_inside(resumed))


def stopped_before(of: Scenario, whole: Run, resumed: Run) -> bool:
    return of.stop is not None and resumed.stopped != whole.stopped


REASONS: dict[str, Callable[[Scenario, Run, Run], bool]] = {
    "Lightning keeps no accumulated metrics: training scores are those of the rest of the epoch": scores_of_the_rest,
    "Lightning keeps no accumulated gradients: the window begins anew": window_lost,
    "Lightning does not make a validation again that had begun no batch": of_course("validation", more=False),
    "Lightning validates where the uninterrupted run does not": of_course("validation", more=True),
    "Lightning leaves out batches: of an epoch in whose first hook was saved": of_course("batch", more=False),
    "Lightning trains more: a batch of None again, or one in an epoch that had ended": of_course("batch", more=True),
    "Lightning steps less often": of_course("step", more=False),
    "Lightning steps more often": of_course("step", more=True),
    "the module cuts an epoch short less often": of_course("cut", more=False),
    "the module cuts an epoch short again": of_course("cut", more=True),
    "the fit that was stopped has ended, and who resumes it goes on": stopped_before,
}


def is_exact(whole: Run, resumed: Run) -> bool:
    return (
        all(resumed.rows(id) == whole.rows(id) for id in ("ahead", "behind"))
        and resumed.history == whole.history
        and resumed.states["lr"] == whole.states["lr"]
        and all(map(torch.equal, resumed.weights, whole.weights))
    )


def check(of: Scenario, whole: Run, resumed: Run) -> list[str]:
    """The reasons for which a resumed run is not exact; callbacks have seen all that Lightning has done."""
    if is_exact(whole, resumed):
        return []
    seen = expected(resumed.events, of)
    rows = [row for row in resumed.rows("ahead") if row[0] != "after_backward"]
    assert rows == seen.rows, of
    assert resumed.rows("behind") == resumed.rows("ahead"), of
    history = {epoch: scores for epoch, *scores in resumed.history}
    assert list(history) == list(seen.history), of
    for epoch, scores in history.items():
        assert all(map(near, scores, seen.history[epoch])), (of, epoch)
    assert seen.rates == pytest.approx([0.0] * len(seen.rates)), of
    reasons = [reason for reason, holds in REASONS.items() if holds(of, whole, resumed)]
    assert reasons, of
    return reasons


@pytest.mark.parametrize("part", range(PARTS))
def test_resumed_runs_end_as_uninterrupted_ones(part: int, tmp_path: Path) -> None:
    told: Counter[str] = Counter()
    for seed in range(part, SCENARIOS, PARTS):
        of = scenario(Random(seed))
        folder, other = tmp_path / str(seed), tmp_path / f"{seed}-resumed"
        folder.mkdir()
        other.mkdir()
        whole = fit(of, folder, happens=False)
        for name in dict.fromkeys(fit(of, folder).saved):
            reasons = check(of, whole, fit(of, other, folder / name, happens=False))
            told["resumed runs"] += 1
            told.update(reasons or ["exact"])
    print(dict(told))  # shown with -rP
    assert told["resumed runs"] >= SCENARIOS // PARTS
    assert told["exact"] >= told["resumed runs"] // 4


def test_each_reason_is_one_of_lightnings(tmp_path: Path) -> None:
    """Without the adapter, the course of a resumed run is the same: what it loses, it does not lose through us."""
    for seed in range(0, SCENARIOS, 6):
        of = scenario(Random(seed))
        folder, other = tmp_path / str(seed), tmp_path / f"{seed}-resumed"
        folder.mkdir()
        other.mkdir()
        names = [place for place in of.saves if place.who != "own"]
        if of.stop is not None or len(names) < len(of.saves) or (of.fails is not None and of.fails.who == "own"):
            continue  # these need the adapter
        for name in dict.fromkeys(fit(of, folder).saved):
            with_us = fit(of, other, folder / name, happens=False)
            without = fit(of, other, folder / name, happens=False, adapter=False)
            assert course(without.events) == course(with_us.events), of
