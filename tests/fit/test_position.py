"""Where a run goes on, as a table: what the checkpoint says, and what follows. No Trainer is needed."""

from typing import Any

import pytest

from callbacksets.fit.position import Counts, Point, Position, Progress, continuation

EPOCHS = {  # of a run that has ended one epoch, at the moments of the second
    "ended": Counts(1, 1, 1, 1),
    "ends": Counts(1, 1, 1, 0),
    "begins": Counts(2, 1, 1, 1),
    "inside": Counts(2, 2, 1, 1),
}
FIRST = {"on_epoch_begin": (1, 0), "on_before_valid": (1, 4), "on_valid_end": (1, 4), "on_epoch_end": (1, 4)}
SECOND = FIRST | {"on_epoch_begin": (2, 4)}


def saved(**changes: Any) -> dict[str, Any]:
    same = {"validates": False, "rest": False, "has_all": False, "in_step": False, "to_come": ("", [])}
    return {"now": (2, 6), "ran": SECOND} | same | changes


def batches(trained: int, *, under_way: int = 0, hooks: int = 0) -> Counts:
    return Counts(trained + under_way, trained + under_way, trained, trained - hooks)


@pytest.mark.parametrize(
    ("told", "epoch", "batch", "point", "position", "due"),
    [
        # between epochs
        ({"ran": FIRST, "has_all": True}, "ended", batches(4), Point.EPOCH, (1, 4, 4), ()),
        ({"ran": FIRST, "has_all": True}, "ends", batches(4), Point.EPOCH, (1, 4, 4), ()),
        ({"ran": FIRST, "has_all": True}, "begins", batches(4), Point.EPOCH, (1, 4, 4), ()),
        ({"has_all": True}, "begins", batches(4), Point.EPOCH, (1, 4, 4), ()),
        # a callback failed there, and those behind it had not run the stage
        (
            {"has_all": True, "to_come": ("on_epoch_begin", ["behind"])},
            *("begins", batches(4), Point.EPOCH, (1, 4, 4), (("on_epoch_begin", ["behind"]),)),
        ),
        (
            {"ran": FIRST, "has_all": True, "to_come": ("on_epoch_end", ["behind"])},
            *("ends", batches(4), Point.EPOCH, (1, 4, 4), (("on_epoch_end", ["behind"]),)),
        ),
        (
            {"ran": FIRST | {"on_epoch_end": (0, 0)}, "has_all": True, "to_come": ("on_before_valid", [])},
            *("ends", batches(4), Point.EPOCH, (1, 4, 4), (("on_epoch_end", None),)),
        ),
        # a Lightning callback failed at the end of an epoch, before the adapter's turn
        (
            {"ran": FIRST | {"on_epoch_end": (0, 0)}, "has_all": True},
            "ends",
            batches(4),
            Point.EPOCH_END,
            (0, 4, 4),
            (),
        ),
        # inside an epoch
        ({}, "inside", batches(0), Point.BATCH, (1, 0, 4), ()),
        ({}, "inside", batches(0, under_way=1), Point.BATCH, (1, 0, 4), ()),
        ({}, "inside", batches(2), Point.BATCH, (1, 2, 6), ()),
        ({"rest": True}, "inside", batches(2, hooks=1), Point.BATCH, (1, 2, 6), ()),
        ({"in_step": True}, "inside", batches(2, under_way=1), Point.BATCH, (1, 2, 6), ()),
        ({"has_all": True}, "inside", batches(3, under_way=1), Point.BATCH, (1, 3, 7), ()),
        (
            {"to_come": ("on_batch_end", ["behind"]), "rest": True},
            *("inside", batches(2, hooks=1), Point.BATCH, (1, 2, 6), (("on_batch_end", ["behind"]),)),
        ),
        # a validation is due, or under way
        ({"validates": True, "rest": True}, "inside", batches(2, hooks=1), Point.VALIDATION, (1, 2, 6), ()),
        ({"validates": True, "rest": True, "has_all": True}, "inside", batches(4), Point.VALIDATION, (1, 4, 8), ()),
        ({"validates": True}, "inside", batches(2, under_way=1), Point.BATCH, (1, 2, 6), ()),
        # it is over
        ({"rest": True, "has_all": True}, "inside", batches(4), Point.EPOCH_END, (1, 4, 8), ()),
    ],
)
def test_where_a_run_goes_on(
    told: dict[str, Any], epoch: str, batch: Counts, point: Point, position: tuple[int, int, int], due: Any
) -> None:
    total = (4 if epoch == "inside" else 0) + batch.processed
    to = continuation(saved(**told), Progress(EPOCHS[epoch], batch, total), has_steps=False)
    assert (to.point, (to.epochs, to.batch, to.batches), to.due) == (point, position, due)
    assert to.now == (to.epochs + (point is not Point.EPOCH), to.batches)
    assert to.rest is (told.get("rest", False) and batch.ready == batch.processed)
    assert to.step_again is told.get("in_step", False)
    assert to.plateau is (epoch == "ends" and point is Point.EPOCH)


