"""Giving Lightning the scores that callbacks have added, for its own callbacks and loggers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities import rank_zero_warn

from callbacksets.checks import listed
from callbacksets.fit.lightning import logged_step
from callbacksets.fit.loop import Loop
from callbacksets.fit.reader import Reading
from callbacksets.scores import Scores, short_name

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Publisher:
    """Publishes the scores that callbacks add, as `train_<name>` and `val_<name>`."""

    def __init__(self, trainer: "Trainer", loop: Loop) -> None:
        self._trainer = trainer
        self._loop = loop
        self.published: dict[str, float] = {}
        """The scores that were published last, also before the run was resumed."""
        self._refused: set[str] = set()
        self._before: Mapping[str, float | None] | None = None  # what they had added in `on_before_valid`

    def train_scores(self) -> None:
        """Publish the training scores that callbacks have added in `on_before_valid`."""
        self._before = added = self._added(self._loop.scores_train)
        self._publish("train", added)

    def changed_train_scores(self) -> None:
        """Publish those that callbacks have added or changed since then, in `on_epoch_end`."""
        added, before = self._added(self._loop.scores_train), self._before
        if before is None:  # that was before the run was resumed
            before = {name: self.published.get(f"train_{short_name(name)}") for name in added}
        self._publish("train", {name: value for name, value in added.items() if value != before.get(name)})

    def valid_scores(self) -> None:
        """Publish the validation scores that callbacks have added in `on_valid_end`."""
        self._publish("val", self._added(self._loop.scores_valid))

    def _added(self, scores: Scores | Reading | None) -> dict[str, float]:
        """The scores that the module has not logged. On several ranks, all ranks get those of rank zero."""
        added: dict[str, float] = {}
        if scores is not None and not isinstance(scores, Reading):  # nobody has added a score to a Reading
            read = set(scores.logged.values())
            added = {name: value for name, value in scores.items() if name not in read}
        if self._trainer.world_size > 1:
            added = self._trainer.strategy.broadcast(added)
            if isinstance(scores, Scores):
                scores.update(added)
        return added

    def _publish(self, loop: str, added: dict[str, float]) -> None:
        named = {f"{loop}_{short_name(name)}": value for name, value in added.items()}
        if len(named) < len(added):
            self._refuse(
                str(sorted(added)), f"The scores {listed(added)} of callbacks become {listed(named)} for Lightning"
            )
        free = {name: value for name, value in named.items() if not self._is_taken(name)}
        if not free:
            return
        self.published |= free
        trainer = self._trainer
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in free.items()})
        # at the end of an epoch, Lightning logs under the step of its last batch
        step = logged_step(trainer) - (not trainer.validating)
        for logger in trainer.loggers:
            logger.log_metrics(free | {"epoch": trainer.current_epoch}, step)

    def _is_taken(self, name: str) -> bool:
        loop = self._loop
        of_module = {*loop.measures_train.logged, *loop.measures_valid.logged}
        is_taken = name in of_module or (name in self._trainer.callback_metrics and name not in self.published)
        if is_taken:
            self._refuse(name, f"The module logs {name!r} itself, so Lightning does not get this score from a callback")
        return is_taken

    def _refuse(self, name: str, why: str) -> None:
        if name not in self._refused:
            self._refused.add(name)
            rank_zero_warn(f"{why}. Give the callback's score another name.")
