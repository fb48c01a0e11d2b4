"""`ctx`: every field before it exists and inside, what can be set, the batch, the output, the loss, the scores."""

import gc
import weakref
from collections import UserDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, MeanSquaredError
from torchmetrics.classification import BinaryAccuracy

from callbacksets import CallbackSet, CallbackSetAdapter, ContextTorch
from tests.helpers import RELEASE, Act, Batches, StageLog, Tiny, fit, ones, quiet, sampled

FIELDS = [name for name, field in vars(ContextTorch).items() if isinstance(field, property)]
SETTABLE = ("terminate", "batch", "last_scores_train", "last_scores_valid")


class Rich(Tiny):
    """Has what `ctx` looks for in a module."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        self.criterion = nn.MSELoss()
        self.prediction_encoder = lambda output, task: output


class AfterSetup(L.Callback):
    """Does something as soon as there is a context, before the first stage."""

    def __init__(self, action: Callable[[Any], Any]) -> None:
        self.action = action

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        self.action(next(callback.ctx for callback in trainer.callbacks if isinstance(callback, CallbackSetAdapter)))


def seen_at_setup(module: L.LightningModule, *names: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    look = AfterSetup(lambda ctx: seen.update({name: getattr(ctx, name) for name in names}))
    trainer = quiet(max_epochs=2, callbacks=[CallbackSetAdapter(StageLog()), look])
    trainer.fit(module, ones(3), ones(1))
    return seen


# --- fields ---------------------------------------------------------------------------------------------------------


def test_before_the_fields_exist() -> None:
    module = Tiny()
    elsewhere = ("y_hat", "y_hats", "outputs", "trainer", "callbacks")
    seen = seen_at_setup(module, *(name for name in FIELDS if name not in elsewhere))
    assert seen == {
        "learner": module,
        "network": module.network,
        "loss_fn": None,
        "optimizer": None,
        "optimizers": [],
        "loader_train": None,
        "loader_valid": None,
        "task_train": None,
        "task_valid": None,
        "epoch": 0,
        "total_epochs": 2,
        "total_steps": None,
        "step": None,
        "step_valid": None,
        "dataloader_idx": None,
        "global_step": 0,
        "batch": None,
        "last_loss": None,
        "last_scores_train": {},
        "last_scores_valid": {},
        "measures_train": {},
        "measures_valid": {},
        "terminate": False,
        "resumed": False,
        "validates": False,
        "eval_freq": 1,
        "device": torch.device("cpu"),
        "prediction_encoder": None,
    }


def test_inside_of_a_fit() -> None:
    module, data = Rich(), torch.ones(6, 2)
    log = StageLog(*FIELDS, stages=("on_batch_valid_end",))
    loaders = DataLoader(data, batch_size=2), DataLoader(data[:2], batch_size=2)
    act = Act()
    act.weight = 1
    adapter = CallbackSetAdapter({"act": act, "log": log})
    trainer = quiet(max_epochs=2, callbacks=[adapter])
    trainer.fit(module, *loaders)
    seen = dict(zip(FIELDS, log.at("batch_valid_end")[-1], strict=True))
    batch, y_hat, y_hats = seen.pop("batch"), seen.pop("y_hat"), seen.pop("y_hats")
    assert seen.pop("outputs") is None  # the validation step returns nothing
    assert torch.equal(batch, data[:2])
    assert y_hat is y_hats
    torch.testing.assert_close(y_hat, module.network(batch))
    assert isinstance(seen.pop("last_loss"), float)
    assert isinstance(seen["last_scores_train"].pop("loss"), float)
    assert isinstance(seen["last_scores_valid"].pop("loss"), float)
    optimizer = trainer.optimizers[0]
    assert list(seen.pop("callbacks").items()) == [("log", log), ("act", act)]
    assert seen == {
        "learner": module,
        "trainer": trainer,
        "network": module.network,
        "loss_fn": module.criterion,
        "optimizer": optimizer,
        "optimizers": [optimizer],
        "loader_train": loaders[0],
        "loader_valid": loaders[1],
        "task_train": data,
        "task_valid": loaders[1].dataset,
        "epoch": 2,
        "total_epochs": 2,
        "total_steps": 6,
        "step": 3,
        "step_valid": 1,
        "dataloader_idx": 0,
        "global_step": 6,
        "last_scores_train": {},
        "last_scores_valid": {},
        "measures_train": {"loss": None},
        "measures_valid": {"loss": None},
        "terminate": False,
        "resumed": False,
        "validates": True,
        "eval_freq": 1,
        "device": torch.device("cpu"),
        "prediction_encoder": module.prediction_encoder,
    }


def test_there_is_a_ctx_from_setup_to_exit() -> None:
    log = StageLog()
    seen = []
    assert log.ctx is None
    trainer = quiet(
        max_epochs=1, callbacks=[CallbackSetAdapter(log), AfterSetup(lambda ctx: seen.append(log.ctx is ctx))]
    )
    trainer.fit(Tiny(), ones(1))
    assert seen == [True]
    assert log.ctx is None


def test_a_stand_in_will_do() -> None:
    @dataclass
    class StandIn:
        epoch: int

    seen = []
    act = Act(on_epoch_end=lambda ctx: seen.append(ctx.epoch))
    act.ctx = StandIn(3)
    act.on_epoch_end()
    assert seen == [3]


@pytest.mark.parametrize(
    ("kwargs", "totals"),
    [
        ({"max_epochs": -1, "max_steps": -1, "limit_train_batches": 2}, (None, None)),
        ({"max_epochs": None, "max_steps": 5}, (None, 5)),
        ({"max_epochs": None}, (1000, 2000)),  # Lightning's own default
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:`max_epochs` was not set")  # on purpose
def test_totals_of_unlimited_runs(kwargs: dict[str, Any], totals: tuple[int | None, int | None]) -> None:
    log = StageLog("total_epochs", "total_steps", stages=("on_begin",))
    stop = Act(on_begin=lambda ctx: setattr(ctx, "terminate", True))
    fit([log, stop], **kwargs)
    assert log.at("begin") == [totals]


@pytest.mark.filterwarnings("ignore:Total length of .* across ranks is zero")  # on purpose
def test_an_empty_loader_makes_no_steps() -> None:
    seen = []
    fit(Act(on_begin=lambda ctx: seen.append(ctx.total_steps)), None, ones(0), max_epochs=-1, max_steps=4)
    assert seen == [0]


def test_the_total_is_unknown_where_the_window_of_accumulated_batches_changes() -> None:
    log = StageLog("total_steps", stages=("on_begin",))
    native = (GradientAccumulationScheduler({0: 1, 1: 2}),)
    fit(log, max_epochs=-1, max_steps=2, native=native)
    fit(log, max_epochs=2, native=native)
    assert log.at("begin") == [None, 4]


class Named(Tiny):
    """`network` is not a module here, and what computes lies deeper."""

    def __init__(self) -> None:
        super().__init__()
        del self.network
        self.network = "linear"
        self.model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        self.alternative = nn.L1Loss()

    def loss(self, batch: Any) -> torch.Tensor:
        return self.model(batch).mean()


class WithLossFn(Rich):
    def __init__(self) -> None:
        super().__init__()
        self.loss_fn = nn.functional.mse_loss


@pytest.mark.parametrize(
    ("make", "kwargs", "network", "loss_fn"),
    [
        (Tiny, {}, "network", None),
        (Named, {}, "", None),
        (Named, {"network": "model.0", "loss_fn": "alternative"}, "model.0", "alternative"),
        (Rich, {}, "network", "criterion"),
        (WithLossFn, {}, "network", "loss_fn"),
        (WithLossFn, {"loss_fn": "criterion"}, "network", "criterion"),
    ],
)
def test_network_and_loss_fn(make: Any, kwargs: dict[str, str], network: str, loss_fn: str | None) -> None:
    log = StageLog("network", "loss_fn", stages=("on_begin", "on_exit"))
    module = make()
    fit(log, module, adapter=kwargs)
    expected = (module.get_submodule(network), None if loss_fn is None else getattr(module, loss_fn))
    assert log.at("begin") == log.at("exit") == [expected]


def test_loaders_and_tasks_of_several_loaders() -> None:
    def loader(n: int) -> DataLoader[Any]:
        return DataLoader(torch.ones(n, 2))

    class Either(Tiny):
        def loss(self, batch: Any) -> torch.Tensor:
            return super().loss(batch["a"][0] if isinstance(batch, dict) else batch)

    train, valid = {"a": loader(2), "b": [loader(3)]}, [loader(1), loader(2)]
    train["a"] = [train["a"]]
    log = StageLog("loader_train", "loader_valid", "task_train", "task_valid", stages=("on_batch_end",))
    fit(log, Either(), train, valid)
    shown_train, shown_valid, task_train, task_valid = log.at("batch_end")[0]
    assert shown_train == train
    assert shown_valid == valid
    assert task_train == {"a": [train["a"][0].dataset], "b": [train["b"][0].dataset]}
    assert task_valid == [loader.dataset for loader in valid]


def test_without_validation_and_without_a_dataset() -> None:
    log = StageLog("loader_valid", "task_valid", stages=("on_begin", "on_end"))
    fit(log)
    assert log.at("begin") == log.at("end") == [(None, None)]


@pytest.mark.parametrize(("loaders", "task"), [(ones(1), None), ([ones(1), ones(1)], [None, None])])
def test_loaders_without_a_dataset(loaders: Any, task: Any) -> None:
    log = StageLog("task_valid", stages=("on_end",))
    fit(log, None, ones(1), loaders)
    assert log.at("end") == [task]


def test_no_optimizer_at_all() -> None:
    class Without(Tiny):
        def configure_optimizers(self) -> None:
            return None

    log = StageLog("optimizer", "optimizers", stages=("on_batch_end",))
    with pytest.warns(UserWarning, match="returned `None`"):
        fit(log, Without(), ones(1))
    assert log.at("batch_end") == [(None, [])]


# --- what can be set ------------------------------------------------------------------------------------------------


REMEDIES = {
    "total_epochs": r"set ctx\.terminate = True",
    "total_steps": r"set ctx\.terminate = True",
    "epoch": r"The Trainer counts.*ctx\.terminate",
    "step": "The Trainer counts",
    "global_step": "The Trainer counts",
    "loss_fn": r"Wrap the module's own in on_begin: ctx\.learner\.loss_fn = ",
    "network": "in place",
    "optimizer": "param_groups in place",
    "y_hat": "in place",
    "last_loss": r"training_step\(\) returned",
    "minimize": "",
}


@pytest.mark.parametrize("name", [*(name for name in FIELDS if name not in SETTABLE), "minimize"])
def test_read_only_fields_say_what_to_do_instead(name: str) -> None:
    message = rf"ctx\.{name} cannot be set\. .*{REMEDIES.get(name, '')}.*You can set 'terminate', 'batch', "
    with pytest.raises(AttributeError, match=message) as error:
        fit(Act(on_begin=lambda ctx: setattr(ctx, name, 1)))
    assert "on_begin" in error.value.__notes__[0]


def test_the_loss_function_can_be_wrapped_as_the_error_says() -> None:
    class Supervised(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.loss_fn = lambda output: output.pow(2).mean()

        def loss(self, batch: Any) -> torch.Tensor:
            return self.loss_fn(self.network(batch))

    def wrap(ctx: Any) -> None:
        inner = ctx.loss_fn
        ctx.learner.loss_fn = lambda output: inner(output) * 0 + 7

    log = StageLog("last_loss", stages=("on_batch_end",))
    fit([Act(on_begin=wrap), log], Supervised(), ones(1))
    assert log.at("batch_end") == [7.0]


def test_fields_of_ones_own_are_shared_within_a_run() -> None:
    seen = []
    sets = {
        "writes": Act(on_begin=lambda ctx: setattr(ctx, "mine", 1)),
        "adds": Act(on_epoch_begin=lambda ctx: setattr(ctx, "mine", ctx.mine + 1)),
        "reads": Act(on_exit=lambda ctx: seen.append(ctx.mine)),
    }
    adapter = fit(sets, max_epochs=2)
    assert seen == [3]
    del adapter._sources["writes"]
    with pytest.raises(AttributeError, match="ctx has no field 'mine'"):
        fit(adapter)  # nothing is left of the fit before


@pytest.mark.parametrize(
    ("name", "near"),
    [("last_los", "last_loss"), ("score_valid", None), ("optimiser", "optimizer"), ("yhat", "y_hat"), ("own", None)],
)
def test_typos(name: str, near: str | None) -> None:
    with pytest.raises(AttributeError, match=f"ctx has no field '{name}'") as error:
        fit(Act(on_begin=lambda ctx: getattr(ctx, name)))
    assert near is None or f"Did you mean '{near}'?" in str(error.value)
    assert "last_loss, " in str(error.value)


def test_a_typo_is_likened_to_fields_of_ones_own() -> None:
    with pytest.raises(AttributeError, match="Did you mean 'running_mean'"):
        fit(Act(on_begin=lambda ctx: setattr(ctx, "running_mean", 1), on_end=lambda ctx: ctx.runing_mean))


def test_an_attribute_error_inside_of_a_field_is_seen() -> None:
    def lose_it(ctx: Any) -> None:
        del ctx.learner.network
        _ = ctx.network

    with pytest.raises(AttributeError, match="Tiny has no submodule 'network' for the adapter's argument network"):
        fit(Act(on_epoch_begin=lose_it), adapter={"network": "network"})


def test_an_attribute_error_of_an_outputs_own_is_seen() -> None:
    class Output(UserDict):
        def values(self) -> Any:
            return self.no_such_thing

    class Outputs(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return Output(a=super().forward(x))

    class Module(Tiny):
        def loss(self, batch: Any) -> torch.Tensor:
            return self.network(batch)["a"].mean()

    with pytest.raises(AttributeError, match="no_such_thing"):
        fit(Act(on_batch_end=lambda ctx: ctx.y_hat), Module(Outputs(2, 1)))


def test_scores_can_be_replaced() -> None:
    log = StageLog("last_scores_train", "last_scores_valid", stages=("on_epoch_end",))

    def replace(ctx: Any) -> None:
        ctx.last_scores_valid = {"a": 1.0, "b": 2.0}
        ctx.last_scores_train = None

    last = Act(on_epoch_end=lambda ctx: seen.append((ctx.last_scores_valid[1], ctx.last_scores_valid)))
    seen: list[Any] = []
    fit({"act": Act(on_valid_end=replace), "log": log, "last": last}, None, ones(1), ones(1))
    assert log.at("epoch_end") == [(None, {"a": 1.0, "b": 2.0})]
    assert seen[0][0] == 2.0
    assert seen[0][1] is log.at("epoch_end")[0][1]  # the same mapping until replaced
    with pytest.raises(TypeError, match=r"Expected ctx\.last_scores_valid to be a mapping.*got 3"):
        fit(Act(on_valid_end=lambda ctx: setattr(ctx, "last_scores_valid", 3)), None, ones(1), ones(1))


# --- the batch ------------------------------------------------------------------------------------------------------


@dataclass
class Pair:
    x: torch.Tensor
    y: torch.Tensor


NamedPair = namedtuple("NamedPair", "x y")


class Custom:
    """No collection, and nothing that Lightning knows to move."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


