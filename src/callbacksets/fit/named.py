"""The parts of a module that the adapter was given by name: the network and the loss function."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from callbacksets.checks import did_you_mean, listed

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule


def check_names(learner: "LightningModule", network: str | None, loss_fn: str | None) -> None:
    """Raise an `AttributeError` unless the module has the parts with these names."""
    if network is not None:
        named_module(learner, network)
    if loss_fn is not None:
        named_loss_fn(learner, loss_fn)


def named_module(learner: "LightningModule", name: str) -> nn.Module:
    """The submodule that is the network."""
    try:
        return learner.get_submodule(name)
    except AttributeError:
        names = [module for module, _ in learner.named_modules() if module]
        raise AttributeError(
            f"{type(learner).__name__} has no submodule {name!r} for the adapter's argument network."
            f"{did_you_mean(name, names)} It has {listed(names)}."
        ) from None


def named_loss_fn(learner: "LightningModule", name: str) -> Callable[..., Any]:
    """The attribute that is the loss function."""
    loss_fn = getattr(learner, name, None)
    if not callable(loss_fn):
        names = [key for key in (*vars(learner), *dict(learner.named_children())) if not key.startswith("_")]
        names = [key for key in names if callable(getattr(learner, key))]
        raise AttributeError(
            f"{type(learner).__name__} has no callable {name!r} for the adapter's argument loss_fn."
            f"{did_you_mean(name, names)} It has {listed(names)}."
        )
    return loss_fn  # type: ignore[no-any-return]
