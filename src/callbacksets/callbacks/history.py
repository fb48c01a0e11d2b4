"""Keeping the scores of every epoch."""

from typing import Any

from callbacksets.callbacks.starts_over import StartsOver


class CallbackSetHistory(StartsOver):
    """Keeps the training and validation scores of every epoch.

    Its state is a dict of equally long lists: `epoch`, `train.<name>`, `valid.<name>`, with None where there was no
    score. `pandas.DataFrame(state)` makes a table of it. The epochs of a resumed run are appended. A run without any
    score has no rows.

    Example:
        >>> from callbacksets import CallbackSetHistory
        >>> history = CallbackSetHistory()
        >>> history.load_state_dict({"epoch": [1, 2], "train.loss": [0.7, 0.5], "valid.loss": [0.8, None]})
        >>> history.state_dict()["valid.loss"]
        [0.8, None]

    mlr3torch: `t_clbk("history")`.
    """

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_begin(self) -> None:
        resumed = self._state_is_loaded
        super().on_begin()
        if resumed and not self.rows:
            # a run without scores until here has had its epochs nevertheless
            self.rows = [{"epoch": epoch} for epoch in range(1, self.ctx.epoch + 1)]

    def on_epoch_end(self) -> None:
        row: dict[str, Any] = {"epoch": self.ctx.epoch}
        for loop, scores in (("train", self.ctx.last_scores_train), ("valid", self.ctx.last_scores_valid)):
            row |= {f"{loop}.{name}": score for name, score in (scores or {}).items()}
        self.rows.append(row)

    def state_dict(self) -> dict[str, list[Any]]:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        scores = [name for name in columns if name != "epoch"]
        if not scores:
            return {"epoch": []}
        ordered = ["epoch", *sorted(scores, key=lambda name: name.startswith("valid."))]
        return {name: [row.get(name) for row in self.rows] for name in ordered}

    def load_state_dict(self, state_dict: dict[str, list[Any]]) -> None:
        names = list(state_dict)
        self.rows = [
            {name: value for name, value in zip(names, values, strict=True) if value is not None}
            for values in zip(*state_dict.values(), strict=True)
        ]
        self.loaded_state()