class Keeping(Tiny):
    """Keeps what its steps were called with."""

    def __init__(self, pick: Callable[[Any], torch.Tensor] = lambda batch: batch) -> None:
        super().__init__()
        self.pick = pick
        self.seen: list[Any] = []

    def loss(self, batch: Any) -> torch.Tensor:
        self.seen.append(batch)
        return super().loss(self.pick(batch))


def first(batch: Any) -> torch.Tensor:
    if isinstance(batch, dict):
        return batch["x"]
    return batch.x if isinstance(batch, Pair | Custom) else batch if isinstance(batch, torch.Tensor) else batch[0]


one, nine = torch.ones(2, 2), torch.full((2, 2), 9.0)
EXCHANGES = {
    "tensor": (lambda: one.clone(), lambda batch: nine),
    "tensor for a tuple": (lambda: one.clone(), lambda batch: (nine, one)),
    "list": (lambda: [one.clone(), one.clone()], lambda batch: [nine, one]),
    "list for a tuple": (lambda: [one.clone(), one.clone()], lambda batch: (nine, one)),
    "list for a shorter": (lambda: [one.clone(), one.clone()], lambda batch: [nine]),
    "list for itself": (lambda: [nine, one.clone()], lambda batch: batch),
    "tuple": (lambda: (one.clone(), one.clone()), lambda batch: (nine, one)),
    "tuple for a list": (lambda: (one.clone(), one.clone()), lambda batch: [nine, one]),
    "tuple for itself": (lambda: (nine, one.clone()), lambda batch: batch),
    "named tuple": (lambda: NamedPair(one.clone(), one.clone()), lambda batch: batch._replace(x=nine)),
    "list for a dict": (lambda: [one.clone(), one.clone()], lambda batch: {"x": nine}),
    "dict": (lambda: {"x": one.clone(), "y": one.clone()}, lambda batch: {"x": nine}),
    "dict for itself": (lambda: {"x": nine}, lambda batch: batch),
    "dict for more": (lambda: {"x": one.clone()}, lambda batch: {"new": one, **batch, "x": nine}),
    "dict for a tensor": (lambda: {"x": one.clone()}, lambda batch: nine),
    "dataclass": (lambda: Pair(one.clone(), one.clone()), lambda batch: Pair(nine, one)),
    "custom object": (lambda: Custom(one.clone()), lambda batch: Custom(nine)),
}


