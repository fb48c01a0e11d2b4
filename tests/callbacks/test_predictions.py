from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacksets import CallbackSetEarlyStopping, CallbackSetPredictions, SupervisedModule, t_clbk
from tests.helpers import Act, Batches, Tiny, fit, ones

X = [torch.full((2, 2), float(n)) for n in range(3)]
Y = [torch.tensor([n, n + 1]) for n in range(3)]
PAIRS = Batches(list(zip(X, Y, strict=True)))


class Module(Tiny):
    """Batches are `(x, y)` or mappings; the validation score is given for each epoch."""

    def __init__(self, *scores: float, name: str = "val_loss") -> None:
        super().__init__()
        self.scores, self.name = scores or (1.0,) * 9, name

    def loss(self, batch: Any) -> torch.Tensor:
        return super().loss(batch["x"] if isinstance(batch, dict) else batch[0])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.loss(batch)
        self.log(self.name, self.scores[self.current_epoch], batch_size=1)


def outputs(module: Tiny) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([module.network(x) for x in X])


def test_keeps_those_of_the_last_validation_on_the_cpu() -> None:
    seen: list[torch.Tensor] = []
    callback, module = CallbackSetPredictions(), Module()

    def look(ctx: Any) -> None:
        seen.append(ctx.callbacks["predictions"].y_hat)
        assert torch.equal(seen[-1], outputs(ctx.learner))

    fit({"predictions": callback, "look": Act(on_valid_end=look)}, module, PAIRS, PAIRS, max_epochs=2)
    assert torch.equal(callback.y_hat, outputs(module))
    assert torch.equal(callback.y, torch.cat(Y))
    assert not torch.equal(seen[0], seen[1])
    assert callback.y_hat.device.type == "cpu"
    assert not callback.y_hat.requires_grad
    assert not callback.y_hat.is_inference()
    assert callback.state_dict() is None


def test_best_is_of_the_best_validation() -> None:
    best = CallbackSetPredictions("best")
    stopping = CallbackSetEarlyStopping(9, restore_best_weights=True)
    module = Module(3, float("nan"), 1, 2)
    with pytest.warns(UserWarning, match="is NaN"):
        fit({"best": best, "stopping": stopping}, module, PAIRS, PAIRS, max_epochs=4)
    assert torch.equal(best.y_hat, outputs(module))


@pytest.mark.parametrize(("mode", "epoch"), [("max", 2), ("min", 1)])
def test_direction_and_name(mode: Any, epoch: int) -> None:
    kept: list[torch.Tensor] = []
    best = CallbackSetPredictions("best", monitor="val_f1", mode=mode)
    look = Act(on_epoch_end=lambda ctx: kept.append(outputs(ctx.learner)))
    fit([best, look], Module(0.1, 0.9, 0.5, name="val_f1"), PAIRS, PAIRS, max_epochs=3)
    assert torch.equal(best.y_hat, kept[epoch - 1])


def test_a_score_of_another_callback() -> None:
    def add(ctx: Any) -> None:
        ctx.last_scores_valid["added_loss"] = 1 / ctx.epoch

    best = t_clbk("predictions", keep="best", monitor="added_loss", weight=1)
    module = Module()
    adapter = fit({"best": best, "add": Act(on_valid_end=add)}, module, PAIRS, PAIRS, max_epochs=2)
    assert torch.equal(adapter.sets["best"].y_hat, outputs(module))


def test_best_needs_to_know_what_is_better() -> None:
    with pytest.raises(RuntimeError, match="cannot tell whether a lower or a higher 'f1' is better"):
        fit([CallbackSetPredictions("best")], Module(name="val_f1"), PAIRS, PAIRS)


def test_several_loaders_have_one_each() -> None:
    callback = CallbackSetPredictions()
    other = Batches(PAIRS.batches[:1])
    fit([callback], Module(), PAIRS, [PAIRS, other], max_epochs=2)
    assert [len(one) for one in callback.y_hat] == [len(one) for one in callback.y] == [6, 2]


def test_mappings_and_targets_of_ones_own() -> None:
    mapping = Batches([{"x": x, "y": y} for x, y in PAIRS.batches])
    callback = CallbackSetPredictions()
    fit([callback], Module(), mapping, mapping)
    assert torch.equal(callback.y, torch.cat(Y))
    callback = CallbackSetPredictions(target=lambda batch: batch[:, 0])
    fit([callback], Tiny(), ones(2), ones(2))
    assert callback.y.tolist() == [1, 1, 2, 2]


def test_a_batch_without_a_target_is_told_of() -> None:
    with pytest.raises(TypeError, match=r"its target is None\. Give a function .*: target=lambda batch") as raised:
        fit([CallbackSetPredictions()], Tiny(), ones(1), ones(1))
    assert len(str(raised.value)) < 300


