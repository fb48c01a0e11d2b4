import itertools
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from callbacksets import (
    CallbackSetAdapter,
    CallbackSetCheckpoint,
    CallbackSetUnfreeze,
    latest_checkpoint,
    select_all,
    select_grep,
    select_invert,
    select_name,
    select_none,
)
from tests.helpers import Act, StageLog, Tiny, fit, on_ranks, ones, quiet, written
from tests.scripts import sharded_parts
from tests.scripts.sharded_parts import Deep

HEAD = select_grep(r"^1\.")


class Module(Tiny):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))


class Trainable(Act):
    """The names of what requires a gradient in every batch."""

    def __init__(self) -> None:
        self.names: list[list[str]] = []
        super().__init__(on_after_backward=self.look)

    def look(self, ctx: Any) -> None:
        self.names.append([name for name, parameter in ctx.network.named_parameters() if parameter.requires_grad])


def test_says_when_the_first_batch_has_nothing_to_train() -> None:
    with (
        pytest.warns(UserWarning, match="All parameters are frozen at first.*'0.weight', '0.bias'"),
        pytest.raises(RuntimeError, match="does not require grad"),
    ):
        fit([CallbackSetUnfreeze(select_none(), [{"epoch": 2, "weights": select_all()}])], Module())
    fit([CallbackSetUnfreeze(select_none(), [{"epoch": 1, "weights": select_all()}])], Module())
    fit([CallbackSetUnfreeze(select_none(), [{"batch": 1, "weights": select_all()}])], Module())


def test_a_selector_that_selects_nothing_at_all() -> None:
    with pytest.raises(TypeError, match=r"starting_weights to be names of parameters, but .* returned None"):
        fit([CallbackSetUnfreeze(lambda names: None, [])], Module())


def test_by_epoch() -> None:
    trainable = Trainable()
    rows = [{"epoch": 2, "weights": select_name("0.bias")}, {"epoch": 3, "weights": select_all()}]
    adapter = fit([CallbackSetUnfreeze(HEAD, rows), trainable], Module(), max_epochs=3)
    head = ["1.weight", "1.bias"]
    everything = ["0.weight", "0.bias", *head]
    assert trainable.names == [head, head, ["0.bias", *head], ["0.bias", *head], everything, everything]
    assert adapter.states["unfreeze"] == {"trainable": everything}


def test_by_batch() -> None:
    trainable = Trainable()
    rows = [{"batch": 4, "weights": select_name("0.bias")}, {"batch": 1, "weights": select_name("1.bias")}]
    fit([CallbackSetUnfreeze(select_name("1.weight"), rows), trainable], Module(), ones(3), max_epochs=2)
    head = ["1.weight", "1.bias"]
    assert trainable.names == [head] * 3 + [["0.bias", *head]] * 3


def test_only_what_is_trainable_moves() -> None:
    module = Module()
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    fit([CallbackSetUnfreeze(select_invert(select_name("0.weight")), [])], module, max_epochs=2)
    moved = [name for name, value in module.network.state_dict().items() if not torch.equal(value, before[name])]
    assert "0.weight" not in moved
    assert "1.weight" in moved


def test_an_instance_serves_several_fits() -> None:
    unfreeze = CallbackSetUnfreeze(HEAD, [{"epoch": 2, "weights": select_all()}])
    for _ in range(2):
        trainable = Trainable()
        fit([unfreeze, trainable], Module(), ones(1), max_epochs=2)
        assert [len(names) for names in trainable.names] == [2, 4]


@pytest.mark.parametrize("unit", ["epoch", "batch"])
def test_resumed_equals_uninterrupted(unit: str, tmp_path: Path) -> None:
    def callbacks(*more: Any) -> dict[str, Any]:
        rows = [{unit: 2, "weights": select_name("0.bias")}, {unit: 4, "weights": select_name("0.weight")}]
        return {
            "unfreeze": CallbackSetUnfreeze(HEAD, rows),
            "trainable": Trainable(),
            "checkpoint": CallbackSetCheckpoint(tmp_path, freq=1),
        }

    torch.manual_seed(0)
    module = Module()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    whole = fit(callbacks(), module, ones(1), max_epochs=5)
    for epoch in (1, 2, 3, 4):
        resumed = Module()
        resumed.load_state_dict(start)
        adapter = CallbackSetAdapter({**callbacks(), "checkpoint": CallbackSetCheckpoint(tmp_path / str(epoch), 9)})
        trainer = quiet(max_epochs=5, callbacks=[adapter])
        trainer.fit(resumed, ones(1), ckpt_path=tmp_path / f"epoch{epoch}.ckpt")
        assert adapter.sets["trainable"].names == whole.sets["trainable"].names[epoch:]
        assert adapter.states["unfreeze"] == whole.states["unfreeze"]
        assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in module.state_dict().items())


