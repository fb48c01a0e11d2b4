import copy
import io
import pickle
import re
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from callbacksets import CallbackSetAdapter, CallbackSetEarlyStopping, CallbackSetProgress
from callbacksets.callbacks import progress
from callbacksets.show import notebook, terminal
from callbacksets.testing import make_context
from tests.helpers import Act, Tiny, fit, ones, quiet


class Known(Tiny):
    """Logs scores that are known."""

    def log(self, name: str, value: Any, **kwargs: Any) -> None:
        super().log(name, value.detach() * 0 + 0.125, **kwargs)


# --- in a terminal ---------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_for_each_epoch_and_the_total_time(capsys: pytest.CaptureFixture[str]) -> None:
    fit([CallbackSetProgress(digits=3, plot=True)], Known(), ones(2), ones(1), max_epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Epoch 1/2: training loss 0.125; validation loss 0.125"
    assert lines[1].startswith("Epoch 2/2: ")
    assert lines[2].startswith("Trained 2 epochs in ")
    assert len(lines) == 3


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

    monkeypatch.setattr(terminal, "tqdm", Bar)
    fit([CallbackSetProgress()], Tiny(), ones(3), ones(2), max_epochs=2)
    train, *valid = bars
    assert (train.desc, train.n, train.total) == ("Epoch 2/2", 3, 3)
    assert [(bar.desc, bar.n, bar.total) for bar in valid] == [("Validation", 2, 2)] * 2
    assert not any(bar.open for bar in bars)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_can_be_copied_while_its_bars_are_shown(copied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    callback, copies = CallbackSetProgress(), []
    fit([callback, Act(on_batch_valid_end=lambda ctx: copies.append(copied(callback)))], Tiny(), ones(2), ones(1))
    [one] = copies
    before = one.elapsed()
    assert one.elapsed() == before > 0  # its time stands still
    assert list(fit([one], max_epochs=2).states["progress"]["epochs"]["epoch"]) == [1, 2]


def test_a_program_without_a_console_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert fit([CallbackSetProgress()], Tiny(), ones(2), ones(1)).states["progress"]["epochs"]["epoch"] == [1]


def test_other_ranks_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    callback = CallbackSetProgress()
    trainer = SimpleNamespace(progress_bar_callback=None, is_global_zero=False)
    callback.ctx = make_context(
        trainer=trainer, callbacks={}, epoch=1, total_epochs=1, last_scores_train={"loss": 1.0}, last_scores_valid=None
    )
    for stage in (
        "on_begin",
        "on_batch_end",
        "on_batch_valid_end",
        "on_valid_end",
        "on_epoch_end",
        "on_end",
        "on_exit",
    ):
        getattr(callback, stage)()
    assert capsys.readouterr() == ("", "")
    assert callback.state_dict()["epochs"]["train.loss"] == [1.0]


def test_the_bars_are_gone_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    others = set(getattr(terminal.tqdm, "_instances", ()))  # such as the bar of a finder of learning rates that failed

    def fail(ctx: Any) -> None:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fit([CallbackSetProgress(), Act(on_batch_end=fail)])
    assert "Epoch 1/1" in err.getvalue()
    assert set(terminal.tqdm._instances) <= others


# --- in a notebook ---------------------------------------------------------------------------------------------------


class Page:
    """The outputs of a cell: of each, what it has shown."""

    def __init__(self) -> None:
        self.outputs: list[list[dict[str, str]]] = []
        self.now, self.readings = 0.0, 0

    def monotonic(self) -> float:
        self.readings += 1
        return self.now

    def handle(self) -> Any:
        looks: list[dict[str, str]] = []

        def display(data: dict[str, str], raw: bool) -> None:
            assert raw
            if not looks:
                self.outputs.append(looks)
            looks.append(data)

        return SimpleNamespace(display=display, update=display)

    def texts(self, output: int = 0) -> list[str]:
        return [look["text/plain"] for look in self.outputs[output]]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    page = Page()
    monkeypatch.setattr("IPython.display.DisplayHandle", page.handle)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(notebook, "time", page)
    return page


def wait(page: Page, seconds: float) -> Act:
    def act(ctx: Any) -> None:
        page.now += seconds

    return Act(on_batch_begin=act, on_batch_valid_begin=act)


def test_one_block_tells_how_far_training_is(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = [wait(page, 1), CallbackSetProgress(digits=3), CallbackSetEarlyStopping(patience=3)]
    fit(callbacks, Known(), ones(4), ones(2), max_epochs=2)
    [looks] = page.outputs
    lines = [re.sub(r"[0-9.]+ s elapsed", "x s elapsed", look["text/plain"]).splitlines() for look in looks]
    assert [line[0] for line in lines[:6]] == [
        "Training begins · x s elapsed",
        "Epoch 1 of 2, batch 1 of 4 · x s elapsed, about 7.0 s left",
        "Epoch 1 of 2, batch 2 of 4 · x s elapsed, about 6.0 s left",
        "Epoch 1 of 2, batch 3 of 4 · x s elapsed, about 5.0 s left",
        "Epoch 1 of 2, batch 4 of 4 · x s elapsed, about 4.0 s left",
        "Epoch 1 of 2, validation, batch 1 of 2 · x s elapsed, about 5.0 s left",
    ]
    assert lines[7][1:3] == [
        "Best valid.loss 0.125 in epoch 1 · patience 0 of 3",
        "epoch  train.loss  valid.loss  seconds",
    ]
    assert "width: 62.5%" in looks[7]["text/html"]
    assert lines[-1][0].startswith("Trained 2 epochs in ")
    assert lines[-1][1] == "Best valid.loss 0.125 in epoch 1 · patience 1 of 3"
    assert lines[-1][3].split()[:3] == ["1", "0.125", "0.125"]
    assert lines[-1][3].endswith("best")
    assert looks[-1]["text/html"].count("<tr") == 3
    assert "%" not in looks[-1]["text/html"]  # the bar is gone
    assert capsys.readouterr().out == ""


def test_between_two_looks_a_batch_is_one_look_at_the_clock(page: Page) -> None:
    readings = []
    for batches in (3, 13):
        page.readings = 0
        fit([CallbackSetProgress()], Tiny(), ones(batches), ones(1))
        readings.append(page.readings)
    assert readings[1] - readings[0] == 10
    assert [len(looks) for looks in page.outputs] == [2, 2]  # when training begins, and what stays


def test_a_slow_page_is_shown_less_often(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: Any, **kwargs: Any) -> str:
        page.now += 2
        return ""

    monkeypatch.setattr(notebook, "_bar", slow)
    fit([wait(page, 1), CallbackSetProgress()], Tiny(), ones(20))
    assert len(page.outputs[0]) == 4  # one look in ten batches, besides the first and the last one


@pytest.mark.parametrize(
    ("error", "headline"),
    [
        (RuntimeError("boom"), "Stopped by RuntimeError in epoch 2 of 3, batch 2, after "),
        (KeyboardInterrupt(), "Interrupted in"),
    ],
)
def test_the_table_stays_when_training_is_stopped(error: BaseException, headline: str, page: Page) -> None:
    def stop(ctx: Any) -> None:
        if ctx.global_step == 4:
            raise error

    with pytest.raises((RuntimeError, SystemExit)):
        fit([CallbackSetProgress(), Act(on_batch_end=stop)], Tiny(), ones(2), ones(1), max_epochs=3)
    lines = page.texts()[-1].splitlines()
    assert lines[0].startswith(headline)
    assert lines[2].split() == ["epoch", "train.loss", "valid.loss", "seconds"]
    assert len(lines) == 4


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_the_table_goes_on_in_a_resumed_run(page: Page, tmp_path: Any) -> None:
    def save(ctx: Any) -> None:
        if ctx.global_step == 3:
            ctx.trainer.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)

    fit([CallbackSetProgress(), Act(on_batch_end=save)], Tiny(), ones(2), ones(1), max_epochs=3)
    callback = CallbackSetProgress()
    trainer = quiet(max_epochs=3, callbacks=[CallbackSetAdapter([callback, Act()])])
    trainer.fit(Tiny(), ones(2), ones(1), ckpt_path=tmp_path / "half.ckpt")
    assert len(page.outputs) == 2  # each cell has its own
    first, last = page.texts(1)[0].splitlines(), page.texts(1)[-1].splitlines()
    assert first[0].startswith("1 epochs trained before")
    assert [line.split()[0] for line in first[2:]] == ["epoch", "1"]
    assert [line.split()[0] for line in last[2:]] == ["epoch", "1", "2", "3"]
    assert sum(callback.columns()["seconds"]) <= callback.elapsed()


def test_the_middle_of_many_epochs_is_left_out(page: Page) -> None:
    fit([wait(page, 1), CallbackSetProgress()], Tiny(), ones(1), max_epochs=20)
    assert all(look["text/html"].count("<tr") <= 12 for look in page.outputs[0])
    assert "... 12 more" in page.outputs[0][-1]["text/html"]
    assert "... 12 more" in page.texts()[-1]


def test_the_curves_are_drawn_below(page: Page) -> None:
    fit([wait(page, 1), CallbackSetProgress(plot=True)], Tiny(), ones(2), ones(1), max_epochs=3)
    table, curves = page.outputs
    assert "text/html" in table[0]
    assert len(curves) == 4  # for each epoch, and at last
    assert all(look["image/png"].startswith("iVBOR") for look in curves)


def test_no_scores_no_curves(page: Page) -> None:
    class Silent(Tiny):
        def log(self, *args: Any, **kwargs: Any) -> None: ...

    fit([CallbackSetProgress(plot=True)], Silent())
    [block] = page.outputs
    assert block[-1]["text/plain"].splitlines()[1].split() == ["epoch", "seconds"]


def test_curves_need_matplotlib_before_anything_is_trained(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    steps: list[int] = []
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'callbacksets\[plot\]'"):
        fit([CallbackSetProgress(plot=True), Act(on_batch_end=lambda ctx: steps.append(ctx.step))])
    assert not steps


def test_a_run_of_unknown_length_has_no_bar(page: Page) -> None:
    def stop(ctx: Any) -> None:
        ctx.terminate = ctx.epoch == 2

    callbacks = {"wait": wait(page, 1), "progress": CallbackSetProgress(), "stop": Act(on_epoch_end=stop)}
    fit(callbacks, Tiny(), ones(2), max_epochs=-1)
    looks = page.outputs[0]
    assert re.match(r"Epoch 1, batch 2 of 2 · [0-9.]+ s elapsed\n?$", looks[2]["text/plain"])
    assert not any("%" in look["text/html"] for look in looks)


def test_there_is_a_notebook_where_there_is_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not notebook.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert not notebook.in_notebook()  # IPython in a terminal
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    assert notebook.in_notebook()
    monkeypatch.setattr(notebook, "parent_process", lambda: "the kernel")
    assert not notebook.in_notebook()  # forked from the kernel, as ddp_notebook does


# --- anywhere --------------------------------------------------------------------------------------------------------


def test_time_goes_on_in_a_resumed_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    resumed = CallbackSetProgress()
    resumed.load_state_dict({"elapsed": 100.0})
    trainer = SimpleNamespace(progress_bar_callback=None, is_global_zero=True)
    resumed.ctx = make_context(epoch=3, total_epochs=4, trainer=trainer, callbacks={})
    resumed.on_begin()
    resumed.on_end()
    assert "Trained 3 of 4 epochs in 105.0 s, 100.0 s of them before this run." in capsys.readouterr().out


def test_its_state_is_the_time_and_the_table() -> None:
    state = fit([CallbackSetProgress()], Known(), ones(2), ones(1), max_epochs=2).states["progress"]
    assert list(state) == ["elapsed", "epochs"]
    seconds = state["epochs"].pop("seconds")
    assert state["epochs"] == {"epoch": [1, 2], "train.loss": [0.125] * 2, "valid.loss": [0.125] * 2}
    assert 0 < sum(seconds) <= state["elapsed"]


def test_warns_of_a_second_bar() -> None:
    with pytest.warns(UserWarning, match=r"Switch off Lightning's: Trainer\(enable_progress_bar=False\)"):
        fit([CallbackSetProgress()], enable_progress_bar=True)


@pytest.mark.parametrize("digits", [-1, 1.5, True, "2", None])
def test_bad_digits(digits: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="Expected digits to be a whole number of at least 0 but got"):
        CallbackSetProgress(digits)


@pytest.mark.parametrize("plot", [1, "yes", None])
def test_bad_plot(plot: Any) -> None:
    with pytest.raises(TypeError, match="Expected plot to be True or False but got"):
        CallbackSetProgress(plot=plot)


def test_a_bar_knows_the_length_of_each_epoch_and_small_scores_are_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    totals: list[Any] = []

    class Grows(Tiny):
        def train_dataloader(self) -> Any:
            return ones(2 + 3 * self.current_epoch)

    class Bar(terminal.tqdm):  # type: ignore[type-arg]
        def close(self) -> None: ...

    monkeypatch.setattr(terminal, "_bar", lambda description, total: Bar(total=total, disable=True))
    look = Act(on_batch_end=lambda ctx: totals.append(ctx.callbacks["progress"]._view._bar.total))
    small = Act(on_before_valid=lambda ctx: ctx.last_scores_train.update(lr=1e-4))
    trainer = quiet(
        max_epochs=2,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[CallbackSetAdapter({"progress": CallbackSetProgress(), "look": look, "small": small})],
    )
    trainer.fit(Grows())
    assert totals == [2] * 2 + [5] * 5
    assert "lr 0.0001" in capsys.readouterr().out
