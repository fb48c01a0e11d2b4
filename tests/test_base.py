"""The base class: what it checks when a class is made, what it says of itself, and how it is copied."""

import copy
import functools
import importlib.metadata
import re
from typing import Any

import lightning as L
import pytest

import callbacksets
from callbacksets import CallbackSet, CallbackSetHistory, elsewhere
from callbacksets.base import STAGES, check_instance, identify, snake_case
from tests.helpers import Act, fit, ones, quiet


class CallbackSetList(CallbackSet):
    """Holds a list, and has a stage."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_begin(self) -> None:
        self.seen.append("begin")


def nothing(self: Any) -> None: ...


def takes_batch(self: Any, batch: Any) -> None: ...


def takes_option(self: Any, verbose: bool = False) -> None: ...


def takes_keyword(self: Any, *, verbose: bool) -> None: ...


def takes_no_self() -> None: ...


async def coroutine(self: Any) -> None: ...


def generator(self: Any) -> Any:
    yield


@functools.wraps(nothing)
def decorated(*args: Any, **kwargs: Any) -> None: ...


def gives_batch(method: Any) -> Any:
    @functools.wraps(method)
    def wrapper(self: Any) -> None:
        method(self, "batch")

    return wrapper


def gives_batch_to_any(method: Any) -> Any:
    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        method(self, "batch", *args, **kwargs)

    return wrapper


class Bound:
    """A decorator that returns a descriptor, which cannot be called itself."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else functools.partial(self.function, instance, *self.arguments)


REFUSED = {
    "misspelled": ({"on_epoch_ned": nothing}, "X.on_epoch_ned is not a stage. Did you mean 'on_epoch_end'? The stages"),
    "unknown": (
        {"on_quite_another_thing": nothing},
        "X.on_quite_another_thing is not a stage. The stages are 'on_begin', 'on_epoch_begin'",
    ),
    "Lightning's hook": ({"on_train_start": nothing}, "It is a hook of Lightning; here it is 'on_begin'."),
    "a batch hook": ({"on_train_batch_end": takes_batch}, "here it is 'on_batch_end'."),
    "Lightning's state hook": ({"on_save_checkpoint": nothing}, "here it is 'state_dict'."),
    "of another loop": ({"on_test_start": nothing}, "Callbacks run in trainer.fit() only"),
    "argument": ({"on_batch_end": takes_batch}, "X.on_batch_end takes 'batch', but a stage is called without"),
    "optional argument": ({"on_end": takes_option}, "X.on_end takes 'verbose'"),
    "keyword": ({"on_end": takes_keyword}, "X.on_end takes 'verbose'"),
    "argument of a static method": ({"on_end": staticmethod(nothing)}, "X.on_end takes 'self'"),
    "no self": ({"on_end": takes_no_self}, "X.on_end has no parameter self. Define on_end(self)."),
    "coroutine": ({"on_end": coroutine}, "X.on_end is a coroutine or generator function"),
    "generator": ({"on_end": generator}, "X.on_end is a coroutine or generator function"),
    "misspelled descriptor": ({"on_epoch_ned": Bound(nothing)}, "Did you mean 'on_epoch_end'?"),
    "property": ({"on_end": property(nothing)}, "Expected X.on_end to be a method or None but got <property"),
    "no function": ({"on_end": 3}, "Expected X.on_end to be a method or None but got 3."),
}


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_the_class(body: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        type("X", (CallbackSet,), body)


def test_refuses_what_a_mixin_brings() -> None:
    class Mixin:
        def on_epoch_ned(self) -> None: ...

    with pytest.raises(TypeError, match=r"X.on_epoch_ned is not a stage"):
        type("X", (Mixin, CallbackSet), {})


ALLOWED = {
    "method": nothing,
    "None": None,
    "static method": staticmethod(takes_no_self),
    "class method": classmethod(nothing),
    "decorated": decorated,
    "partial method": functools.partialmethod(takes_batch, "batch"),
    "partial method by keyword": functools.partialmethod(takes_keyword, verbose=True),
    "wrapper that gives an argument": gives_batch(takes_batch),
    "wrapper of any that gives an argument": gives_batch_to_any(takes_batch),
    "descriptor": Bound(nothing),
    "descriptor that gives an argument": Bound(takes_batch, "batch"),
    "cached": functools.lru_cache(nothing),
}


@pytest.mark.parametrize("stage", ALLOWED.values(), ids=ALLOWED)
def test_allows(stage: Any) -> None:
    cls = type("X", (CallbackSet,), {"on_end": stage, "_on_private": takes_batch, "once": takes_batch})
    callback = cls()
    check_instance(callback)
    assert callback.stages == (["on_end"] if callable(callback.on_end) else [])
    for stage in callback.stages:
        getattr(callback, stage)()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("on_epoch_ned", lambda: None, "CallbackSetList.on_epoch_ned is not a stage. Did you mean 'on_epoch_end'?"),
        ("on_train_start", lambda: None, "here it is 'on_begin'."),
        ("on_sanity_check_start", lambda: None, "is not a stage. No stage runs in the sanity check."),
        ("on_end", lambda batch: None, "CallbackSetList.on_end takes 'batch'"),
        ("on_end", coroutine.__get__(object()), "is a coroutine or generator function"),
        ("on_end", "now", "Expected CallbackSetList.on_end to be a method or None but got 'now'."),
    ],
)
def test_refuses_on_the_instance(name: str, value: Any, message: str) -> None:
    callback = CallbackSetList()
    setattr(callback, name, value)
    with pytest.raises(TypeError, match=re.escape(message)):
        check_instance(callback)