def test_resumed_with_other_rows_trains_on_what_was_unfrozen(tmp_path: Path) -> None:
    checkpoint = CallbackSetCheckpoint(tmp_path / "saved", freq=2)
    fit([CallbackSetUnfreeze(HEAD, [{"epoch": 2, "weights": select_all()}]), checkpoint], Module(), max_epochs=2)
    adapter = CallbackSetAdapter([CallbackSetUnfreeze(HEAD, []), CallbackSetCheckpoint(tmp_path / "saved", freq=2)])
    trainer = quiet(callbacks=[adapter], max_epochs=3)
    trainer.fit(Module(), ones(2), ckpt_path=latest_checkpoint(tmp_path / "saved"))
    assert len(adapter.states["unfreeze"]["trainable"]) == 4


@pytest.mark.filterwarnings("ignore:The checkpoint has no state of callback 'unfreeze'")
def test_new_in_a_resumed_run_catches_up(tmp_path: Path) -> None:
    checkpoint = CallbackSetCheckpoint(tmp_path, freq=3)
    fit([checkpoint], Module(), max_epochs=3)
    trainable = Trainable()
    rows = [{"epoch": 2, "weights": select_name("0.bias")}, {"epoch": 9, "weights": select_all()}]
    adapter = CallbackSetAdapter([CallbackSetUnfreeze(HEAD, rows), trainable, checkpoint])
    quiet(max_epochs=4, callbacks=[adapter]).fit(Module(), ones(2), ckpt_path=latest_checkpoint(tmp_path))
    assert trainable.names == [["0.bias", "1.weight", "1.bias"]] * 2


@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")  # on purpose
def test_a_batch_of_none_is_made_up_for_in_the_next() -> None:
    batches = ones(4)
    batches.batches[2] = None
    trainable = Trainable()
    fit([CallbackSetUnfreeze(HEAD, [{"batch": 3, "weights": select_all()}]), trainable], Module(), batches)
    assert [len(names) for names in trainable.names] == [2, 2, 4]


@pytest.mark.filterwarnings("ignore:The checkpoint has no state of callback 'unfreeze'")
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_new_in_a_run_that_is_resumed_inside_an_epoch(epoch: int, tmp_path: Path) -> None:
    six = tmp_path / "six.ckpt"
    save = Act(on_batch_end=lambda ctx: ctx.global_step == 6 and ctx.trainer.save_checkpoint(six))
    fit(save, Module(), ones(4), max_epochs=2)
    adapter = CallbackSetAdapter(CallbackSetUnfreeze(HEAD, [{"epoch": epoch, "weights": select_all()}]))
    quiet(callbacks=[adapter], max_epochs=3).fit(Module(), ones(4), ckpt_path=six)
    assert len(adapter.states["unfreeze"]["trainable"]) == 4


def test_nothing_to_train() -> None:
    adapter = fit([CallbackSetUnfreeze(HEAD, [])], Module(), max_epochs=0)
    assert adapter.states["unfreeze"] == {"trainable": ["1.weight", "1.bias"]}


def test_what_no_optimizer_holds_is_told_of() -> None:
    class Filtering(Module):
        def __init__(self) -> None:
            super().__init__()
            self.network[0].requires_grad_(False)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    rows = [{"epoch": 2, "weights": select_name("0.weight")}]
    with pytest.warns(UserWarning, match=r"No optimizer has '0\.weight', so they will not be trained"):
        fit([CallbackSetUnfreeze(HEAD, rows)], Filtering(), max_epochs=2)


@pytest.mark.parametrize("selector", [select_grep("haed"), select_none(), lambda names: []])
def test_a_row_that_selects_nothing(selector: Any) -> None:
    log = StageLog()
    with pytest.raises(ValueError, match=r"Expected the weights at epoch 2 to be names .* selected none.*'0\.weight'"):
        fit([log, CallbackSetUnfreeze(HEAD, [{"epoch": 2, "weights": selector}])], Module(), max_epochs=2)
    assert log.rows == ["begin", "exit"]


