"""A LightningModule for the common case: a network, a loss, an optimizer and measures."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import unquote

import lightning as L
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from callbacksets.base import snake_case
from callbacksets.callbacks.predictions import as_batch
from callbacksets.checks import listed, plain, shown
from callbacksets.fit.context import datasets, first_output


class SupervisedModule(L.LightningModule):
    """Trains a network on inputs and targets.

    Batches are `(x, y)` or `{"x": x, "y": y}`. The module calls `network(x)`; if `x` is a tuple or dict of several
    inputs, it calls `network(*x)` or `network(**x)`. The loss function gets the complete output and `y`. The measures
    get the prediction and `y`. For each epoch the module logs the measures, as `train_<id>` and `val_<id>`, and after
    them `train_loss` and `val_loss`. These are means over samples. The number of samples in a batch is the length
    of the first tensor in `y`, else in `x`.

    The loss function also runs in validation. In mlr3torch it runs in training only, so a loss that counts its calls
    must skip those in which `torch.is_grad_enabled()` is False.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from torchmetrics.classification import MulticlassAccuracy
        >>> module = SupervisedModule(
        ...     torch.nn.Linear(64, 10),
        ...     torch.nn.CrossEntropyLoss(),
        ...     partial(torch.optim.AdamW, lr=1e-3),
        ...     measures_valid={"acc": MulticlassAccuracy(10, average="micro")},
        ... )
        >>> module(torch.zeros(2, 64)).shape
        torch.Size([2, 10])

    Args:
        network: The network.
        loss_fn: A callable `(network_output, y)` that returns the mean loss of the batch, a scalar.
        optimizer: A callable that takes the network's parameters and returns the optimizer, such as an optimizer
            class.
        measures_train: torchmetrics objects for training: one, a list, or a mapping of ids to them. In a list, the id
            is the class name in snake case. They are copied.
        measures_valid: The same for validation. Each loader has its own copies. By default, early stopping and plateau
            schedules monitor the first measure.
        prediction_encoder: A callable `(network_output, task)` that returns the prediction for the measures and
            `trainer.predict()`. `task` is the dataset, or the list or dict of datasets. By default the prediction is
            the output, or its first element.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If two measures have the same id, or if an id is empty, `loss` or the name of an attribute of
            `nn.ModuleDict`.

    mlr3torch: `LearnerTorch`.
    """

    def __init__(
        self,
        network: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        measures_train: Mapping[str, Metric] | Iterable[Metric] | Metric | None = None,
        measures_valid: Mapping[str, Metric] | Iterable[Metric] | Metric | None = None,
        prediction_encoder: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"Expected network to be a torch.nn.Module but got {shown(network)}.")
        callables = {"loss_fn": loss_fn, "optimizer": optimizer, "prediction_encoder": prediction_encoder}
        for argument, value in callables.items():
            if isinstance(value, Optimizer):
                made = f"functools.partial({type(value).__name__}, lr=...)"
                raise TypeError(
                    f"Expected {argument} to be a function that makes an optimizer but got an optimizer. Give {made}."
                )
            if isinstance(value, type) and issubclass(value, nn.Module):
                raise TypeError(f"Expected {argument} to be a function or a module but got a class.{_remedy(value)}")
            if not (callable(value) or (value is None and argument == "prediction_encoder")):
                raise TypeError(f"Expected {argument} to be callable but got {shown(value)}.")
        self.network = network
        self.loss_fn = loss_fn
        self.make_optimizer = optimizer
        self.measures_train: nn.ModuleDict = _by_id("measures_train", measures_train)
        self.measures_valid: nn.ModuleDict = _by_id("measures_valid", measures_valid)
        self.more_measures_valid: nn.ModuleList = nn.ModuleList()  # of further validation loaders
        self.prediction_encoder = prediction_encoder

    def forward(self, x: Any) -> Any:
        """The output of the network.

        Args:
            x: The input; several inputs as a tuple, list or dict.
        """
        if isinstance(x, Mapping):
            return self.network(**x)
        return self.network(*x) if isinstance(x, list | tuple) else self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log it with the training measures."""
        return self._step(batch, "train", "measures_train")

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the loss of a batch and the validation measures."""
        self._step(batch, "val", self._measures_of_loader(dataloader_idx))

    def _measures_of_loader(self, dataloader_idx: int) -> str:
        """The attribute with a validation loader's measures: the first has `measures_valid`, each other has copies."""
        if dataloader_idx == 0:
            return "measures_valid"
        while len(self.more_measures_valid) < dataloader_idx:
            copies = copy.deepcopy(self.measures_valid).train()  # or Lightning would leave them in eval mode
            for measure in cast(Iterable[Metric], copies.values()):
                measure.reset()
                measure.persistent(False)  # a resumed module has no copies until it validates
            self.more_measures_valid.append(copies)
        return f"more_measures_valid.{dataloader_idx - 1}"

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """The prediction for a batch of inputs, or of inputs and targets."""
        return self._encode(self(_inputs(batch)), self.trainer.predict_dataloaders)

    def configure_optimizers(self) -> Optimizer:
        """The optimizer of the network's parameters."""
        return self.make_optimizer(self.network.parameters())

    def _step(self, batch: Any, loop: str, where: str) -> Tensor:
        x, y = _unpacked(batch)
        y_hats = self(x)
        loss = self.loss_fn(y_hats, y)
        samples = _samples(x, y)
        if measures := cast(Mapping[str, Metric], self.get_submodule(where)):
            loader = self.trainer.train_dataloader if loop == "train" else self.trainer.val_dataloaders
            prediction = self._encode(apply_to_collection(y_hats, Tensor, Tensor.detach, allow_frozen=True), loader)
            if isinstance(prediction, Tensor) and isinstance(y, Tensor):
                prediction, y = as_batch(prediction, y)
            for key, measure in measures.items():
                measure.update(prediction, y)
                self.log(
                    f"{loop}_{unquote(key)}",
                    measure,
                    on_step=False,
                    on_epoch=True,
                    batch_size=samples,
                    # Lightning searches the name only once, perhaps before the measure existed
                    metric_attribute=f"{where}.{key}",
                )
        self.log(f"{loop}_loss", loss, on_step=False, on_epoch=True, batch_size=samples, sync_dist=True)
        return loss

    def _encode(self, y_hats: Any, loaders: Any) -> Any:
        if self.prediction_encoder is None:
            return first_output(y_hats)
        return self.prediction_encoder(y_hats, datasets(loaders))


