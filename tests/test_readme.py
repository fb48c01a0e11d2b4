"""The README's examples run as they stand, one after the other, and what it links to is there."""

import re
import sys
import types
from pathlib import Path

import pytest

from callbacksets.testing import check_callback_set
from tests.scripts.user_code import README, examples

TEXT = README.read_text()


@pytest.mark.filterwarnings("ignore")  # as users see them
def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)  # where pickle finds the classes of the examples
    blocks = examples(README)
    assert blocks
    for block in blocks:
        exec(compile(block, str(README), "exec"), vars(module))
    out = capsys.readouterr().out
    assert "{'epoch': [1, 2, " in out
    assert "{'ema': " in out
    check_callback_set(vars(module)["CallbackSetLossEma"])  # a model for those of readers


def test_is_read_in_a_few_minutes() -> None:
    assert len(TEXT.splitlines()) <= 130


def test_has_every_key() -> None:
    from callbacksets import t_clbk

    rows = "\n".join(line for line in TEXT.splitlines() if line.startswith("| `"))
    assert [key for key in t_clbk() if f"`{key}`" not in rows] == []


def test_the_package_index_can_show_the_pictures() -> None:
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", TEXT)
    assert pictures
    for url in pictures:
        start = "https://raw.githubusercontent.com/callbacksets/callbacksets/main/"
        assert url.startswith(start)
        assert (README.parent / url.removeprefix(start)).exists()