@pytest.mark.parametrize("stage", [Bound(takes_batch), functools.partialmethod(lambda self, a, batch: None, 1)])
def test_what_a_descriptor_makes_is_checked(stage: Any) -> None:
    with pytest.raises(TypeError, match=re.escape("X.on_end takes 'batch'")):
        type("X", (CallbackSet,), {"on_end": stage})


def test_stages_of_any_kind_run_in_a_fit() -> None:
    def note(self: Any, what: str) -> None:
        seen.append(what)

    seen: list[str] = []
    stages = {
        "on_begin": functools.partialmethod(note, "partial"),
        "on_epoch_end": gives_batch(note),
        "on_end": Bound(note, "descriptor"),
    }
    fit(type("X", (CallbackSet,), stages)())
    assert seen == ["partial", "batch", "descriptor"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("on_valid_begin", "It is a hook of luz; here it is 'on_before_valid'."),
        ("on_valid_batch_begin", "It is a hook of luz; here it is 'on_batch_valid_begin'."),
        ("on_valid_batch_end", "It is a hook of luz; here it is 'on_batch_valid_end'."),
        ("on_train_batch_begin", "It is a hook of Keras, luz; here it is 'on_batch_begin'."),
        ("on_train_batch_end", "It is a hook of Lightning, Keras, luz; here it is 'on_batch_end'."),
        ("on_fit_begin", "It is a hook of luz; here it is 'on_begin'."),
        ("on_fit_end", "It is a hook of Lightning, luz; here it is 'on_end'."),
        (
            "on_train_begin",
            "It is a hook of Keras, Hugging Face, skorch; here it is 'on_begin'. It is a hook of luz; here it is "
            "'on_epoch_begin'.",
        ),
        (
            "on_train_end",
            "It is a hook of Lightning, Keras, Hugging Face, skorch; here it is 'on_end'. It is a hook of luz; here it "
            "is 'on_before_valid'.",
        ),
        ("on_epoch_start", "It is a hook of Lightning; here it is 'on_epoch_begin'."),
        ("on_test_begin", "It is a hook of Keras; here it is 'on_before_valid'."),
        (
            "on_test_batch_end",
            "It is a hook of Lightning; here no stage runs at that moment. It is a hook of Keras; here it is "
            "'on_batch_valid_end'.",
        ),
        ("on_before_step", "It is a hook of fastai; here it is 'on_after_backward'."),
        ("on_step_end", "It is a hook of Hugging Face; here it is 'on_batch_end'."),
        ("on_grad_computed", "It is a hook of skorch; here it is 'on_after_backward'."),
        ("on_iteration_completed", "It is a hook of Ignite; here it is 'on_batch_end'."),
        ("on_eval_batch_end", "It is a hook of Composer; here it is 'on_batch_valid_end'."),
        ("on_before_backward", "It is a hook of Lightning; here no stage runs at that moment."),
        ("on_backward_end", "Did you mean 'on_after_backward'?"),
        ("on_val_batch_end", "Did you mean 'on_batch_valid_end'?"),
    ],
)
def test_hooks_of_other_libraries(name: str, hint: str) -> None:
    with pytest.raises(TypeError) as caught:
        type("X", (CallbackSet,), {name: nothing})
    assert f"X.{name} is not a stage. {hint} The stages are 'on_begin'," in str(caught.value)


def lightnings_hooks() -> list[str]:
    return [name for name in vars(L.Callback) if name.startswith("on_") and name not in STAGES]


@pytest.mark.parametrize("name", lightnings_hooks())
def test_every_hook_of_lightning_has_a_hint(name: str) -> None:
    with pytest.raises(TypeError, match=r"hook of Lightning|in trainer.fit\(\) only|in the sanity check"):
        type("X", (CallbackSet,), {name: nothing})


