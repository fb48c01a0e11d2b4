"""The price of the adapter in a fit.

One set that reads nothing against the bare fit, for a tiny module (the worst case: a batch of it costs nothing) and
for a realistic one. The time of a batch is the median of those from one batch to the next, so that setting up the fit
is not in it. Fits alternate, and are short and many, as where their tensors come to lie makes some slower than others
throughout; the bare fit against itself shows the noise in which all else has to be seen. Where that is larger than the
price: what an adapter adds does not depend on the network, so the price is also given as what one adds to the tiny
module, in parts of a batch of the realistic one.
"""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch

from benchmarks.fits import Tiny, adapter, digits, seconds_per_batch, small_convolutional
from benchmarks.report import Row, alternating, differences, microseconds, ratio, ratios

CONTENDERS: Mapping[str, Callable[[], list[Any]]] = {
    "bare": list,
    "bare again": list,
    "1 set": lambda: adapter(1),
    "10 sets": lambda: adapter(10),
}


def measure(quick: bool = False) -> list[Row]:
    tiny, realistic = "tiny module", "digits, batch 128"
    small = [torch.ones(2, 2)] * (5 if quick else 400)
    seconds_tiny = _seconds(Tiny, small, epochs=1, rounds=2 if quick else 20)
    seconds = _seconds(small_convolutional, digits(128), epochs=1, rounds=2 if quick else 150)
    added = statistics.median(differences(seconds_tiny["1 set"], seconds_tiny["bare"]))
    price = [1 + added / bare for bare in seconds["bare"]]
    return [
        *_rows(tiny, seconds_tiny),
        *_rows(realistic, seconds, goal="at most 1.01"),
        Row(f"{realistic}: 1 set / bare, from what it adds to the tiny module", ratio(price), "at most 1.01"),
    ]


def _seconds(
    make: Callable[[], L.LightningModule], batches: list[Any], epochs: int, rounds: int
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for name in alternating(rounds, list(CONTENDERS)):
        torch.manual_seed(0)
        seconds[name].append(seconds_per_batch(make(), batches, epochs, CONTENDERS[name]()))
    return seconds


def _rows(what: str, seconds: Mapping[str, list[float]], goal: str = "") -> list[Row]:
    bare = seconds["bare"]
    others = {name: values for name, values in seconds.items() if name != "bare"}
    rows = [Row(f"{what}: a batch, bare", microseconds(bare))]
    for name, values in others.items():
        rows.append(Row(f"{what}: {name} / bare", ratio(ratios(values, bare)), goal if name == "1 set" else ""))
    added = {name: differences(seconds[name], bare) for name in ("1 set", "10 sets")}
    return rows + [Row(f"{what}: added by {name}", microseconds(values)) for name, values in added.items()]