def exchange(change: Callable[[Any], Any], ctx: Any) -> None:
    ctx.batch = change(ctx.batch)


@pytest.mark.parametrize("case", EXCHANGES)
def test_what_is_assigned_to_the_batch_reaches_the_forward_call(case: str) -> None:
    make, change = EXCHANGES[case]
    train, valid = make(), make()
    before = [first(train).clone(), first(valid).clone()]
    size = len(train) if isinstance(train, list | dict) else None
    do = partial(exchange, change)
    log = StageLog("batch", stages=("on_after_backward", "on_batch_end", "on_batch_valid_end"))
    module = Keeping(first)
    act = Act(on_batch_begin=do, on_batch_valid_begin=do)
    fit([act, log], module, Batches([train]), Batches([valid]), max_epochs=2, num_sanity_val_steps=0)
    assert len(module.seen) == 4
    assert all(torch.equal(first(batch), nine) for batch in module.seen)
    assert len(log.rows) == 6
    assert all(torch.equal(first(batch), nine) for _, batch in log.rows)
    if case == "dict":
        assert [list(batch) for batch in module.seen] == [["x"]] * 4
    assert torch.equal(first(train), before[0])  # what the loader hands out again is as it was
    assert torch.equal(first(valid), before[1])
    assert size is None or len(train) == len(valid) == size


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: [one.clone(), one.clone()], lambda batch: batch.__setitem__(0, nine)),
        (lambda: {"x": one.clone()}, lambda batch: batch.update(x=nine)),
        (lambda: Pair(one.clone(), one.clone()), lambda batch: setattr(batch, "x", nine)),
        (lambda: (one.clone(), one.clone()), lambda batch: batch[0].copy_(nine)),
        (lambda: one.clone(), lambda batch: batch.copy_(nine)),
    ],
    ids=["list", "dict", "dataclass", "tensor in a tuple", "tensor"],
)
def test_what_is_changed_in_the_batch_reaches_the_forward_call(make: Any, change: Any) -> None:
    module = Keeping(first)
    act = Act(on_batch_begin=lambda ctx: change(ctx.batch), on_batch_valid_begin=lambda ctx: change(ctx.batch))
    fit(act, module, Batches([make()]), Batches([make()]), num_sanity_val_steps=0)
    assert [first(batch)[0, 0].item() for batch in module.seen] == [9, 9]