def test_an_interrupted_validation_runs_from_its_first_stage() -> None:
    ran = SECOND | {"on_before_valid": (2, 6)}
    progress = Progress(EPOCHS["inside"], batches(2), 6)
    to = continuation(saved(ran=ran, validates=True, rest=True), progress, has_steps=False)
    assert to.ran == {stage: moment for stage, moment in SECOND.items() if stage != "on_before_valid"}
    told = saved(ran=ran, validates=True, to_come=("on_before_valid", ["behind"]))
    assert continuation(told, progress, has_steps=False).due == ()
    over = saved(ran=ran | {"on_valid_end": (2, 6)}, rest=True)
    assert continuation(over, progress, has_steps=False).ran == over["ran"]


@pytest.mark.parametrize(("has_steps", "has_all", "point"), [(True, False, Point.BATCH), (False, False, Point.EPOCH)])
def test_an_epoch_that_a_limit_of_steps_cut_short_goes_on(has_steps: bool, has_all: bool, point: Point) -> None:
    progress = Progress(Counts(2, 2, 2, 2), batches(3), 7)
    ran = SECOND | {"on_epoch_end": (2, 7)}
    to = continuation(saved(now=(2, 7), ran=ran, has_all=has_all), progress, has_steps=has_steps)
    assert (to.point, to.now) == (point, (2, 7))
    assert ("on_epoch_end" in to.ran) is not has_steps
    with_all = continuation(saved(now=(2, 7), ran=ran, has_all=True), progress, has_steps=True)
    assert with_all.point is Point.EPOCH


@pytest.mark.parametrize(
    ("ran", "in_epoch", "in_batch", "in_validation"),
    [
        ({}, False, False, False),
        ({"on_epoch_begin": (2, 4)}, True, False, False),
        ({"on_epoch_begin": (2, 4), "on_batch_begin": (2, 6)}, True, True, False),
        ({"on_epoch_begin": (2, 4), "on_batch_begin": (2, 6), "on_batch_end": (2, 6)}, True, False, False),
        ({"on_epoch_begin": (2, 4), "on_before_valid": (2, 6)}, True, False, True),
        ({"on_epoch_begin": (2, 4), "on_before_valid": (2, 6), "on_valid_end": (2, 6)}, True, False, False),
        ({"on_epoch_begin": (2, 4), "on_epoch_end": (2, 6)}, False, False, False),
        ({"on_epoch_begin": (1, 0), "on_epoch_end": (1, 4)}, False, False, False),
    ],
)
def test_the_logbook_tells_where_training_is(
    ran: dict[str, tuple[int, int]], in_epoch: bool, in_batch: bool, in_validation: bool
) -> None:
    position = Position(now=(2, 6), ran=ran)
    assert (position.in_epoch, position.in_batch, position.in_validation) == (in_epoch, in_batch, in_validation)
