"""Checkpoints while and after an exception is handled, and what `exit` has done to the weights."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint

from callbacksets import CallbackSetAdapter
from callbacksets.fit.fingerprint import fingerprint
from callbacksets.fit.states import KEY
from tests.helpers import Act, StageLog, Tiny, ones, quiet

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`.fit\(ckpt_path=None\)` was called without a model"),
    pytest.mark.filterwarnings(r"ignore:.*is set, but there is no last checkpoint available"),
]


def failing(error: type[BaseException]) -> Any:
    def fail(ctx: Any) -> None:
        raise error

    def fill(ctx: Any) -> None:
        for parameter in ctx.network.parameters():
            parameter.data.fill_(7.0)

    return Act(on_batch_end=fail, on_exit=fill)


@pytest.mark.parametrize("error", [InterruptedError, KeyboardInterrupt])
def test_saved_on_the_exception_are_the_weights_from_before_exit_and_afterwards_those_it_left(
    error: type[BaseException], tmp_path: Path
) -> None:
    trainer = quiet(
        max_epochs=1,
        callbacks=[CallbackSetAdapter({"fails": failing(error)}), OnExceptionCheckpoint(tmp_path)],
        enable_checkpointing=True,
    )
    module = Tiny()
    with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
        trainer.fit(module, ones(1))
    on_exception = torch.load(tmp_path / "on_exception.ckpt", weights_only=True)
    assert not (on_exception["state_dict"]["network.weight"] == 7.0).any()
    assert on_exception["callbacks"][KEY]["exact"]
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    after = torch.load(tmp_path / "after.ckpt", weights_only=True)
    assert (after["state_dict"]["network.weight"] == 7.0).all()
    assert not after["callbacks"][KEY]["exact"]  # though they were changed through `.data`, which torch does not count


@pytest.mark.skipif(sys.platform == "win32", reason="a float64 of NaN")
def test_a_fingerprint_changes_with_the_weights_only() -> None:
    module = Tiny()
    before = fingerprint(module)
    assert fingerprint(module) == before
    module.network.weight.data[0, 0] = float("nan")
    broken = fingerprint(module)
    assert broken != before
    assert fingerprint(module) == broken
    with torch.no_grad():
        module.network.bias.add_(0.0)
    assert fingerprint(module) != broken  # written to, if with the same numbers


def test_a_fingerprint_sees_the_imaginary_part() -> None:
    module = Tiny()
    module.register_buffer("spectrum", torch.ones(2, dtype=torch.complex64))
    before = fingerprint(module)
    module.spectrum.data.imag.fill_(1.0)  # type: ignore[union-attr,operator]
    assert fingerprint(module)[1] != before[1]


def test_weights_that_cannot_be_kept_hide_neither_the_error_nor_exit(tmp_path: Path) -> None:
    class Full(Tiny):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            if self.trainer.interrupted:
                raise MemoryError("no room")
            return super().state_dict(*args, **kwargs)

    def fail(ctx: Any) -> None:
        raise InterruptedError

    seen: list[str] = []
    callback = Act(on_batch_end=fail, on_exit=lambda ctx: seen.append("exit"))
    saves = OnExceptionCheckpoint(tmp_path)
    saves.on_exception = lambda *args: None  # type: ignore[method-assign]  # it would fail by itself
    trainer = quiet(max_epochs=1, callbacks=[CallbackSetAdapter(callback), saves], enable_checkpointing=True)
    with (
        pytest.warns(UserWarning, match="could not be kept for a checkpoint: no room"),
        pytest.raises(InterruptedError),
    ):
        trainer.fit(Full(), ones(1))
    assert seen == ["exit"]


def test_states_are_there_after_a_failure_though_the_device_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr("callbacksets.fit.saving.Saving._save_rank", fail)
    adapter = CallbackSetAdapter({"history": "history", "fails": failing(InterruptedError)})
    with pytest.raises(InterruptedError) as raised:
        quiet(max_epochs=1, callbacks=[adapter]).fit(Tiny(), ones(1))
    assert "device-side assert" in str(raised.value.__notes__)
    assert adapter.states == {"history": {"epoch": []}}


@pytest.mark.parametrize("exits", [False, True])
def test_a_checkpoint_on_the_exception_runs_nothing_that_was_still_to_come(exits: bool, tmp_path: Path) -> None:
    def fail(ctx: Any) -> None:
        raise InterruptedError

    behind = StageLog(stages=("on_batch_end", *(["on_exit"] if exits else [])))
    adapter = CallbackSetAdapter({"fails": Act(on_batch_end=fail), "behind": behind})
    trainer = quiet(max_epochs=1, callbacks=[adapter, OnExceptionCheckpoint(tmp_path)], enable_checkpointing=True)
    with pytest.raises(InterruptedError):
        trainer.fit(Tiny(), ones(1))
    assert behind.rows == ["exit"] * exits
    saved = torch.load(tmp_path / "on_exception.ckpt", weights_only=True)["callbacks"][KEY]
    assert tuple(saved["loop"]["to_come"]) == ("on_batch_end", ["behind"])


def test_a_fingerprint_where_a_device_has_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        if dtype is torch.float64:
            raise TypeError("Trying to convert to the MPS backend but it does not have support for that dtype.")
        return torch.Tensor.mean(self) * self.numel()

    monkeypatch.setattr(torch.Tensor, "sum", refuse)
    module = Tiny()
    before = fingerprint(module)
    module.network.weight.data.fill_(7.0)
    assert fingerprint(module) != before