def test_one_callback_sees_what_the_one_before_has_assigned() -> None:
    module = Keeping()
    double = partial(exchange, lambda batch: batch * 2)
    sets = {name: Act(on_batch_begin=double, on_batch_valid_begin=double) for name in "ab"}
    fit(sets, module, ones(2), ones(1), num_sanity_val_steps=0)
    assert [batch[0, 0].item() for batch in module.seen] == [4, 8, 4]


def test_an_exchange_is_for_one_batch() -> None:
    def at_first(ctx: Any) -> None:
        if ctx.step == 1:
            ctx.batch = nine

    module = Keeping()
    fit(Act(on_batch_begin=at_first), module, ones(3), ones(1), num_sanity_val_steps=0)
    assert [batch[0, 0].item() for batch in module.seen] == [9, 2, 3, 1]


def test_the_hooks_of_the_module_see_what_was_put_into_a_list() -> None:
    class Hooked(Keeping):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.seen.append(batch)

    module = Hooked(first)
    fit(Act(on_batch_begin=partial(exchange, lambda batch: [nine])), module, Batches([[one]]))
    assert [first(batch)[0, 0].item() for batch in module.seen] == [9, 9]


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")  # on purpose
def test_a_batch_that_the_step_fetches_cannot_be_assigned() -> None:
    class Fetches(Tiny):
        def training_step(self, dataloader_iter: Any) -> torch.Tensor:  # type: ignore[override]
            return self.loss(next(dataloader_iter)[0])

    act = Act(on_batch_begin=lambda ctx: setattr(ctx, "batch", one))
    with pytest.raises(RuntimeError, match=r"ctx\.batch cannot be assigned.* dataloader_iter"):
        fit(act, Fetches(), ones(2))