@pytest.mark.parametrize("selector", [select_grep("haed"), select_invert(select_all()), lambda names: []])
def test_starting_weights_that_select_nothing(selector: Any) -> None:
    log = StageLog()
    message = (
        r"Expected starting_weights to be names .* selected none\. Correct .* give select_none\(\) .*\. There are '0"
    )
    with pytest.raises(ValueError, match=message):
        fit([log, CallbackSetUnfreeze(selector, [{"epoch": 1, "weights": select_all()}])], Module())
    assert log.rows == ["begin", "exit"]


class Whole(Tiny):
    """Its network has another name than `network`, so `ctx.network` is the module."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(OrderedDict(body=nn.Linear(2, 2), head=nn.Linear(2, 1)))
        del self.network

    def loss(self, batch: Any) -> torch.Tensor:
        return self.model(batch).pow(2).mean()


@pytest.mark.parametrize("select", [select_name("head.weight"), select_grep(r"^head\."), lambda names: ["head.bias"]])
def test_a_network_of_another_name_is_named_and_the_nearest_names_come_first(select: Any) -> None:
    nearest = r"There are 'model\.head\..*'model\.body\."
    network = r"All are in 'model'\. To leave that out of the names: CallbackSetAdapter\(\.\.\., network='model'\)\."
    for arguments in ((select, []), (select_all(), [{"epoch": 2, "weights": select}])):
        with pytest.raises(ValueError, match=f"{nearest}.*{network}"):
            fit(CallbackSetUnfreeze(*arguments), Whole())
    fit(CallbackSetUnfreeze(select, []), Whole(), adapter={"network": "model"})


@pytest.mark.parametrize(
    ("start", "rows", "message"),
    [
        (select_name("1.weigth"), [], "there is no parameter '1.weigth'.*mean '1.weight'"),
        (HEAD, [{"epoch": 9, "weights": select_name("7.bias")}], "there is no parameter '7.bias'"),
        (lambda names: ["1.weigth"], [], "Expected starting_weights to be names.*selected '1.weigth'.*mean '1.weight'"),
        (HEAD, [{"batch": 9, "weights": lambda names: "2.bias"}], "Expected the weights at batch 9 to be names"),
    ],
)
def test_unknown_names(start: Any, rows: list[Any], message: str) -> None:
    log = StageLog()
    with pytest.raises(ValueError, match=message):
        fit([log, CallbackSetUnfreeze(start, rows)], Module())
    assert log.rows == ["begin", "exit"]


def row(**values: Any) -> list[dict[str, Any]]:
    return [{"weights": select_all(), **values}]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CallbackSetUnfreeze(), TypeError, "starting_weights"),
        (lambda: CallbackSetUnfreeze(select_all()), TypeError, "unfreeze"),
        (
            lambda: CallbackSetUnfreeze("0.weight", []),
            TypeError,
            "starting_weights to be a selector.* but got '0.weight'",
        ),
        (lambda: CallbackSetUnfreeze(select_all(), 3), TypeError, "unfreeze to be a list of rows .* but got 3"),
        (lambda: CallbackSetUnfreeze(select_all(), "all"), TypeError, "unfreeze to be a list of rows .* but got 'all'"),
        (lambda: CallbackSetUnfreeze(select_all(), row(epoch=1)[0]), TypeError, "unfreeze to be a list of rows"),
        (
            lambda: CallbackSetUnfreeze(select_all(), [{"epohc": 1, "weights": select_all()}]),
            ValueError,
            "has 'epohc'.*mean 'epoch'",
        ),
        (lambda: CallbackSetUnfreeze(select_all(), [3]), TypeError, r"unfreeze\[0\] to be a row like .* but got 3"),
        (lambda: CallbackSetUnfreeze(select_all(), [{"epoch": 1}]), ValueError, r"unfreeze\[0\] to have 'weights'"),
        (lambda: CallbackSetUnfreeze(select_all(), row()), ValueError, "either 'epoch' or 'batch'"),
        (lambda: CallbackSetUnfreeze(select_all(), row(epoch=1, batch=1)), ValueError, "either 'epoch' or 'batch'"),
        (lambda: CallbackSetUnfreeze(select_all(), row(epochs=1)), ValueError, "'epochs'.*mean 'epoch'"),
        (lambda: CallbackSetUnfreeze(select_all(), row(epoch=1) + row(batch=2)), ValueError, "but it has both"),
        (lambda: CallbackSetUnfreeze(select_all(), row(batch=2) * 2), ValueError, "one row for batch 2 but got 2"),
        (
            lambda: CallbackSetUnfreeze(select_all(), row(epoch=0)),
            ValueError,
            r"unfreeze\[0\]\['epoch'\] .* at least 1",
        ),
        (lambda: CallbackSetUnfreeze(select_all(), row(epoch=-1)), ValueError, "at least 1 but got -1"),
        (
            lambda: CallbackSetUnfreeze(select_all(), row(epoch=1.5)),
            TypeError,
            "whole number of at least 1 but got 1.5",
        ),
        (lambda: CallbackSetUnfreeze(select_all(), row(epoch=True)), TypeError, "but got True"),
        (lambda: CallbackSetUnfreeze(select_all(), row(batch=float("nan"))), TypeError, "but got nan"),
        (
            lambda: CallbackSetUnfreeze(select_all(), [{"epoch": 1, "weights": ["0.bias"]}]),
            TypeError,
            r"unfreeze\[0\]\['weights'\] to be a selector",
        ),
    ],
)
def test_bad_argument(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("none", [None, [], ()])
def test_no_rows(none: Any) -> None:
    assert CallbackSetUnfreeze(HEAD, none).unfreeze == []


# --- FSDP2 -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="gloo on one machine")
def test_what_is_sharded_trains_as_what_is_not(tmp_path: Path) -> None:
    done = on_ranks("sharded_parts", tmp_path / "two", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    first, second = written(tmp_path / "two")
    assert first == second
    (tmp_path / "one").mkdir()
    torch.manual_seed(0)
    fit(sharded_parts.callbacks(tmp_path / "one"), Deep(), ones(2), ones(1), max_epochs=sharded_parts.EPOCHS)
    [alone] = written(tmp_path / "one")
    for ours, expected in zip(first, alone, strict=True):
        assert ours["scores"]["grad_norm"] == pytest.approx(expected["scores"]["grad_norm"], rel=1e-5)
        for name, weights in expected["weights"].items():
            assert ours["weights"][name] == pytest.approx(weights, rel=1e-5), (ours["epoch"], name)
    moved = [
        [name for name in now["weights"] if now["weights"][name] != before["weights"][name]]
        for before, now in itertools.pairwise(first)
    ]
    assert moved == [["1.bias", "2.weight"], ["0.weight", "1.bias", "2.weight"], ["0.weight", "1.bias", "2.weight"]]


# --- DDP -------------------------------------------------------------------------------------------------------------

ROWS = [{"epoch": 2, "weights": select_all()}]


@pytest.fixture
def _one_process() -> Iterator[None]:
    """Room for DDP with a single process, and for what it leaves behind."""
    with mock.patch.dict(os.environ):
        yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
def test_ddp_must_look_for_unused_parameters() -> None:
    with pytest.raises(RuntimeError, match="Trainer\\(strategy='ddp_find_unused_parameters_true'\\)"):
        fit([CallbackSetUnfreeze(HEAD, ROWS)], Module(), strategy="ddp")


@pytest.mark.usefixtures("_one_process")
def test_ddp_does_not_know_what_the_module_froze() -> None:
    module = Module()
    module.network[0].requires_grad_(False)
    with pytest.raises(RuntimeError, match=r"not synchronise '0\.bias', '0\.weight', because they were frozen"):
        fit([CallbackSetUnfreeze(HEAD, ROWS)], module, strategy="ddp_find_unused_parameters_true")


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize("strategy", ["ddp_find_unused_parameters_true", "ddp"])
def test_ddp_that_synchronises_all(strategy: str) -> None:
    trainable = Trainable()
    start = HEAD if strategy != "ddp" else select_all()
    fit([CallbackSetUnfreeze(start, ROWS), trainable], Module(), max_epochs=2, strategy=strategy)
    assert len(trainable.names[-1]) == 4


@pytest.mark.parametrize("returned", [[0], [True, False], 1])
def test_a_selector_that_returns_no_names(returned: Any) -> None:
    with pytest.raises(TypeError, match=r"Expected starting_weights to be names of parameters, but .* returned"):
        fit(CallbackSetUnfreeze(lambda names: returned, []), Module())


def test_a_data_frame_is_no_list_of_rows() -> None:
    frame = pytest.importorskip("pandas").DataFrame({"epoch": [2], "weights": [select_all()]})
    with pytest.raises(TypeError, match=r"Expected unfreeze\[0\] to be a row like"):
        CallbackSetUnfreeze(HEAD, frame)
