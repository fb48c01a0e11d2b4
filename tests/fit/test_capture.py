"""The network's output under torch.compile and odd calls, and that nothing of the tapping is left behind."""

import copy
from contextlib import suppress
from functools import partial
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from packaging.version import Version
from torch import nn

from callbacksets import STAGES as STAGES_OF_A_FIT
from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory
from callbacksets.fit.capture import Capture
from callbacksets.fit.step import Step
from tests.helpers import Act, Batches, StageLog, Tiny, fit, ones, quiet, sampled

STAGES = ("on_after_backward", "on_batch_end", "on_batch_valid_end")

# dynamo looks at the outputs that hooks get, and hides that warning only where it is no error
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


class Silent(Tiny):
    """Logs nothing: `self.log` in a compiled LightningModule fails in Lightning itself."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.loss(batch)


class Whole(Silent):
    """The module itself is the network."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = self.network
        del self.network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)

    def loss(self, batch: Any) -> torch.Tensor:
        return self(batch).pow(2).mean()


class Inner(Tiny):
    """What is compiled lies deeper in the network."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
        self.network = nn.Sequential(compiled(self.network[0]), self.network[1])


def in_place(make: Any) -> L.LightningModule:
    """A module whose `network` is compiled in place."""
    module = make()
    module.network.compile(backend="eager")
    return module


class CompiledStep(Silent):
    """Its own step is compiled, and the network as well."""

    def __init__(self) -> None:
        super().__init__(compiled(nn.Linear(2, 1)))

    @partial(torch.compile, backend="eager")
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)


MODULES: dict[str, Any] = {
    "plain": Tiny,
    "the module itself": Whole,
    "compiled network": lambda: Tiny(compiled(nn.Linear(2, 1))),
    "network.compile()": lambda: in_place(Tiny),
    "compiled in the network": Inner,
    "compiled module": lambda: compiled(Silent()),
    "compiled module, itself": lambda: compiled(Whole()),
    "compiled module with a compiled network": lambda: compiled(Silent(compiled(nn.Linear(2, 1)))),
    "compiled module with network.compile()": lambda: compiled(in_place(Silent)),
    "compiled step with a compiled network": CompiledStep,
}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("kind", MODULES)
def test_the_output_whatever_is_compiled(kind: str) -> None:
    torch.manual_seed(0)
    module = MODULES[kind]()
    outputs: list[torch.Tensor] = []
    log = StageLog("y_hat", "batch", stages=STAGES)
    again = Act(
        on_batch_valid_end=lambda ctx: outputs.append(ctx.network(ctx.batch)),
        on_begin=lambda ctx: outputs.clear(),
    )
    fit({"log": log, "again": again}, module, ones(3), ones(2), max_epochs=2)
    assert len(log.rows) == 2 * (2 * 3 + 2)
    assert {tuple(y_hat.shape) for _, y_hat, _ in log.rows} == {(2, 1)}
    seen = [y_hat for y_hat, _ in log.at("batch_valid_end")]
    torch.testing.assert_close(seen, outputs)  # no callback has called it before the first looked
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("kind", [kind for kind in MODULES if kind.startswith("compiled")])
def test_what_is_compiled_and_has_run_before(kind: str) -> None:
    module = MODULES[kind]()
    quiet(max_epochs=1).fit(module, ones(3), ones(2))
    log = StageLog("y_hat", stages=STAGES)
    # from torch 2.14 on, what compiled code ran before looks at the hooks of the module itself
    seen = ["compiled network", "compiled in the network"]
    seen += ["compiled module, itself"] if Version(torch.__version__) >= Version("2.14") else []
    if kind in seen:
        fit(log, module, ones(3), ones(2))
    else:
        with pytest.raises(RuntimeError, match=r"ran before this fit.* call torch\.compiler\.reset\(\) before the fit"):
            fit(log, module, ones(3), ones(2))
        torch.compiler.reset()
        fit(log, module, ones(3), ones(2))
    assert len(log.rows) == 2 * 3 + 2


@pytest.mark.parametrize("kind", ["plain", "the module itself"])
def test_a_copy_of_the_network_in_a_fit_is_one_of_the_network_only(kind: str) -> None:
    class Data(Batches):
        def __reduce__(self) -> Any:
            raise AssertionError("the data go with the network")

    def copies(ctx: Any) -> None:
        if not networks:
            network = ctx.network.network if hasattr(ctx.network, "network") else ctx.network
            file = BytesIO()
            torch.save(network, file)
            file.seek(0)
            networks.extend((copy.deepcopy(ctx.network), torch.load(file, weights_only=False)))
        for network in networks:
            network(torch.ones(7, 2))

    networks: list[nn.Module] = []
    log = StageLog("y_hat", stages=STAGES)
    fit({"act": Act(on_batch_begin=copies), "log": log}, MODULES[kind](), Data(ones(2).batches), Data(ones(1).batches))
    assert {len(y_hat) for _, y_hat in log.rows} == {2}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("fails_in", sampled([None, "on_batch_end", "on_begin", "on_batch_valid_begin", "on_exit"], 5))
def test_strategy_and_network_are_left_as_they_were(kind: str, fails_in: str | None) -> None:
    module = MODULES[kind]()
    act = Act(**({} if fails_in is None else {fails_in: lambda ctx: 1 / 0}))
    trainer = quiet(max_epochs=1, callbacks=[CallbackSetAdapter([act, StageLog()])])
    strategy = trainer.strategy
    steps = [getattr(type(strategy), name) for name in ("training_step", "validation_step")]
    if fails_in is None:
        trainer.fit(module, ones(2), ones(1))
    else:
        with pytest.raises(ZeroDivisionError):
            trainer.fit(module, ones(2), ones(1))
    assert not {"training_step", "validation_step"} & set(vars(strategy))
    assert [strategy.training_step.__func__, strategy.validation_step.__func__] == steps
    for part in module.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


def test_hooks_of_others_stay() -> None:
    calls: list[int] = []
    module = Tiny()
    handle = module.network.register_forward_hook(lambda *args: calls.append(1))
    fit(StageLog(), module, ones(2))
    assert list(module.network._forward_hooks) == [handle.id]
    assert len(calls) == 2


def test_a_hook_that_changes_the_output_is_seen_in_it() -> None:
    module = Tiny()
    module.network.register_forward_hook(lambda network, inputs, output: output * 0 + 3)
    log = StageLog("y_hat", stages=STAGES)
    fit(log, module, ones(1), ones(1))
    assert [y_hat.mean().item() for _, y_hat in log.rows] == [3.0, 3.0, 3.0]


def test_the_next_trainer_of_one_strategy_and_validate_are_not_tapped() -> None:
    log = StageLog("y_hat", stages=STAGES)
    trainer, module = quiet(max_epochs=1, callbacks=[CallbackSetAdapter(log)]), Tiny()
    trainer.fit(module, ones(1), ones(1))
    rows = len(log.rows)
    trainer.validate(module, ones(2), verbose=False)
    assert len(log.rows) == rows
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, ones(1), ones(1))
    assert len(log.rows) == 2 * rows


# --- networks called more than once ---------------------------------------------------------------------------------


class Twice(Silent):
    """Calls the network for two parts of the batch; in validation once more."""

    def loss(self, batch: Any) -> torch.Tensor:
        loss = self.network(batch).mean() + self.network(batch[:1]).mean()
        return loss if self.training else loss + self.network(batch.repeat(2, 1)).mean()


class Recursive(Silent):
    """A network that calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        del self.network

    def forward(self, x: torch.Tensor, again: bool = True) -> torch.Tensor:
        return self(self.linear(x), again=False)[:1] if again else self.linear(x)

    def loss(self, batch: Any) -> torch.Tensor:
        return self(batch).mean()


