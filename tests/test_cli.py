"""Callbacks in the YAML of LightningCLI."""

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

from callbacksets import CallbackSet, CallbackSetAdapter, TorchCallback, t_clbk
from tests.helpers import Tiny

# Lightning itself uses what jsonargparse deprecates
pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "configure.md"
QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")


class CallbackSetLossEma(CallbackSet):
    def __init__(self, alpha: float = 0.1) -> None:
        self.alpha, self.ema = alpha, None

    def on_batch_end(self) -> None:
        loss: Any = self.ctx.last_loss
        self.ema = loss if self.ema is None else self.alpha * loss + (1 - self.alpha) * self.ema

    def state_dict(self) -> Any:
        return {"ema": self.ema}


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])  # LightningCLI warns of arguments beside those it is given


def slow_steps(gamma: float) -> TorchCallback:
    return t_clbk("lr_step", step_size=2, gamma=gamma)


class WithData(Tiny):
    def train_dataloader(self) -> Any:
        return DataLoader(torch.ones(4, 2), batch_size=2)

    val_dataloader = train_dataloader


def run(yaml: str, folder: Path, *arguments: str) -> CallbackSetAdapter:
    (folder / "config.yaml").write_text(yaml)
    quiet = [f"--trainer.{name}=false" for name in QUIET]
    args = ["fit", "--config", str(folder / "config.yaml"), "--trainer.accelerator=cpu", *quiet, *arguments]
    saved = {"config_filename": str(folder / "saved.yaml")}
    cli = LightningCLI(WithData, args=args, save_config_kwargs=saved, seed_everything_default=False)
    [adapter] = [callback for callback in cli.trainer.callbacks if isinstance(callback, CallbackSetAdapter)]
    return adapter


def adapter_of(callbacks: str) -> str:
    return (
        "trainer:\n  max_epochs: 3\n  callbacks:\n    - class_path: callbacksets.CallbackSetAdapter\n"
        f"      init_args:\n        callbacks: {callbacks}\n"
    )


@pytest.fixture(autouse=True)
def _quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("callbacks", "ids"),
    [
        ("history", ["history"]),
        ("[history, {early_stopping: {patience: 2}}]", ["history", "early_stopping"]),
        ("{scores: history, stop: {early_stopping: {patience: 2}}}", ["scores", "stop"]),
        ("[{lr_step: {step_size: 2, id: slow, weight: 3}}]", ["slow"]),
        ("[{class_path: callbacksets.CallbackSetEarlyStopping, init_args: {patience: 2}}]", ["early_stopping"]),
        ("[{class_path: tests.test_cli.CallbackSetLossEma}, history]", ["loss_ema", "history"]),
        ("[{class_path: tests.test_cli.slow_steps, init_args: {gamma: 0.5}}]", ["lr_step"]),
        (
            "[{class_path: callbacksets.TorchCallback, init_args: {callback_generator: callbacksets.CallbackSetHistory,"
            " id: scores}}]",
            ["scores"],
        ),
        (
            "[{class_path: callbacksets.CallbackSetLRSchedulerOneCycle, dict_kwargs: {max_lr: 0.1}}]",
            ["lr_scheduler_one_cycle"],
        ),
    ],
)
def test_forms(callbacks: str, ids: list[str], tmp_path: Path) -> None:
    assert list(run(adapter_of(callbacks), tmp_path).states) == ids


def test_arguments_of_the_adapter_and_overriding_on_the_command_line(tmp_path: Path) -> None:
    yaml = adapter_of("[history]") + "        terminate_at: validation\n"
    adapter = run(yaml, tmp_path, "--trainer.max_epochs=2")
    assert adapter.terminate_at == "validation"
    assert adapter.states["history"]["epoch"] == [1, 2]


def test_the_saved_configuration_gives_the_same_callbacks(tmp_path: Path) -> None:
    yaml = adapter_of(
        "[history, {early_stopping: {patience: 2}}, {class_path: tests.test_cli.CallbackSetLossEma, "
        "init_args: {alpha: 0.5}}]"
    )
    first = run(yaml, tmp_path)
    saved = (tmp_path / "saved.yaml").read_text()
    (tmp_path / "again").mkdir()
    again = run(saved, tmp_path / "again")
    assert list(again.states) == list(first.states)
    assert again.sets["loss_ema"].alpha == 0.5  # type: ignore[attr-defined]


TO_OVERRIDE = {
    "mapping": ("{stop: {early_stopping: {patience: 5, min_delta: 1}}}", "stop.early_stopping.patience=2", "stop"),
    "key": ("lr_step", "lr_step.step_size=2", "lr_step"),
    "list": ("[history, {early_stopping: {patience: 5, min_delta: 1}}]", "early_stopping.patience=2", "early_stopping"),
    "key without values": ("[{lr_step: }]", "lr_step.step_size=2", "lr_step"),
    "key in a list": ("[history, lr_step]", "lr_step.step_size=2", "lr_step"),
    "id in a list": ("[{early_stopping: {patience: 5, id: stop}}]", "stop.patience=2", "stop"),
    "key of an id": ("[{early_stopping: {patience: 5, id: stop}}]", "early_stopping.patience=2", "stop"),
    "class path": ("[{class_path: tests.test_cli.CallbackSetLossEma}]", "loss_ema.alpha=2", "loss_ema"),
    "class path and arguments": (
        "[{class_path: callbacksets.CallbackSetEarlyStopping, init_args: {patience: 5, min_delta: 1}}]",
        "early_stopping.init_args.patience=2",
        "early_stopping",
    ),
    "class path under an id": ("{a: {class_path: tests.test_cli.CallbackSetLossEma}}", "a.alpha=2", "a"),
    "function": ("[{class_path: tests.test_cli.slow_steps}]", "slow_steps.gamma=2", "lr_step"),
}


