"""The two sides of each task on the page "Coming from another library" give the same numbers.

Each side runs as it stands, on the data of the page, from the same weights. Only shuffling is off, which every library
draws in its own way. A library that is not installed is skipped: `pip install 'callbacksets[bench]'`.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from tests.scripts.user_code import ROOT

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the other libraries

PAGE = ROOT / "docs" / "coming-from.md"
Names = dict[str, Any]


def fences(section: str) -> list[tuple[str, str]]:
    """The blocks of code of a section: what follows `python` in the first line of the fence, and the code."""
    [text] = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^```python *(.*?)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def run(code: str, names: Names) -> None:
    torch.manual_seed(5)  # so that nn.Linear(4, 1) gets the same weights wherever it is made; runs with this stop early
    exec(compile(code.replace("shuffle=True", "shuffle=False"), str(PAGE), "exec"), names)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Names:
    """The names that the page defines first."""
    monkeypatch.chdir(tmp_path)
    [start] = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)[:1]
    names: Names = {}
    run(start, names)
    return names


def both(section: str, page: Names, theirs: Names = {}, prepare: Callable[[str], str] = str) -> tuple[Names, Names]:
    """What the two sides of a section leave: the first fence is that of the other library."""
    (title, other), (_, here), *_ = fences(section)
    assert title.removeprefix("title=").strip('"') in section
    other_names, here_names = {**page, **theirs}, dict(page)
    run(prepare(other), other_names)
    run(here, here_names)
    return other_names, here_names


def losses(names: Names) -> list[float]:
    """The history of our side; the run has stopped early, or there would be little to compare."""
    losses = names["adapter"].states["history"]["valid.loss"]
    assert len(losses) < 50
    return list(losses)


def equal(theirs: list[float], ours: list[float], tolerance: float = 1e-5) -> bool:
    return len(theirs) == len(ours) and all(
        math.isclose(one, other, rel_tol=tolerance) for one, other in zip(theirs, ours, strict=True)
    )


def final(network: nn.Module) -> list[float]:
    return [value for parameter in network.parameters() for value in parameter.detach().flatten().tolist()]


def rate(names: Names) -> float:
    return float(names["trainer"].optimizers[0].param_groups[0]["lr"])


def test_lightning(page: Names) -> None:
    theirs, ours = both("Lightning", page)
    assert equal(theirs["stop"].ratios, ours["adapter"].states["stop_on_gap"]["ratios"])
    assert final(theirs["module"]) == final(ours["module"])


def test_keras(page: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # read at the first import
    keras = pytest.importorskip("keras")

    def prepare(code: str) -> str:
        made, compiled = code.split("model.compile(")
        code = f"{made}start(model)\nmodel.compile({compiled}"
        return code.replace("epochs=50,", "epochs=50, verbose=0, shuffle=False,")

    def start(model: Any) -> None:
        torch.manual_seed(5)
        linear = nn.Linear(4, 1)
        model.set_weights([linear.weight.detach().T.numpy(), linear.bias.detach().numpy()])

    arrays = {"x": page["x"].numpy(), "y": page["y"].numpy()}
    theirs, ours = both("Keras", page, {"keras": keras, "start": start, **arrays}, prepare)
    assert equal(theirs["history"].history["val_loss"], losses(ours))
    assert equal(theirs["history"].history["loss"], ours["adapter"].states["history"]["train.loss"])
    assert float(theirs["model"].optimizer.learning_rate) == pytest.approx(rate(ours))
    assert rate(ours) < 0.2
    weight, bias = theirs["model"].get_weights()
    assert equal([*weight.flatten(), *bias], final(ours["module"]), 1e-4)


def test_fastai(page: Names) -> None:
    basics = pytest.importorskip("fastai.basics")
    everything = pytest.importorskip("fastai.callback.all")
    names = {name: getattr(basics, name) for name in ("DataLoaders", "Learner", "SGD")}
    names |= {name: getattr(everything, name) for name in ("Callback", "ReduceLROnPlateau")}
    rows: list[Any] = []
    page["print"] = lambda *values: rows.append(values)
    theirs, ours = both("fastai", page, names)
    assert [epoch for epoch, _ in rows] == [*range(20), *range(1, 21)]
    norms = [norm for _, norm in rows]
    assert equal(norms[:20], norms[20:], 1e-4)
    learned = theirs["learn"]
    assert equal([row[1] for row in learned.recorder.values], ours["adapter"].states["history"]["valid.loss"])
    assert learned.opt.hypers[-1]["lr"] == pytest.approx(rate(ours))
    assert rate(ours) < 0.2


def test_skorch(page: Names) -> None:
    skorch = pytest.importorskip("skorch")
    from skorch.callbacks import EarlyStopping, LRScheduler
    from skorch.helper import predefined_split

    names = {
        "NeuralNetRegressor": skorch.NeuralNetRegressor,
        "EarlyStopping": EarlyStopping,
        "LRScheduler": LRScheduler,
        "ReduceLROnPlateau": torch.optim.lr_scheduler.ReduceLROnPlateau,
        "predefined_split": predefined_split,
    }
    theirs, ours = both("skorch", page, names)
    net = theirs["net"]
    assert equal(net.history[:, "valid_loss"], losses(ours))
    assert equal(net.history[:, "train_loss"], ours["adapter"].states["history"]["train.loss"])
    assert net.optimizer_.param_groups[0]["lr"] == pytest.approx(rate(ours))
    assert rate(ours) < 0.2
    assert equal(final(net.module_), final(ours["module"].network))


class WithLoss(nn.Module):
    """A model as those of transformers are: it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.network(x)
        return {"loss": nn.functional.mse_loss(logits, labels), "logits": logits}


