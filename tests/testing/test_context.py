"""The stand-in for `ctx`."""

from typing import Any

import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from callbacksets.testing import make_context


def test_context_has_what_it_was_given() -> None:
    network = nn.Linear(1, 1)
    ctx = make_context(
        epoch=3, network=network, last_scores_valid={"acc": 0.5}, measures_valid={"acc": None}, minimize=lambda name: 7
    )
    assert (ctx.epoch, ctx.network) == (3, network)
    assert ctx.last_scores_valid[0] == ctx.last_scores_valid["acc"] == 0.5
    assert ctx.measures_valid.name(0) == "acc"
    assert ctx.minimize("acc") == 7
    assert ctx.terminate is False
    scored = make_context(last_scores_valid={"acc": 0.5, "loss": 2.0}, measures_valid={"acc": MulticlassAccuracy(2)})
    assert (scored.minimize(), scored.minimize("loss"), scored.minimize("other")) == (False, True, None)
    assert make_context().minimize() is None
    assert make_context(y_hats=(network, 2)).y_hat is network
    assert repr(make_context(epoch=3)) == "make_context(terminate=False, epoch=3)"
    assert make_context(last_scores_valid=None).last_scores_valid is None


def test_context_is_set_as_in_a_fit() -> None:
    batch = [torch.zeros(1), torch.ones(1)]
    ctx: Any = make_context(batch=batch)
    ctx.terminate = True
    ctx.batch = (torch.ones(1), torch.ones(1))
    ctx.last_scores_train = {"loss": 1.0}
    ctx.mine = 5
    assert ctx.terminate is True
    assert ctx.batch is batch
    assert batch[0] == 1
    assert ctx.last_scores_train[0] == 1.0
    assert ctx.mine == 5


@pytest.mark.parametrize(
    ("name", "near"),
    [("terminte", "terminate"), ("last_score_valid", "last_scores_valid"), ("batch_", "batch")],
)
def test_a_misspelled_field_is_refused(name: str, near: str) -> None:
    ctx: Any = make_context()
    with pytest.raises(AttributeError, match=rf"ctx has no field '{name}'. Did you mean '{near}'\?"):
        setattr(ctx, name, True)


@pytest.mark.parametrize("name", ["mine", "batches", "best_scores", "stopped", "losses"])
def test_a_field_of_ones_own_is_not(name: str) -> None:
    ctx: Any = make_context()
    setattr(ctx, name, 7)
    assert getattr(ctx, name) == 7


def test_the_batch_can_be_set_also_where_none_was_given() -> None:
    ctx = make_context(epoch=1)
    ctx.batch = 1
    assert ctx.batch == 1