@pytest.mark.parametrize(
    "stage",
    ["begin", "epoch_begin", "after_backward", "batch_end", "before_valid", "batch_valid_end", "valid_end", "end"],
)
def test_elsewhere_assigning_the_batch_is_refused(stage: str) -> None:
    act = Act(**{f"on_{stage}": lambda ctx: setattr(ctx, "batch", one)})
    with pytest.raises(
        RuntimeError, match=r"ctx\.batch can only be assigned in on_batch_begin and on_batch_valid_begin"
    ):
        fit(act, None, ones(1), ones(1))


# --- the output -----------------------------------------------------------------------------------------------------


class Shaped(nn.Linear):
    """A network whose output has any form."""

    def __init__(self, shape: Callable[[torch.Tensor], Any]) -> None:
        super().__init__(2, 1)
        self.shape = shape

    def forward(self, x: torch.Tensor) -> Any:
        return self.shape(super().forward(x))


class Anything(Tiny):
    """Takes any form of output."""

    def loss(self, batch: Any) -> torch.Tensor:
        tensors: list[torch.Tensor] = []
        torch.utils._pytree.tree_map_only(torch.Tensor, tensors.append, self.network(batch))
        return tensors[0].pow(2).mean()


OUTPUTS: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]] = {
    "tensor": (lambda out: out, lambda outputs: outputs),
    "tuple": (lambda out: (out, out + 1), lambda outputs: outputs[0]),
    "named tuple": (lambda out: NamedPair(out, out + 1), lambda outputs: outputs.x),
    "list": (lambda out: [out, out + 1], lambda outputs: outputs[0]),
    "dict": (lambda out: {"first": out, "second": out + 1}, lambda outputs: outputs["first"]),
    "dict with logits": (lambda out: {"loss": out.mean(), "logits": out}, lambda outputs: outputs["logits"]),
}


@pytest.mark.parametrize("form", OUTPUTS)
def test_y_hats_is_the_output_and_y_hat_its_first(form: str) -> None:
    shape, pick = OUTPUTS[form]
    log = StageLog(
        "y_hats", "y_hat", "batch", stages=("on_after_backward", "on_batch_end", "on_batch_valid_end", "on_valid_end")
    )
    module = Anything(Shaped(shape))
    before = [parameter.detach().clone() for parameter in module.network.parameters()]
    fit(log, module, ones(1), Batches([ones(3).batches[2]]))
    for stage, y_hats, y_hat, batch in log.rows:
        assert type(y_hats) is type(shape(torch.ones(2, 1)))
        assert y_hat is pick(y_hats)
        weight, bias = module.network.parameters() if "valid" in stage else before
        torch.testing.assert_close(y_hat, nn.functional.linear(batch, weight, bias))
    assert [batch[0, 0].item() for *_, batch in log.rows] == [1, 1, 3, 3]


