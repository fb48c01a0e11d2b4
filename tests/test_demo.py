import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from callbacksets import demo


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
    assert "epoch  train.acc  train.loss  train.grad_norm  valid.acc  valid.loss" in out
    assert "Training stopped: callback 'early_stopping' set ctx.terminate in on_valid_end" in out
    accuracy = float(out.split("The network has the weights of epoch ")[1].split("acc ")[1].split(".\n")[0])
    assert accuracy > 0.95
    assert (tmp_path / "history.png").stat().st_size > 10_000
    assert str(tmp_path / "history.png") in out


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_if_nothing_had_happened() -> None:
    command = [sys.executable, "-m", "callbacksets.demo", "--kill", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    moment = r"  killed in epoch [1-8] after batch \d+: (no checkpoint yet|goes on from epoch\S*\.ckpt)"
    assert [line for line in done.stdout.splitlines() if line.startswith("  ") and not re.fullmatch(moment, line)] == []
    assert done.stdout.count("killed in epoch") == 2
    assert done.stdout.endswith("The weights: the same to the last bit.\nThe history: the same to the last bit.\n")
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [("--kill", "0"), ("--kill", "x"), ("--kil",)])
def test_bad_arguments(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", *arguments])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("callbacksets.demo", run_name="__main__")
    assert "--kill" in capsys.readouterr().err
