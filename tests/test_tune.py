"""The page "Tune and compare" with Optuna: some trials are pruned, and the best one is that of the best history."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.user_code import ROOT, examples

pytestmark = pytest.mark.filterwarnings("ignore")  # those of Optuna and of Lightning, as users see them
PAGE = ROOT / "docs" / "how-to" / "tune.md"


def test_optuna_prunes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"print": lambda *values: None}
    first, *_, pruning = examples(PAGE)
    [code] = re.findall(r'^```python title="Optuna"\n(.*?)^```', PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    code = code.replace("study.optimize", "study.sampler = optuna.samplers.RandomSampler(seed=1)\nstudy.optimize")
    for block in (first, pruning, code):
        exec(compile(block, str(PAGE), "exec"), names)
    trials = names["study"].trials
    pruned = [trial for trial in trials if trial.state == optuna.trial.TrialState.PRUNED]
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert pruned
    assert len(pruned) + len(complete) == 12
    assert all(len(trial.intermediate_values) == 4 for trial in complete)
    for trial in complete:
        assert list(trial.intermediate_values.values()) == trial.user_attrs["history"]["valid.acc"]
    assert names["study"].best_value == max(max(trial.intermediate_values.values()) for trial in complete)