class Deep(Tiny):
    """An encoder and a head; called through the module itself, or head first."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 1)))
        self.head = nn.Linear(1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.network(x))

    def loss(self, batch: Any) -> torch.Tensor:
        return self(batch).pow(2).mean()


class Unnamed(Deep):
    def __init__(self) -> None:
        super().__init__()
        self.body = self.network
        del self.network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@pytest.mark.parametrize(
    ("make", "name", "width"),
    [(Deep, None, 1), (Deep, "network.0", 5), (Deep, "head", 3), (Deep, "", 3), (Unnamed, None, 3)],
)
def test_the_network_is_the_one_named(make: Any, name: str | None, width: int) -> None:
    log = StageLog("y_hat", stages=("on_after_backward", "on_batch_end", "on_batch_valid_end"))
    fit(log, make(), ones(1), ones(1), adapter={"network": name})
    assert [tuple(y_hat.shape) for _, y_hat in log.rows] == [(2, width)] * 3


def test_a_network_that_is_exchanged_in_begin() -> None:
    log = StageLog("y_hat", stages=("on_batch_end", "on_batch_valid_end"))
    act = Act(on_begin=lambda ctx: setattr(ctx.learner, "network", nn.Linear(2, 4)))
    fit({"act": act, "log": log}, None, ones(1), ones(1))
    assert [tuple(y_hat.shape) for _, y_hat in log.rows] == [(2, 4)] * 2


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("on_begin", "There is no network output yet: no batch has started"),
        ("on_epoch_begin", "There is no network output yet: no batch has started"),
        ("on_batch_begin", "There is no network output yet: on_batch_begin runs before the forward call"),
        ("on_batch_valid_begin", "There is no network output yet: on_batch_valid_begin runs before the forward"),
    ],
)
@pytest.mark.parametrize("field", ["y_hat", "y_hats"])
def test_reading_the_output_too_early_says_so(stage: str, message: str, field: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        fit(Act(**{stage: lambda ctx: getattr(ctx, field)}), None, ones(1), ones(1))


def test_no_output_of_the_batch_before() -> None:
    def second(ctx: Any) -> None:
        if ctx.step == 2 or ctx.step_valid == 2:
            _ = ctx.y_hat

    for stage in ("on_batch_begin", "on_batch_valid_begin"):
        with pytest.raises(RuntimeError, match=f"{stage} runs before the forward call"):
            fit(Act(**{stage: second}), None, ones(3), ones(3))


@pytest.mark.parametrize("stage", ["on_after_backward", "on_batch_end", "on_before_valid", "on_batch_valid_end"])
def test_a_network_that_was_not_called_says_how_to_name_it(stage: str) -> None:
    class Beside(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(2, 1)

        def loss(self, batch: Any) -> torch.Tensor:
            return self.other(batch).mean()

    act = Act(**{stage: lambda ctx: ctx.y_hat})
    message = (
        r"The step did not call the network \(Linear\).*"
        r"CallbackSetAdapter\(\.\.\., network=\.\.\.\)\. The module has 'network', 'other'\."
    )
    with pytest.raises(RuntimeError, match=message):
        fit(act, Beside(), ones(1), ones(1))
    fit(act, Beside(), ones(1), ones(1), adapter={"network": "other"})
    with pytest.raises(RuntimeError, match=r"did not call the network \(Linear network\)"):
        fit(act, Beside(), ones(1), ones(1), adapter={"network": "network"})


@pytest.fixture
def _only_new_objects() -> Iterator[None]:
    """Collecting garbage looks at these only. With all that the tests before have imported, it takes long."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.usefixtures("_only_new_objects")
@pytest.mark.parametrize("form", sampled(OUTPUTS, 6, RELEASE))
def test_an_output_does_not_live_until_the_next_forward_call(form: str) -> None:
    alive: list[int] = []
    references: list[weakref.ref[torch.Tensor]] = []

    def keep(output: torch.Tensor) -> Any:
        shaped = OUTPUTS[form][0](output)
        torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: references.append(weakref.ref(x)), shaped)
        return shaped

    class Checked(Shaped):
        def forward(self, x: torch.Tensor) -> Any:
            gc.collect()
            alive.append(sum(reference() is not None for reference in references))
            return super().forward(x)

    read = Act(**{f"on_{stage}": lambda ctx: ctx.y_hat for stage in ("after_backward", "batch_end", "batch_valid_end")})
    fit(read, Anything(Checked(keep)), ones(2), ones(2), max_epochs=2, num_sanity_val_steps=0)
    assert alive == [0] * 8


# --- what the step returned ------------------------------------------------------------------------------------------


class Returns(Tiny):
    """Its steps return more than a loss."""

    def __init__(self, form: Callable[[torch.Tensor, Any], Any]) -> None:
        super().__init__()
        self.form = form

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": self.loss(batch), "more": self.form(self.network(batch), batch)}

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.form(self.network(batch), batch)


@pytest.mark.parametrize(
    ("form", "pick"),
    [
        (lambda out, batch: out, lambda more: more),
        (lambda out, batch: {"preds": out, "names": ["a", "b"]}, lambda more: more["preds"]),
        (lambda out, batch: [(out, batch)], lambda more: more[0][0]),
        (NamedPair, lambda more: more.x),
        (Pair, lambda more: more.x),
    ],
    ids=["tensor", "dict", "nested", "named tuple", "dataclass"],
)
def test_outputs_is_what_the_step_returned(form: Any, pick: Callable[[Any], torch.Tensor]) -> None:
    after = ("on_after_backward", "on_batch_end", "on_batch_valid_end", "on_valid_end", "on_epoch_end")
    log = StageLog("outputs", "y_hat", stages=after)
    fit(log, Returns(form), ones(2), ones(1))
    assert {stage for stage, *_ in log.rows} == {stage.removeprefix("on_") for stage in after}
    for stage, outputs, y_hat in log.rows:
        in_training = stage in ("after_backward", "batch_end")
        more = outputs["more"] if in_training else outputs
        assert type(more) is type(form(one, one))
        assert torch.equal(pick(more), y_hat)
        assert not pick(more).requires_grad
        assert not in_training or not outputs["loss"].requires_grad


def test_outputs_of_a_step_that_returns_the_loss_or_nothing() -> None:
    log = StageLog("outputs", "last_loss", stages=("on_batch_end", "on_batch_valid_end"))
    fit(log, None, ones(1), ones(1))
    [(outputs, loss), (nothing, _)] = [row[1:] for row in log.rows]
    assert outputs.item() == loss
    assert not outputs.requires_grad
    assert nothing is None


