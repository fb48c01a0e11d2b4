"""The README's examples run as they stand, one after the other."""

import re
import sys
import types
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.filterwarnings("ignore")  # as users see them
def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)  # where pickle finds the classes of the examples
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block, str(README), "exec"), vars(module))
    out = capsys.readouterr().out
    assert "{'epoch': [1, 2, " in out
    assert "[1, 2, 3, 4]\n" in out
    assert "[1, 2, 3, 4, 5, 6]\n" in out