def test_hugging_face(page: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    in_order = torch.utils.data.SequentialSampler(page["data"])
    monkeypatch.setattr(transformers.Trainer, "_get_train_sampler", lambda *_: in_order)

    def collate(samples: Any) -> dict[str, torch.Tensor]:
        return {
            name: torch.stack(values) for name, values in zip(("x", "labels"), zip(*samples, strict=True), strict=True)
        }

    names = {name: getattr(transformers, name) for name in ("Trainer", "TrainingArguments", "EarlyStoppingCallback")}
    torch.manual_seed(5)
    theirs, ours = both(
        "Hugging Face's Trainer",
        page,
        names | {"model": WithLoss(), "collate": collate},
        lambda code: code.replace('output_dir="out",', 'output_dir="out", report_to="none", disable_tqdm=True,'),
    )
    trainer = theirs["trainer"]
    assert equal([row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row], losses(ours))
    assert equal(final(trainer.model), final(ours["module"].network))


def test_ignite(page: Names) -> None:
    pytest.importorskip("ignite")
    from ignite import engine, handlers, metrics

    names: Names = {"Events": engine.Events, "Loss": metrics.Loss}
    names |= {name: getattr(engine, name) for name in ("create_supervised_trainer", "create_supervised_evaluator")}
    names |= {name: getattr(handlers, name) for name in ("EarlyStopping", "ReduceLROnPlateauScheduler")}
    theirs, ours = both("Ignite", page, names)
    assert equal(theirs["losses"], losses(ours))
    assert theirs["optimizer"].param_groups[0]["lr"] == pytest.approx(rate(ours))
    assert rate(ours) < 0.2
    assert final(theirs["network"]) == pytest.approx(final(ours["module"].network), rel=1e-5)


def test_mixup_mixes_the_losses(page: Names) -> None:
    """A loss of mixed targets is the mean of two losses, which luz and fastai compute."""
    [code] = [code for _, code in fences("luz") if "CallbackSetMixup" in code]
    run(code, page)
    seen = []

    class Seen(page["CallbackSetMixup"]):  # type: ignore[misc]
        def on_batch_begin(self) -> None:
            super().on_batch_begin()
            seen.append(self.ctx.batch)

    module = page["SupervisedModule"](nn.Linear(4, 2), nn.CrossEntropyLoss(), torch.optim.Adam)
    adapter = page["CallbackSetAdapter"](Seen(classes=2))
    trainer = L.Trainer(max_epochs=1, callbacks=[adapter], logger=False, enable_checkpointing=False)
    trainer.fit(module, page["classes_loader"])
    (x, _), (mixed_x, mixed_y) = next(iter(page["classes_loader"])), seen[0]
    assert not torch.equal(x, mixed_x)
    assert torch.allclose(mixed_y.sum(1), torch.ones(8))
    logits = torch.randn(8, 2)
    ones = [nn.functional.cross_entropy(logits, torch.full((8,), label), reduction="none") for label in (0, 1)]
    expected = (mixed_y[:, 0] * ones[0] + mixed_y[:, 1] * ones[1]).mean()
    assert torch.allclose(nn.functional.cross_entropy(logits, mixed_y), expected)