def _by_id(argument: str, measures: Any) -> nn.ModuleDict:
    if measures is None:
        measures = {}
    elif isinstance(measures, Metric):
        measures = [measures]
    elif isinstance(measures, str) or not isinstance(measures, Iterable):
        raise TypeError(f"Expected {argument} to be torchmetrics objects but got {shown(measures)}.{_remedy(measures)}")
    has_ids = isinstance(measures, Mapping | nn.ModuleDict)
    pairs = measures.items() if has_ids else [(snake_case(type(measure).__name__), measure) for measure in measures]
    by_id = nn.ModuleDict()
    for given, measure in pairs:
        if not isinstance(given, str):
            raise TypeError(f"Expected the ids in {argument} to be strings but got {shown(given)}.")
        if not isinstance(measure, Metric):
            raise TypeError(
                f"Expected {argument} to be torchmetrics objects but got {shown(measure)}.{_remedy(measure)}"
            )
        id = plain(given)
        if _key(id) in by_id or id == "loss":
            what = (
                "a measure with the id 'loss', which is the name of the loss"
                if id == "loss"
                else f"two measures with the id {id!r}"
            )
            raise ValueError(f"{argument} has {what}. Give another id: {argument}={{'id': ...}}.")
        try:
            by_id[_key(id)] = measure.clone()
        except KeyError as error:
            raise ValueError(f"{argument} cannot have the id {id!r}: {error}") from None
    return by_id


def _key(id: str) -> str:
    """The name of the submodule for an id: an id may contain a dot, but the name of a submodule may not."""
    return id.replace("%", "%25").replace(".", "%2E")


def _remedy(value: object) -> str:
    if isinstance(value, str):
        return f" Give one by its id: {{{shown(value)}: torchmetrics.Metric(...)}}."
    return f" Call it: {value.__name__}(...)." if isinstance(value, type) else ""


def _inputs(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return batch.get("x", batch)
    return batch[0] if isinstance(batch, list | tuple) else batch


def _samples(x: Any, y: Any) -> int:
    """The number of samples in a batch: the length of the first tensor in `y`, else in `x`. No dimension means one."""
    lengths: list[int] = []
    apply_to_collection((y, x), Tensor, lambda one: lengths.append(len(one) if one.dim() else 1))
    return lengths[0] if lengths else 1


def _unpacked(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, Mapping) and {"x", "y"} <= set(batch):
        return batch["x"], batch["y"]
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return batch[0], batch[1]
    shape = listed(batch) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
    raise TypeError(f"Expected a batch to be (x, y) or a dict with 'x' and 'y' but got {shape}.")
