from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC
from torchmetrics.regression import MeanSquaredError

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory, SupervisedModule
from tests.helpers import Batches, quiet

SGD = partial(torch.optim.SGD, lr=0.1)


def states(module: SupervisedModule, *loaders: Any, **kwargs: Any) -> dict[str, list[Any]]:
    adapter = CallbackSetAdapter([CallbackSetHistory()])
    quiet(callbacks=[adapter], **({"max_epochs": 2} | kwargs)).fit(module, *loaders)
    return adapter.states["history"]


@pytest.mark.parametrize("form", [tuple, list, lambda pair: dict(zip("xy", pair, strict=True))])
def test_logs_measures_first_then_the_loss_averaged_over_samples(form: Any) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    x, y = torch.randn(10, 3), torch.arange(10) % 2
    batches = Batches([form((x[:8], y[:8])), form((x[8:], y[8:]))])  # of unequal size
    module = SupervisedModule(
        network, nn.CrossEntropyLoss(), partial(torch.optim.SGD, lr=0.0), None, {"acc": MulticlassAccuracy(2)}
    )
    history = states(module, batches, batches)
    assert list(history) == ["epoch", "train.loss", "valid.acc", "valid.loss"]
    assert history["valid.loss"] == pytest.approx([nn.functional.cross_entropy(network(x), y).item()] * 2)
    assert history["train.loss"] == pytest.approx(history["valid.loss"])
    assert history["valid.acc"] == pytest.approx([MulticlassAccuracy(2)(network(x), y).item()] * 2)


@pytest.mark.parametrize(
    "pack",
    [
        lambda y: y,
        lambda y: (y, y),
        lambda y: {"y": y, "also": y},
        lambda y: [{"y": y}],
        lambda y: ["text"] * len(y) if y.dim() else "text",
    ],
)
@pytest.mark.parametrize("single", [True, False])
def test_the_loss_is_averaged_over_samples_whatever_y_is(pack: Any, single: bool) -> None:
    network, losses = nn.Linear(3, 1), torch.tensor([1.0, 2.0, 3.0, 10.0])
    pairs = [(torch.ones(3), one) for one in losses]
    if not single:
        pairs = [(torch.ones(3, 3), losses[:3]), (torch.ones(1, 3), losses[3:])]  # the last batch has one sample
    values = iter([one.mean() for _, one in pairs] * 4)
    module = SupervisedModule(network, lambda y_hat, y: 0 * y_hat.sum() + next(values), SGD)
    batches = Batches([(x, pack(y)) for x, y in pairs])
    history = states(module, batches, batches, max_epochs=1, num_sanity_val_steps=0)
    assert history["train.loss"] == history["valid.loss"] == [4.0]


@pytest.mark.parametrize("classes", [1, 3])
def test_measures_of_samples_without_a_batch_dimension(classes: int) -> None:
    class Squeezing(nn.Linear):
        def forward(self, x: Any) -> Any:
            return super().forward(x).squeeze()

    measure = MeanSquaredError() if classes == 1 else MulticlassAccuracy(classes, average="micro")
    x, y = torch.randn(3, 2), torch.arange(3) if classes > 1 else torch.randn(3)
    forms = {"last of one": [(x[:2], y[:2]), (x[2:], y[2:])], "alone": list(zip(x, y, strict=True))}
    for pairs in forms.values():
        network = Squeezing(2, classes)
        expected = measure(network(x).detach(), y).item()
        module = SupervisedModule(
            network, lambda y_hat, y: y_hat.sum(), partial(torch.optim.SGD, lr=0.0), measure, {"it": measure}
        )
        history = states(module, Batches(pairs), Batches(pairs), max_epochs=1)
        assert history["valid.it"] == pytest.approx([expected])


@pytest.mark.parametrize("num_sanity_val_steps", [0, 2])
def test_each_validation_loader_has_its_own_measures(num_sanity_val_steps: int) -> None:
    x, zeros = torch.ones(4, 1), nn.Linear(1, 1)
    nn.init.zeros_(zeros.weight)
    nn.init.zeros_(zeros.bias)
    loss_fn = nn.MSELoss()
    mse = MeanSquaredError()
    mse.persistent(True)
    module = SupervisedModule(zeros, loss_fn, partial(torch.optim.SGD, lr=0.0), None, {"mse": mse})
    valid = [Batches([(x, i * x)]) for i in (1, 2, 3)]
    history = states(module, Batches([(x, x)]), valid, num_sanity_val_steps=num_sanity_val_steps)
    for i in range(3):
        assert (
            history[f"valid.mse/dataloader_idx_{i}"] == history[f"valid.loss/dataloader_idx_{i}"] == [(i + 1) ** 2] * 2
        )
    assert not [key for key in module.state_dict() if "more" in key]  # a new module could not load them