@pytest.mark.parametrize(("callbacks", "option", "id"), TO_OVERRIDE.values(), ids=TO_OVERRIDE)
def test_one_value_from_the_command_line(callbacks: str, option: str, id: str, tmp_path: Path) -> None:
    adapter = run(adapter_of(callbacks), tmp_path, f"--trainer.callbacks.init_args.callbacks.{option}")
    values = vars(adapter.sets[id])
    found = {**values, **values.get("scheduler_args", {})}
    name, _, value = option.rpartition(".")[2].partition("=")
    assert found[name] == float(value)
    assert found.get("min_delta", 1) in (0, 1)
    assert "min_delta: 1" not in callbacks or found["min_delta"] == 1  # the others stay as they were


def test_several_values_from_the_command_line_and_the_saved_configuration(tmp_path: Path) -> None:
    option = "--trainer.callbacks.init_args.callbacks"
    yaml = adapter_of("[history, {early_stopping: {patience: 5}}, {class_path: tests.test_cli.CallbackSetLossEma}]")
    options = [
        "early_stopping.patience=2",
        "early_stopping.min_delta=1e-3",
        "loss_ema.alpha=0.5",
        "history.label=Scores",
    ]
    first = run(yaml, tmp_path, *(f"{option}.{one}" for one in options))
    saved = (tmp_path / "saved.yaml").read_text()
    (tmp_path / "again").mkdir()
    for adapter in (first, run(saved, tmp_path / "again")):
        stopping: Any = adapter.sets["early_stopping"]
        ema: Any = adapter.sets["loss_ema"]
        assert (stopping.patience, stopping.min_delta, ema.alpha) == (2, 0.001, 0.5)
        assert list(adapter.sets) == ["history", "loss_ema", "early_stopping"]


@pytest.mark.parametrize(
    ("callbacks", "option", "message"),
    [
        (
            "[history, lr_step]",
            "lr_stp.step_size=2",
            "but got 'lr_stp' with {'step_size': 2}. Did you mean 'lr_step'?",
        ),
        ("[history, lr_step]", "x.step_size=2", "The callbacks are 'history', 'lr_step'."),
        ("{a: history}", "history.x=2", "The callbacks are 'a'."),
        ("[lr_step]", "lr_step=2", "set values as <callback>.<parameter>=... but got 'lr_step' with 2."),
        ("[]", "lr_step.step_size=2", "The callbacks are none."),
        ("{a: history}", "a.label=2", "Callback 'a' is made from the key 'history', so set its values as a.history.<p"),
        ("[{lr_step: {step_size: 2}}]", "lr_step.step_sise=2", "no parameter 'step_sise'. Did you mean 'step_size'?"),
        ("[{lr_step: {step_size: 2}}]", "lr_step.step_size=0", "Expected step_size to be a whole number of at least 1"),
        ("[{class_path: tests.test_cli.CallbackSetLossEma}]", "loss_ema.alfa=2", "alfa"),
    ],
)
def test_wrong_options_say_what_there_is(
    callbacks: str, option: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(adapter_of(callbacks), tmp_path, f"--trainer.callbacks.init_args.callbacks.{option}")
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ("[{early_stopping: {patiense: 2}}]", "no parameter 'patiense'. Did you mean 'patience'?"),
        ("[{early_stoping: {patience: 2}}]", "no callback 'early_stoping'. Did you mean 'early_stopping'?"),
        ("[early_stopping]", "'early_stopping' cannot be made without 'patience'"),
        ("[{early_stopping: {min_delta: 1}}]", "'early_stopping' cannot be made without 'patience'"),
        ("[{history: {}, progress: {}}]", "Expected a key of the dictionary with values"),
        ("{early_stopping: {patience: 2}}", "put keys with values into a list"),
        (
            "[{class_path: callbacksets.CallbackSetEarlyStopping, init_args: {patience: 2, monitr: loss}}]",
            "unexpected keyword argument 'monitr'",
        ),
        (
            "[{class_path: callbacksets.CallbackSetEarlyStopping, init_args: {patience: two}}]",
            "Expected patience to be a whole number of at least 1 but got 'two'",
        ),
        ("[{class_path: callbacksets.CallbackSetEarly}]", "'callbacksets.CallbackSetEarly' cannot be imported"),
    ],
)
def test_the_reason_comes_last(
    callbacks: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        run(adapter_of(callbacks), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert exit.value.code == 2
    assert message in lines[-1]
    assert len(lines) < 8


def test_the_example_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = types.ModuleType("train")
    train.CallbackSetLossEma = CallbackSetLossEma  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "train", train)
    [yaml] = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    adapter = run(yaml, tmp_path)
    assert list(adapter.states) == ["history", "lr_step", "loss_ema", "early_stopping"]
    assert adapter.sets["early_stopping"].patience == 5  # type: ignore[attr-defined]
