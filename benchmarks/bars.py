"""What a progress bar costs, per batch.

Lightning's own bar and `progress` in fits of a tiny module, in alternating rounds, each in a terminal that takes
everything and shows nothing. In a notebook, `progress` is measured with a page that does the same; Lightning's bar is
not, as its widgets need a browser that answers. What the Trainer takes without any of them is taken off; so what
`progress` costs includes the adapter.
"""

import contextlib
import io
import statistics
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from lightning.pytorch.callbacks import TQDMProgressBar

from benchmarks.fits import Ticking, Tiny, quiet
from benchmarks.report import Row, alternating, differences, microseconds, ratio, ratios
from callbacksets import CallbackSetAdapter

CONTENDERS: dict[str, Callable[[], dict[str, Any]]] = {
    "none": dict,
    "Lightning's bar": lambda: {"callbacks": [TQDMProgressBar()], "enable_progress_bar": True},
    "progress": lambda: {"callbacks": [CallbackSetAdapter("progress")]},
    "progress in a notebook": lambda: {"callbacks": [CallbackSetAdapter("progress")]},
}


class Terminal(io.StringIO):
    """Takes everything and keeps nothing."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


def measure(quick: bool = False) -> list[Row]:
    rounds, batches, epochs = (2, 5, 1) if quick else (15, 500, 2)
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for name in alternating(rounds, list(CONTENDERS)):
        loader = Ticking([torch.ones(1, 2)] * batches)
        with shown_to_nobody(notebook=name.endswith("notebook")):
            quiet(max_epochs=epochs, **CONTENDERS[name]()).fit(Tiny(), loader)
        # the mean, as a bar is drawn in some batches only
        seconds[name].append(statistics.mean((ticks[-1] - ticks[0]) / (batches - 1) for ticks in loader.ticks))
    added = {name: differences(taken, seconds["none"]) for name, taken in seconds.items() if name != "none"}
    lightning = added["Lightning's bar"]
    rows = [Row(f"added by {name}", microseconds(taken)) for name, taken in added.items()]
    ours = [name for name in added if name.startswith("progress")]
    return rows + [
        Row(f"{name} / Lightning's bar", ratio(ratios(added[name], lightning)), "at most 1") for name in ours
    ]


@contextlib.contextmanager
def shown_to_nobody(*, notebook: bool) -> Iterator[None]:
    """A terminal, or a page, that takes everything."""

    def taken(*args: Any, **kwargs: Any) -> None: ...

    display = SimpleNamespace(DisplayHandle=lambda: SimpleNamespace(display=taken, update=taken))
    with (
        mock.patch.object(sys, "stdout", Terminal()),
        mock.patch.object(sys, "stderr", Terminal()),
        mock.patch("callbacksets.callbacks.progress.in_notebook", return_value=notebook),
        mock.patch("callbacksets.show.notebook.import_module", return_value=display),
    ):
        yield