def test_several_inputs_and_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, a: Any, b: Any) -> Any:
            return {"other": a, "logits": (a + b) * self.weight}

    def loss_fn(y_hats: Any, y: Any) -> Any:
        return (y_hats["logits"] - y).pow(2).mean()

    a, b = torch.ones(4), torch.ones(4)
    module = SupervisedModule(Two(), loss_fn, SGD, measures_train=MeanSquaredError())
    for x in ({"a": a, "b": b}, (a, b), [a, b]):
        history = states(module, Batches([(x, a + b)]), max_epochs=1)
        assert history["train.mean_squared_error"] == [0]


def test_prediction_encoder_gets_output_and_dataset() -> None:
    data = TensorDataset(torch.tensor([[0.2], [0.9]]), torch.tensor([0, 1]))
    seen = []

    def encoder(network_output: Any, task: Any) -> Any:
        seen.append(task)
        return (network_output[:, 0] > 0.5).long()

    class Identity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Any) -> Any:
            return x + 0 * self.weight

    loader = DataLoader(data, batch_size=2)
    module = SupervisedModule(
        Identity(), lambda y_hat, y: y_hat.mean(), SGD, None, [MulticlassAccuracy(2)], prediction_encoder=encoder
    )
    assert states(module, loader, loader)["valid.multiclass_accuracy"] == [1, 1]
    assert set(seen) == {data}
    predicted = quiet().predict(module, DataLoader(data, batch_size=2))
    assert predicted is not None
    assert predicted[0].tolist() == [0, 1]


class Id(str, Enum):  # noqa: UP042
    ACC = "acc"


def test_ids_of_measures_with_dots_and_of_other_types() -> None:
    ids = ["top.1", "50%.acc", Id.ACC, np.str_("x")]
    measures = {id: MulticlassAccuracy(2) for id in ids}
    module = SupervisedModule(nn.Linear(3, 2), nn.CrossEntropyLoss(), SGD, measures, measures)
    batches = Batches([(torch.randn(4, 3), torch.arange(4) % 2)])
    history = states(module, batches, [batches, batches])
    plain = ["top.1", "50%.acc", "acc", "x"]
    assert list(history) == [
        "epoch",
        *(f"train.{id}" for id in [*plain, "loss"]),
        *(f"valid.{id}/dataloader_idx_{loader}" for loader in (0, 1) for id in [*plain, "loss"]),
    ]
    assert list(module.measures_valid) == ["top%2E1", "50%25%2Eacc", "acc", "x"]  # a submodule cannot have a dot


def test_measures_are_copied_and_keep_no_graph() -> None:
    measures = MetricCollection({"auroc": MulticlassAUROC(2)})
    module = SupervisedModule(nn.Linear(3, 2), nn.CrossEntropyLoss(), SGD, measures, measures)
    assert module.measures_train["auroc"] is not module.measures_valid["auroc"]
    batches = Batches([(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))])
    kept = []

    class Train(CallbackSet):
        def on_before_valid(self) -> None:
            kept.extend(self.ctx.measures_train["auroc"].preds)

    quiet(callbacks=[CallbackSetAdapter([Train()])], max_epochs=1).fit(module, batches)
    assert [prediction.requires_grad for prediction in kept] == [False]


LINEAR, LOSS = nn.Linear(1, 1), nn.MSELoss()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((nn.Linear, LOSS, SGD), TypeError, "Expected network to be a torch.nn.Module but got <class"),
        ((LINEAR, "mse", SGD), TypeError, "Expected loss_fn to be callable but got 'mse'"),
        ((LINEAR, LOSS, "adam"), TypeError, "Expected optimizer to be callable but got 'adam'"),
        ((LINEAR, LOSS, SGD, 3), TypeError, "Expected measures_train to be torchmetrics objects but got 3"),
        ((LINEAR, LOSS, SGD, "acc"), TypeError, r"but got 'acc'. Give one by its id: \{'acc': torchmetrics.Metric"),
        ((LINEAR, LOSS, SGD, MeanSquaredError), TypeError, r"Call it: MeanSquaredError\(...\)"),
        ((LINEAR, LOSS, SGD, ["acc"]), TypeError, r"but got 'acc'. Give one by its id: \{'acc': torchmetrics.Metric"),
        ((LINEAR, LOSS, SGD, None, {"a": MeanSquaredError}), TypeError, r"Call it: MeanSquaredError\(...\)"),
        (
            (LINEAR, LOSS, SGD, [MeanSquaredError(), MeanSquaredError()]),
            ValueError,
            "two measures with the id 'mean_squared_error'",
        ),
        ((LINEAR, LOSS, SGD, {"loss": MeanSquaredError()}), ValueError, "'loss', which is the name of the loss"),
        ((LINEAR, LOSS, SGD, None, None, 3), TypeError, "Expected prediction_encoder to be callable but got 3"),
    ],
)
def test_bad_input(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SupervisedModule(*arguments)


@pytest.mark.parametrize("batch", [torch.zeros(2, 1), {"x": torch.zeros(2, 1)}, [torch.zeros(2, 1)] * 3])
def test_batches_of_another_form(batch: Any) -> None:
    with pytest.raises(TypeError, match=r"Expected a batch to be \(x, y\) or a dict with 'x' and 'y' but got"):
        states(SupervisedModule(LINEAR, LOSS, SGD), Batches([batch]))
