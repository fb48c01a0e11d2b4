import time
from types import SimpleNamespace
from typing import Any

import pytest

from callbacksets import CallbackSetProgress
from callbacksets.callbacks import progress
from tests.helpers import Act, Tiny, fit, ones


def test_a_line_for_each_epoch_and_the_total_time(capsys: pytest.CaptureFixture[str]) -> None:
    class Known(Tiny):
        def log(self, name: str, value: Any, **kwargs: Any) -> None:
            super().log(name, value.detach() * 0 + 0.125, **kwargs)

    fit([CallbackSetProgress(digits=3)], Known(), ones(2), ones(1), max_epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Epoch 1/2: training loss 0.125; validation loss 0.125"
    assert lines[1].startswith("Epoch 2/2: ")
    assert lines[2].startswith("Trained 2 epochs in ")


def test_bars_count_batches_and_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    class Bar:
        def __init__(self, desc: str, total: Any, **kwargs: Any) -> None:
            self.desc, self.total, self.n, self.open = desc, total, 0, True
            bars.append(self)

        def update(self, n: int = 1) -> None:
            self.n += n

        def reset(self, total: int) -> None:
            assert self.n == total
            self.n = 0

        def set_description(self, desc: str, refresh: bool) -> None:
            self.desc = desc

        def close(self) -> None:
            self.open = False

        @staticmethod
        def write(line: str) -> None: ...

    monkeypatch.setattr(progress, "tqdm", Bar)
    fit([CallbackSetProgress()], Tiny(), ones(3), ones(2), max_epochs=2)
    train, *valid = bars
    assert (train.desc, train.n, train.total) == ("Epoch 2/2", 3, 3)
    assert [(bar.desc, bar.n, bar.total) for bar in valid] == [("Validation", 2, 2)] * 2
    assert not any(bar.open for bar in bars)


def test_time_goes_on_in_a_resumed_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    resumed = CallbackSetProgress()
    resumed.load_state_dict({"elapsed": 100.0})
    trainer = SimpleNamespace(progress_bar_callback=None, is_global_zero=True)
    resumed.ctx = SimpleNamespace(epoch=3, trainer=trainer)  # type: ignore[assignment]
    resumed.on_begin()
    resumed.on_end()
    assert "Trained 3 epochs in 105.0 s, 100.0 s of them before this run." in capsys.readouterr().out


def test_nothing_but_the_time_is_state() -> None:
    assert list(fit([CallbackSetProgress()]).states["progress"]) == ["elapsed"]


def test_closed_after_a_failure() -> None:
    callback = CallbackSetProgress()

    def fail(ctx: Any) -> None:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fit([callback, Act(on_batch_end=fail)])
    assert callback._bar is None


def test_warns_of_a_second_bar() -> None:
    with pytest.warns(UserWarning, match=r"Switch one of them off: Trainer\(enable_progress_bar=False\)"):
        fit([CallbackSetProgress()], enable_progress_bar=True)


@pytest.mark.parametrize("digits", [-1, 1.5, True, "2", None])
def test_bad_digits(digits: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="Expected digits to be a whole number of at least 0 but got"):
        CallbackSetProgress(digits)