def test_an_output_that_is_no_tensor_is_told_of() -> None:
    class Worded(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return {"logits": "none", "loss": super().forward(x)}

    class Wordy(Module):
        def loss(self, batch: Any) -> torch.Tensor:
            return self.network(batch[0])["loss"].mean()

    module = Wordy()
    module.network = Worded(2, 1)
    with pytest.raises(TypeError, match=r"Expected ctx\.y_hat to be a tensor but the network's first output is 'none'"):
        fit([CallbackSetPredictions()], module, PAIRS, PAIRS)


def test_without_validation_there_are_none() -> None:
    callback = CallbackSetPredictions()
    fit([callback], Module(), PAIRS)
    assert (callback.y_hat, callback.y) == (None, None)


def test_an_instance_starts_over_in_every_fit() -> None:
    callback = CallbackSetPredictions("best")
    fit([callback], Module(1), PAIRS, PAIRS)
    module = Module(5)
    fit([callback], module, PAIRS, PAIRS)
    assert torch.equal(callback.y_hat, outputs(module))


def test_with_a_supervised_module() -> None:
    module = SupervisedModule(torch.nn.Linear(2, 4), torch.nn.CrossEntropyLoss(), lambda p: torch.optim.SGD(p, lr=0.1))
    adapter = fit(t_clbk("predictions"), module, PAIRS, PAIRS)
    assert adapter.sets["predictions"].y_hat.shape == (6, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"keep": "bets"}, ValueError, "Expected keep to be one of 'last', 'best' but got 'bets'. Did you mean 'best'"),
        ({"monitor": "loss"}, ValueError, "monitor and mode can only be given with keep='best'"),
        ({"keep": "best", "mode": "up"}, ValueError, "Expected mode to be one of 'min', 'max' but got 'up'"),
        ({"target": 1}, TypeError, "Expected target to be a function that returns the target of a batch but got 1"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CallbackSetPredictions(**arguments)


# --- odd batches -----------------------------------------------------------------------------------------------------


class Regression(Module):
    """Computes something of the network's output, whatever its shape."""

    def loss(self, batch: Any) -> torch.Tensor:
        x = batch[0] if isinstance(batch, list | tuple) else batch.x
        return self.network(x).pow(2).mean()


class Squeezing(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).squeeze()


class Scratch(torch.nn.Linear):
    """Returns the same tensor in each call, as a network that is run from a CUDA graph does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        if torch.is_grad_enabled():
            return out
        self.scratch = getattr(self, "scratch", out.clone())
        return self.scratch.copy_(out)


class Refilled(Batches):
    """A loader that fills the same tensors again."""

    def __iter__(self) -> Any:
        x, y = (one.clone() for one in self.batches[0])
        for batch in self.batches:
            x.copy_(batch[0])
            y.copy_(batch[1])
            yield x, y


def kept(network: torch.nn.Module, *loaders: Any) -> Any:
    """The callback after a fit, on which `network` has been trained."""
    callback, module = CallbackSetPredictions(), Regression()
    module.network = network
    fit([callback], module, loaders[0], list(loaders), max_epochs=2)
    return callback


def test_buffers_that_are_filled_again_are_copied() -> None:
    callback = kept(Scratch(2, 1), Refilled(PAIRS.batches))
    assert callback.y.tolist() == [0, 1, 1, 2, 2, 3]
    assert len(callback.y_hat.unique()) == 3


@pytest.mark.parametrize("classes", [1, 3])
def test_a_last_batch_of_one_that_is_squeezed(classes: int) -> None:
    network = Squeezing(2, classes)
    batches = [(torch.ones(2, 2), torch.zeros(2)), (torch.full((1, 2), 2.0), torch.ones(1))]
    callback = kept(network, Batches(batches))
    expected = torch.cat([network(torch.ones(2, 2)), network(torch.full((1, 2), 2.0))[None]])
    assert torch.equal(callback.y_hat, expected)
    assert callback.y.tolist() == [0, 0, 1]


@pytest.mark.parametrize("classes", [1, 3])
def test_samples_without_a_batch_dimension(classes: int) -> None:
    network = torch.nn.Linear(2, classes)
    samples = [(torch.full((2,), float(n)), torch.tensor(n)) for n in range(4)]
    callback = kept(network, Batches(samples))
    expected = torch.stack([network(x) for x, _ in samples])
    assert torch.equal(callback.y_hat.reshape(expected.shape), expected)
    assert callback.y.tolist() == [0, 1, 2, 3]


def test_batches_of_different_shape_stay_apart() -> None:
    network = torch.nn.Linear(2, 1)
    batches = [(torch.full((2, n, 2), float(n)), torch.full((2, n), n)) for n in (1, 3)]
    callback = kept(network, Batches(batches), Batches(batches[:1]))
    (ragged, plain), (y, _) = callback.y_hat, callback.y
    assert all(torch.equal(one, network(x)) for one, (x, _) in zip(ragged, batches, strict=True))
    assert [one.shape for one in y] == [(2, 1), (2, 3)]
    assert torch.equal(plain, network(batches[0][0]))


@pytest.mark.filterwarnings("ignore:Total length of `.*` across ranks is zero")  # on purpose
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_empty_loader_keeps_its_place(place: int) -> None:
    full = [PAIRS, Batches(PAIRS.batches[:1])]
    loaders: list[Any] = [*full[:place], Batches([]), *full[place:]]
    callback = CallbackSetPredictions()
    fit([callback], Module(), PAIRS, loaders)
    lengths = [len(one) for one in callback.y_hat]
    assert lengths == [len(one) for one in callback.y] == [6 * (one is PAIRS) or 2 * len(one) for one in loaders]
    fit([callback], Module(), PAIRS, [PAIRS, Batches([])])
    assert [len(one) for one in callback.y_hat] == [6, 0]


def test_the_target_of_an_object() -> None:
    batches = Batches([SimpleNamespace(x=x, y=y) for x, y in PAIRS.batches])
    assert torch.equal(kept(torch.nn.Linear(2, 1), batches).y, torch.cat(Y))
