"""Unfreezing parameters of a network step by step."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.nn.parallel import DistributedDataParallel

from callbacksets.base import CallbackSet
from callbacksets.callbacks.select import Selector, select_none, selector
from callbacksets.checks import did_you_mean, listed, nearest_first, shown, whole_number


class CallbackSetUnfreeze(CallbackSet):
    """Trains some parameters of the network from the start, and unfreezes others at a later epoch or batch.

    Its state is `trainable`, the names of the parameters that are trained. A resumed run trains these parameters and
    those of its own `starting_weights`.

    Example:
        >>> from callbacksets import CallbackSetUnfreeze, select_grep, select_name
        >>> head_first = CallbackSetUnfreeze(
        ...     starting_weights=select_grep(r"^head\\."),
        ...     unfreeze=[
        ...         {"epoch": 3, "weights": select_grep(r"^body\\.2\\.")},
        ...         {"epoch": 5, "weights": select_name(["body.0.weight", "body.0.bias"])},
        ...     ],
        ... )

    Args:
        starting_weights: A selector of the parameters to train from the start: `select_all()`, `select_none()`,
            `select_name()`, `select_grep()`, `select_invert()`, or any function from a list of names to some of them.
        unfreeze: A table of parameters to unfreeze later. Each row has `weights`, a selector, and either `epoch` or
            `batch`. Both count from 1; `batch` is `ctx.global_step`. All rows have `epoch`, or all have `batch`. The
            table is a list of mappings, or None. It may be empty. Of a data frame, give `frame.to_dict("records")`.

    Raises:
        TypeError, ValueError: If a row has no `weights`; if it has both or neither of `epoch` and `batch`; if some rows
            have `epoch` and others `batch`; or if two rows have the same value. In `on_begin`, if a selector other than
            `select_none()` as `starting_weights` selects no parameter, or a name that the network does not have.
        RuntimeError: In `on_begin`, if a DDP strategy would not synchronise the unfrozen parameters.

    mlr3torch: `t_clbk("unfreeze")`.
    """

    reads_y_hats: bool = False

    def __init__(self, starting_weights: Selector, unfreeze: Iterable[Mapping[str, Any]] | None) -> None:
        self.starting_weights: Selector = selector("starting_weights", starting_weights)
        self.unfreeze: list[Mapping[str, Any]] = _rows(unfreeze)
        self.start_over()

    def start_over(self) -> None:
        self._unit = "batch" if any("batch" in row for row in self.unfreeze) else "epoch"
        self._loaded: list[str] | None = None
        self._later: list[tuple[int, list[str]]] = []

    def on_begin(self) -> None:
        ctx, now = self.ctx, self._now
        parameters = dict(ctx.network.named_parameters())
        start = self._select("starting_weights", self.starting_weights)
        by_time = sorted((row[self._unit], row["weights"]) for row in self.unfreeze)
        rows = [(at, self._select(f"the weights at {self._unit} {at}", selector)) for at, selector in by_time]
        trainable = set(start).union(self._loaded or (), *(names for at, names in rows if at <= now))
        self._later = [(at, names) for at, names in rows if at > now]
        ever = trainable.union(*(names for _, names in rows))
        self._check_strategy(trainable, ever)
        self._train({name: name in trainable for name in parameters})
        is_soon = any(at == now + 1 for at, _ in self._later)
        if not is_soon and not any(parameter.requires_grad for parameter in ctx.learner.parameters()):
            rank_zero_warn(
                "All parameters are frozen at first, so the first backward call will fail. Let starting_weights select "
                f"some of {listed(parameters)}, or unfreeze some from the first epoch or batch on."
            )
        self._warn_of_unoptimized(ever)
        rank_zero_info(f"Trained from the start: {listed(name for name in parameters if name in trainable)}.")

    def on_epoch_begin(self) -> None:
        self._unfreeze_due()

    def on_batch_begin(self) -> None:
        self._unfreeze_due()  # also needed if the run was resumed inside an epoch, and after a batch of None

    def state_dict(self) -> dict[str, list[str]] | None:
        if self.ctx is None:
            return None if self._loaded is None else {"trainable": self._loaded}
        parameters = self.ctx.network.named_parameters()
        return {"trainable": [name for name, parameter in parameters if parameter.requires_grad]}

    def load_state_dict(self, state_dict: dict[str, list[str]]) -> None:
        self._loaded = state_dict["trainable"]

    def _unfreeze_due(self) -> None:
        while self._later and self._later[0][0] <= self._now:
            at, names = self._later.pop(0)
            self._train(dict.fromkeys(names, True))
            rank_zero_info(f"Unfrozen at {self._unit} {at}: {listed(names)}.")

    @property
    def _now(self) -> int:
        return self.ctx.epoch if self._unit == "epoch" else self.ctx.global_step

    def _train(self, whether: Mapping[str, bool]) -> None:
        """Set `requires_grad` of the network's parameters and, with FSDP2, of the parameters behind them.

        A module of `fully_shard()` shows whole parameters between a forward call and the resharding, else the shards
        that are trained. Gradients are computed for the whole parameters and copied to the shards. `requires_grad` must
        be set on both.
        """
        network = self.ctx.network

        def set_shown() -> None:
            for name, parameter in network.named_parameters():
                if name in whether:
                    parameter.requires_grad_(whether[name])

        for module in self.ctx.learner.modules():
            if hasattr(module, "unshard") and hasattr(module, "reshard"):
                module.unshard()  # type: ignore[operator]
                set_shown()
                module.reshard()  # type: ignore[operator]
        set_shown()

    def _select(self, what: str, selector: Selector) -> list[str]:
        known = [name for name, _ in self.ctx.network.named_parameters()]
        part = known[0].partition(".")[0] if known else ""
        hint = ""
        if self.ctx.network is self.ctx.learner and all(name.startswith(f"{part}.") for name in known):
            hint = f" All are in {part!r}. To leave that out of the names: CallbackSetAdapter(..., network={part!r})."
        try:
            returned = selector(known)
        except ValueError as error:  # a name that `select_name()` does not find
            raise ValueError(f"{what}: {error}{hint}") from error
        selected = [returned] if isinstance(returned, str) or not isinstance(returned, Iterable) else list(returned)
        if not all(isinstance(one, str) for one in selected):
            raise TypeError(
                f"Expected {what} to be names of parameters, but {shown(selector)} returned {shown(returned)}."
            )
        unknown = [name for name in selected if name not in known]
        is_start = selector is self.starting_weights
        if unknown or not (selected or (is_start and repr(selector) == repr(select_none()))):
            other = "give select_none() to train nothing at first" if is_start else "remove the row"
            remedy = did_you_mean(unknown[0], known) if unknown else f" Correct the selector, or {other}."
            near = nearest_first(unknown or re.findall("'(.*?)'", repr(selector)), known)
            raise ValueError(
                f"Expected {what} to be names of the network's parameters, but {shown(selector)} selected "
                f"{listed(unknown)}.{remedy} There are {listed(near)}.{hint}"
            )
        return selected

    def _check_strategy(self, trainable: set[str], ever: set[str]) -> None:
        """Check that DDP, which has already wrapped the module, will synchronise all trained parameters."""
        wrapper = self.ctx.trainer.model
        if not isinstance(wrapper, DistributedDataParallel):
            return
        trained_then = {name for name, parameter in self.ctx.network.named_parameters() if parameter.requires_grad}
        if never := sorted(ever - trained_then):
            raise RuntimeError(
                f"DDP will not synchronise {listed(never)}, because they were frozen when it wrapped the module. Leave "
                "requires_grad=True in the module; this callback does the freezing."
            )
        if trained_then - trainable and not wrapper.find_unused_parameters:
            raise RuntimeError(
                "DDP does not synchronise parameters that are frozen or unfrozen during a fit, unless it searches for "
                "unused parameters. Use Trainer(strategy='ddp_find_unused_parameters_true')."
            )

    def _warn_of_unoptimized(self, names: set[str]) -> None:
        groups = [group for optimizer in self.ctx.optimizers for group in optimizer.param_groups]
        held = {id(parameter) for group in groups for parameter in group["params"]}
        parameters = self.ctx.network.named_parameters()
        never = [name for name, parameter in parameters if name in names and id(parameter) not in held]
        if groups and never:
            rank_zero_warn(
                f"No optimizer has {listed(never)}, so they will not be trained. Give the optimizers all parameters in "
                "configure_optimizers(), not only those that require a gradient at first."
            )


def _rows(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable | None):
        raise TypeError(
            f"Expected unfreeze to be a list of rows like {{'epoch': 2, 'weights': ...}} but got {shown(value)}."
        )
    rows = [] if value is None else list(value)
    for number, row in enumerate(rows):
        _check_row(f"unfreeze[{number}]", row)
    if any("epoch" in row for row in rows) and any("batch" in row for row in rows):
        raise ValueError("Expected unfreeze to have 'epoch' in all rows or 'batch' in all rows, but it has both.")
    for (unit, at), times in Counter((unit, row[unit]) for row in rows for unit in row if unit != "weights").items():
        if times > 1:
            raise ValueError(f"Expected unfreeze to have one row for {unit} {at} but got {times}. Combine them.")
    return rows


def _check_row(name: str, row: Any) -> None:
    if not isinstance(row, Mapping):
        raise TypeError(f"Expected {name} to be a row like {{'epoch': 2, 'weights': ...}} but got {shown(row)}.")
    if set(row) not in ({"epoch", "weights"}, {"batch", "weights"}):
        known = ("epoch", "batch", "weights")
        near = did_you_mean(next((key for key in row if key not in known), None), known)
        raise ValueError(
            f"Expected {name} to have 'weights' and either 'epoch' or 'batch' but it has {listed(row)}.{near}"
        )
    selector(f"{name}['weights']", row["weights"])
    unit = "epoch" if "epoch" in row else "batch"
    whole_number(f"{name}[{unit!r}]", row[unit], at_least=1)