@pytest.mark.parametrize(
    ("make", "lengths"),
    [
        (Twice, [1, 1, 4]),
        (Recursive, [1, 1, 1]),  # the outermost call ends last
        (lambda: Twice(compiled(nn.Linear(2, 1))), [1, 1, 4]),
        (lambda: in_place(Twice), [1, 1, 4]),
    ],
    ids=["twice", "recursive", "compiled", "compiled in place"],
)
def test_of_several_calls_the_last_counts(make: Any, lengths: list[int]) -> None:
    log = StageLog("y_hat", stages=STAGES)
    fit(log, make(), ones(1), ones(1), num_sanity_val_steps=0)
    assert [len(y_hat) for _, y_hat in log.rows] == lengths


def test_calls_in_the_modules_own_hooks_are_not_the_steps() -> None:
    class Hooked(Tiny):
        def look(self, *args: Any) -> None:
            self.network(torch.zeros(7, 2))

        on_train_batch_start = on_before_backward = on_after_backward = on_validation_batch_start = look
        on_before_zero_grad = look

    log = StageLog("y_hat", stages=STAGES)
    fit(log, Hooked(), ones(2), ones(1))
    assert [len(y_hat) for _, y_hat in log.rows] == [2] * 5


@pytest.mark.parametrize("kind", ["compiled network", "network.compile()", "the module itself"])
def test_calls_of_other_callbacks_are_not_the_steps(kind: str) -> None:
    class Looking(L.Callback):
        def look(self, trainer: Any, module: Any, *args: Any) -> None:
            (module if kind == "the module itself" else module.network)(torch.zeros(7, 2))

        on_train_batch_start = on_after_backward = on_before_zero_grad = on_train_batch_end = look
        on_validation_batch_start = on_validation_batch_end = look

    log = StageLog("y_hat", stages=STAGES)
    ours = Act(**{stage: partial(lambda ctx: ctx.network(torch.zeros(5, 2))) for stage in ("on_batch_begin", *STAGES)})
    fit([ours, log], MODULES[kind](), ones(2), ones(1), native=(Looking(),))
    assert [len(y_hat) for _, y_hat in log.rows] == [2] * 5


