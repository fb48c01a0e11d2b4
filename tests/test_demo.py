from pathlib import Path

import pytest
import torch

from callbacksets import demo
from callbacksets.testing import check_callback_set


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # as the demo's own users see them
def test_the_demo_learns_and_ends_with_its_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    demo.main()
    assert threads == [1]
    out = capsys.readouterr().out
    assert "epoch  train.acc  train.loss  valid.acc  valid.loss  gradient norm" in out
    assert "Training stopped: callback 'early_stopping' set ctx.terminate in on_valid_end" in out
    accuracy = float(out.split("The network has the weights of epoch ")[1].split("acc ")[1].split(".\n")[0])
    assert accuracy > 0.95
    assert (tmp_path / "history.png").stat().st_size > 10_000
    assert str(tmp_path / "history.png") in out


@pytest.mark.slow
def test_its_callback_is_sound() -> None:
    check_callback_set(demo.CallbackSetGradientNorm)