def test_the_table_of_hooks_leads_to_what_there_is() -> None:
    known = {*STAGES, "state_dict", "load_state_dict", ""}
    for library, stages in elsewhere.hooks().items():
        assert set(stages) <= known, library
        hooks = [hook for names in stages.values() for hook in names]
        assert len(hooks) == len(set(hooks)), library
        assert not set(hooks) & set(STAGES), library


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("log", "self.ctx.learner.log(...), or for a score"),
        ("log_dict", "self.ctx.learner.log_dict(...)"),
        ("trainer", "self.ctx.trainer."),
        ("pl_module", "self.ctx.learner."),
    ],
)
def test_what_a_lightning_callback_has_is_elsewhere(name: str, here: str) -> None:
    callback = CallbackSetList()
    with pytest.raises(AttributeError, match=re.escape(f"A CallbackSet has no {name!r}. In a fit, use {here}")):
        getattr(callback, name)
    assert not hasattr(callback, name)
    setattr(callback, name, "of my own")
    assert getattr(callback.clone(deep=True), name) == "of my own"


def test_public_stages_and_version() -> None:
    assert callbacksets.STAGES is STAGES
    assert len(STAGES) == 12
    assert callbacksets.__version__ == importlib.metadata.version("callbacksets")
    assert "STAGES" in callbacksets.__all__


def test_stages_come_in_the_order_in_which_they_run() -> None:
    cls = type("X", (CallbackSet,), dict.fromkeys(reversed(STAGES), nothing))
    assert cls().stages == list(STAGES)


def test_stages_of_an_instance() -> None:
    callback = CallbackSetList()
    callback.on_end = lambda: None
    assert callback.stages == ["on_begin", "on_end"]
    callback.on_begin = None
    assert callback.stages == ["on_end"]


def test_defaults() -> None:
    callback = CallbackSet()
    assert callback.ctx is None
    assert callback.weight == 0
    assert callback.stages == []
    assert callback.state_dict() is None
    callback.load_state_dict(None)
    with pytest.warns(UserWarning, match="CallbackSet does not implement load_state_dict"):
        callback.load_state_dict({})


def test_prints(capsys: pytest.CaptureFixture[str]) -> None:
    CallbackSetList().print()
    CallbackSet().print()
    assert capsys.readouterr().out == "<CallbackSetList>\n* Stages: on_begin\n<CallbackSet>\n* Stages: -\n"
    assert repr(CallbackSetList()) == "<CallbackSetList: on_begin>"
    assert repr(CallbackSet()) == "<CallbackSet: no stages>"


@pytest.mark.parametrize(("deep", "shared"), [(False, True), (True, False)])
def test_clone(deep: bool, shared: bool) -> None:
    callback = CallbackSetList()
    callback.weight = 7
    clone = callback.clone(deep=deep)
    assert type(clone) is CallbackSetList
    assert clone.weight == 7
    assert (clone.seen is callback.seen) == shared


@pytest.mark.parametrize("deep", [False, True])
def test_a_stage_set_on_the_instance_is_the_clones_own(deep: bool) -> None:
    callback = CallbackSetList()
    callback.on_end = callback.on_begin
    clone = callback.clone(deep=deep)
    clone.seen = []
    clone.on_end()
    assert (clone.seen, callback.seen) == (["begin"], [])


def test_no_clone_during_a_fit() -> None:
    callback = CallbackSetList()
    callback.ctx = object()
    with pytest.raises(RuntimeError, match="CallbackSetList cannot be cloned during a fit"):
        callback.clone()


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (CallbackSetList(), r"got a CallbackSetList. Wrap it: .*CallbackSetAdapter\(\[CallbackSetList\(\.\.\.\)\]\)"),
        (CallbackSetList, r"got the class CallbackSetList. Wrap it: .*CallbackSetAdapter\(\[CallbackSetList\]\)"),
    ],
)
def test_is_no_lightning_callback(callback: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        quiet(callbacks=[callback])


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("CallbackSetEarlyStopping", "early_stopping"),
        ("CallbackSetTB", "tb"),
        ("CallbackSetLRScheduler", "lr_scheduler"),
        ("CallbackSetTop5Accuracy", "top5_accuracy"),
        ("CallbackSetGradient_clipper", "gradient_clipper"),
        ("CallbackSet", "callback_set"),
        ("LossEMA", "loss_ema"),
    ],
)
def test_identify(name: str, id: str) -> None:
    assert identify(type(name, (), {})) == id


def test_snake_case() -> None:
    assert list(map(snake_case, ["Step", "CosineAnnealing", "is_already"])) == [
        "step",
        "cosine_annealing",
        "is_already",
    ]


def test_a_copy_made_in_a_fit_is_not_in_it() -> None:
    def copies(ctx: Any) -> None:
        for callback in (ctx.callbacks["act"], ctx.callbacks["history"]):
            copied.extend((copy.copy(callback), copy.deepcopy(callback)))

    copied: list[CallbackSet] = []
    adapter = fit({"act": Act(on_batch_end=copies), "history": CallbackSetHistory()}, None, ones(1))
    assert [callback.ctx for callback in copied] == [None] * 4
    assert adapter.states["history"]["epoch"] == [1]