def test_a_step_that_fails_leaves_the_network_untapped() -> None:
    class Fails(Silent):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)
            raise ZeroDivisionError

    seen = []
    act = Act(on_exit=lambda ctx: seen.append((ctx.network(torch.zeros(7, 2)), ctx.y_hat)))
    module = Fails()
    with pytest.raises(ZeroDivisionError):
        fit(act, module)
    assert len(seen[0][1]) == 2
    assert not module.network._forward_hooks


def test_outputs_are_kept_only_where_a_callback_may_read_them() -> None:
    class ReadsNone(CallbackSet):
        reads_y_hats = False

        def on_batch_end(self) -> None:
            pass

    class CountsHooks(Tiny):
        def loss(self, batch: Any) -> torch.Tensor:
            self.hooks = len(self.network._forward_hooks)
            return super().loss(batch)

    alone, beside = CountsHooks(), CountsHooks()
    fit({"one": ReadsNone(), "history": "history"}, alone)
    fit({"one": ReadsNone(), "act": Act(on_batch_end=lambda ctx: ctx.y_hat)}, beside)
    assert (alone.hooks, beside.hooks) == (0, 1)


def test_a_subclass_of_a_predefined_callback_reads_the_output() -> None:
    class Counts(CallbackSetHistory):
        def on_batch_end(self) -> None:
            self.n = len(self.ctx.y_hat)

    counts = Counts()
    fit(counts)
    assert counts.n == 2


def test_reading_what_is_not_kept_says_how_to_have_it() -> None:
    act = Act(on_batch_end=lambda ctx: ctx.y_hat)
    act.reads_y_hats = False
    with pytest.raises(RuntimeError, match="Set reads_y_hats = True in the class of the callback that reads it"):
        fit(act)


# --- scripting, and errors that a step catches -----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
def test_a_scripted_network_trains_and_has_no_output_to_see() -> None:
    network = torch.jit.script(nn.Linear(2, 1))
    log = StageLog("last_loss", stages=("on_batch_end",))
    fit(log, Tiny(network))
    assert len(log.rows) == 2
    with pytest.raises(RuntimeError, match="The output of a scripted network"):
        fit(Act(on_batch_end=lambda ctx: ctx.y_hat), Tiny(network))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
@pytest.mark.parametrize("stage", STAGES_OF_A_FIT)
def test_the_network_can_be_scripted_in_a_stage(stage: str) -> None:
    scripted: list[Any] = []
    y_hats = StageLog("y_hat", stages=("on_batch_end", "on_batch_valid_end"))
    script = Act(**{stage: lambda ctx: scripted.append(torch.jit.script(ctx.network))})
    fit({"script": script, "y_hats": y_hats}, Tiny(), ones(2), ones(2))
    assert isinstance(scripted[-1], torch.jit.ScriptModule)
    assert {tuple(y_hat.shape) for _, y_hat in y_hats.rows} == {(2, 1)}


def test_an_error_inside_a_call_that_the_step_catches_is_not_counted() -> None:
    class Catching(Tiny):
        """Its own network, as a wrapped module is called."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = self.network
            del self.network

        def forward(self, x: Any) -> Any:
            if x is None:
                raise ValueError
            return self.linear(x)

    module = Catching()
    step = Step()
    trainer = SimpleNamespace(strategy=SimpleNamespace(), model=nn.Identity())
    capture = Capture(trainer, module, step)  # type: ignore[arg-type]
    capture.watch_network(module)

    def call(batch: Any) -> Any:
        def inside(x: Any) -> Any:
            with suppress(ValueError):
                module(None)
            return module(x).sum()

        return Redirected(module, inside)(batch)

    loss = capture._train(call, torch.ones(2, 2))
    assert step.y_hats.shape == (2, 1)
    assert step.outputs is loss
    assert loss.shape == ()
    capture.let_go()
    assert not module._forward_hooks


class Redirected:
    """Calls a module, whose forward call is redirected to something else once, as Lightning's strategies do."""

    def __init__(self, module: nn.Module, inside: Any) -> None:
        self.module, self.inside = module, inside

    def __call__(self, *args: Any) -> Any:
        forward = self.module.forward

        def redirected(*inner: Any) -> Any:
            self.module.forward = forward
            return self.inside(*inner)

        self.module.forward = redirected
        return self.module(*args)