def test_the_module_gets_its_own_outputs() -> None:
    class Looks(Returns):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append(outputs)

    seen: list[Any] = []
    act = Act(on_after_backward=lambda ctx: ctx.outputs)
    fit(act, Looks(lambda out, batch: out), ones(1))
    assert seen[0]["more"].shape == (2, 1)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("on_begin", "There is no output of the step yet: no batch has started"),
        ("on_batch_begin", "There is no output of the step yet: on_batch_begin runs before the forward call"),
        ("on_batch_valid_begin", "There is no output of the step yet: on_batch_valid_begin runs before the forward"),
    ],
)
def test_reading_outputs_too_early_says_so(stage: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        fit(Act(**{stage: lambda ctx: ctx.outputs}), None, ones(1), ones(1))


# --- several loaders ------------------------------------------------------------------------------------------------


def test_the_loader_of_a_validation_batch() -> None:
    log = StageLog("dataloader_idx", "step_valid")
    fit(log, None, ones(1), [ones(2), ones(1)])
    for stage in ("batch_valid_begin", "batch_valid_end"):
        assert log.at(stage) == [(0, 1), (0, 2), (1, 1)]
    others = [index for stage, index, _ in log.rows if not stage.startswith("batch_valid")]
    assert others == [None] * len(others)


# --- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [lambda loss: loss, lambda loss: {"loss": loss, "more": 1}], ids=["tensor", "dict"])
@pytest.mark.parametrize("window", [1, 3, 7])
def test_the_loss_is_what_the_step_returned_to_the_last_bit(form: Any, window: int) -> None:
    losses: list[float] = []

    class Returning(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            losses.append(loss.item())
            return form(loss)

    torch.manual_seed(1)
    batches = Batches([torch.randn(2, 2) for _ in range(20)])
    log = StageLog("step", "last_loss")
    fit(log, Returning(), batches, ones(1), accumulate_grad_batches=window)
    before = [None, *losses]
    assert log.at("batch_end") == list(enumerate(losses, 1))
    assert log.at("batch_begin") == [(step, before[step - 1]) for step in range(1, 21)]
    steps = [*range(window, 20, window), 20]
    assert log.at("after_backward") == [(step, before[step - 1]) for step in steps]
    assert log.at("batch_valid_end") == log.at("epoch_end") == log.at("exit") == [(20, losses[-1])]


def test_the_loss_stays_on_the_device_until_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    item = torch.Tensor.item

    def watched(tensor: torch.Tensor) -> Any:
        read.append(tensor)
        return item(tensor)

    class Plain(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch)

    def one_read(ctx: Any) -> None:
        read.clear()
        assert ctx.last_loss == ctx.last_loss
        assert len(read) == 1

    monkeypatch.setattr(torch.Tensor, "item", watched)
    fit(Act(on_batch_end=lambda ctx: None, on_end=one_read), Plain(), ones(3))
    read.clear()
    fit(Act(on_batch_end=lambda ctx: None), Plain(), ones(3))
    assert len(read) <= 1  # at the end, for the state of the run


# --- scores by name and position, and their direction ---------------------------------------------------------------


class Measured(Tiny):
    """Logs metrics and numbers; with two validation loaders, for each."""

    def __init__(self) -> None:
        super().__init__()
        self.acc, self.mse, self.mean = BinaryAccuracy(), MeanSquaredError(), MeanMetric()
        self.train_acc = BinaryAccuracy()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.train_acc(torch.tensor([0.9]), torch.tensor([1]))
        self.log("train_f", self.train_acc, on_step=False, on_epoch=True, batch_size=1)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.acc(torch.tensor([0.9]), torch.tensor([1]))
        self.mse(torch.tensor([0.9]), torch.tensor([1.0]))
        self.mean(torch.tensor([0.9]))
        for name, value in {
            "val_acc": self.acc,
            "val_mse": self.mse,
            "val_mean": self.mean,
            "mean_loss/val": self.mean,
            "val_loss": torch.tensor(0.5),
            "val_Loss_2": torch.tensor(0.25),
        }.items():
            self.log(name, value, on_epoch=True, batch_size=1)


DIRECTIONS: dict[str | int, bool | None] = {
    "acc": False,
    "val_acc": False,
    0: False,
    "mse": True,
    "val_mse": True,
    1: True,
    "mean": None,  # the metric does not say, and the name neither
    "mean_loss": True,  # the metric does not say, but the name does
    "mean_loss/val": True,
    "loss": True,
    "val_loss": True,
    4: True,
    "Loss_2": None,
    -1: None,
    "f": False,  # in training only
    "train_f": False,
    "added_loss": True,  # by a callback, to the scores only
    "added": None,
    "unheard_of": None,
    "unheard_of_loss": True,
    99: None,
}


def test_minimize() -> None:
    seen: dict[str | int, bool | None] = {}

    def look(ctx: Any) -> None:
        ctx.last_scores_valid |= {"added_loss": 1.0, "added": 1.0}
        seen.update({name: ctx.minimize(name) for name in DIRECTIONS})
        seen[""] = ctx.minimize()

        assert ctx.minimize(None) is ctx.minimize(1.5) is None

    fit(Act(on_valid_end=look), Measured(), ones(1), ones(1))
    assert seen == DIRECTIONS | {"": False}


def test_minimize_in_begin() -> None:
    seen = []
    look = Act(on_begin=lambda ctx: seen.append([ctx.minimize(), ctx.minimize("acc"), ctx.minimize("loss")]))
    fit(look, Measured(), ones(1), ones(1))
    fit(look, Measured(), ones(1), ones(1), num_sanity_val_steps=0)
    assert seen == [[False, False, True], [None, None, True]]


def test_minimize_with_several_validation_loaders() -> None:
    names = ["loss/dataloader_idx_1", "val_loss/dataloader_idx_0", "loss"]
    seen = []
    look = Act(on_valid_end=lambda ctx: seen.extend(ctx.minimize(name) for name in [*names, 0]))
    fit(look, None, ones(1), [ones(1), ones(1)])
    assert seen == [True, True, True, True]


def test_positions_and_logged_names() -> None:
    errors = []

    def look(ctx: Any) -> None:
        scores, measures = ctx.last_scores_valid, ctx.measures_valid
        assert list(scores) == list(measures) == ["acc", "mse", "mean", "mean_loss", "loss", "Loss_2"]
        assert scores["acc"] == scores["val_acc"] == scores[0] == scores[-6] == 1.0
        assert scores["loss"] == scores["val_loss"] == scores[4] == 0.5
        assert measures["mse"] is measures["val_mse"] is measures[1] is ctx.learner.mse
        assert measures["loss"] is measures[4] is None
        assert ctx.last_scores_train["train_loss"] == ctx.last_scores_train[0]
        assert ctx.measures_train["train_f"] is ctx.measures_train[1] is ctx.learner.train_acc
        for mapping, key in ((scores, 6), (measures, -7), (scores, "acccc"), (measures, "train_loss")):
            with pytest.raises(LookupError) as error:
                _ = mapping[key]
            errors.append(str(error.value.args[0]))

    fit(Act(on_valid_end=look), Measured(), ones(1), ones(1))
    known = "'acc', 'mse', 'mean', 'mean_loss', 'loss', 'Loss_2'"
    assert errors[0] == f"Position 6 does not exist. There are 6 names: {known}."
    assert errors[1].startswith("Position -7 does not exist. There are 6 names")
    assert errors[2] == f"'acccc' does not exist. Did you mean 'acc'? There are {known}."
    assert errors[3].startswith("'train_loss' does not exist.")


def test_logged_names_outlive_a_replaced_mapping() -> None:
    def scale(ctx: Any) -> None:
        ctx.last_scores_valid = {name: 2 * score for name, score in ctx.last_scores_valid.items()}

    log = StageLog("last_scores_valid", stages=("on_epoch_end",))
    fit({"scale": Act(on_valid_end=scale), "log": log}, Measured(), ones(1), ones(1))
    scores = log.at("epoch_end")[0]
    assert scores["val_loss"] == scores["loss"] == 1.0


def test_in_an_epoch_that_did_not_validate_there_are_no_validation_scores() -> None:
    log = StageLog("last_scores_valid", stages=("on_before_valid", "on_epoch_end", "on_batch_end", "on_end"))
    fit(log, None, Batches([one]), Batches([one]), max_epochs=3, check_val_every_n_epoch=2)
    kinds = [(stage, None if scores is None else list(scores)) for stage, scores in log.rows]
    assert kinds == [
        ("batch_end", []),
        ("before_valid", []),
        ("epoch_end", None),
        ("batch_end", None),
        ("before_valid", None),
        ("epoch_end", ["loss"]),
        ("batch_end", ["loss"]),
        ("before_valid", ["loss"]),
        ("epoch_end", None),
        ("end", None),
    ]


def test_the_repr_says_where_training_is() -> None:
    seen = []
    fit(Act(on_batch_end=lambda ctx: seen.append(repr(ctx))), max_epochs=2)
    assert seen[-1] == "<ContextTorch: epoch 2/2, step 2, global_step 4>"


def test_every_callback_of_a_run_has_the_same_ctx() -> None:
    class Same(CallbackSet):
        def on_end(self) -> None:
            assert {id(callback.ctx) for callback in self.ctx.callbacks.values()} == {id(self.ctx)}

    fit([Same(), StageLog()])


@pytest.mark.parametrize("value", [torch.tensor(1.0) > 0, np.float64(1) > 0, True])
def test_terminate_takes_what_a_comparison_gives(value: Any) -> None:
    adapter = fit(Act(on_epoch_end=lambda ctx: setattr(ctx, "terminate", value)), max_epochs=3)
    assert adapter.stopped_by is not None
    assert adapter.stopped_by.epoch == 1


def test_the_log_says_who_stopped_training(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit({"mine": Act(on_epoch_end=lambda ctx: setattr(ctx, "terminate", True))}, max_epochs=3)
    [said] = [text for text in caplog.messages if text.startswith("Training stopped")]
    assert said == "Training stopped: callback 'mine' set ctx.terminate in on_epoch_end, epoch 1 was the last."
    caplog.clear()
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit(Act(), max_epochs=1)
    assert not any(text.startswith("Training stopped") for text in caplog.messages)


@pytest.mark.parametrize("name", [1, b"x"])
def test_a_score_whose_name_is_no_string(name: Any) -> None:
    def assign(ctx: Any) -> None:
        ctx.last_scores_valid = {name: 2.0}

    with pytest.raises(TypeError, match=r"Expected a name to be a string but got (1|b'x')"):
        fit(Act(on_epoch_end=assign))
