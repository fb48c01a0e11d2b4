"""Ten do-nothing callbacks here and in other libraries, per batch.

The same network (a perceptron of 64, 32 and 10 units), loss, data (the digits in batches of 32) and kind of callback
(an object or function that does nothing, at the places of a batch which the library has). What ten of them add is the
difference of two fits, with and without, of which the times from batch to batch are taken. Fits alternate.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.fits import Nothing, Ticking, adam, digits, nothings, quiet, small_perceptron
from benchmarks.report import Row, alternating, differences, microseconds
from callbacksets import CallbackSetAdapter, SupervisedModule

Fit = Callable[[Ticking, int, int], None]
"""Trains on a loader, for some epochs, with some callbacks."""


def measure(quick: bool = False) -> list[Row]:
    epochs, rounds = (1, 2) if quick else (4, 9)
    batches = digits(32)
    contenders = [(name, n) for name, (_, package) in FITS.items() if _installed(package) for n in (0, 10)]
    labels = [f"{name}\t{n}" for name, n in contenders]
    seconds: dict[str, list[float]] = {label: [] for label in labels}
    for label in [*labels, *alternating(rounds, labels)]:  # once to warm up: some set up much at their first fit
        name, n = label.split("\t")
        loader = Ticking(batches)
        torch.manual_seed(0)
        FITS[name][0](loader, epochs, int(n))
        seconds[label].append(loader.per_batch)
    rows = []
    for name, (_, package) in FITS.items():
        if not _installed(package):
            rows.append(Row(name, f"skipped: {package} is not installed (pip install 'callbacksets[bench]')"))
            continue
        bare, ten = seconds[f"{name}\t0"][1:], seconds[f"{name}\t10"][1:]
        rows.append(Row(f"{name}: a batch without callbacks", microseconds(bare)))
        rows.append(Row(f"{name}: added by ten", microseconds(differences(ten, bare))))
    return rows


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _by_hand(loader: Ticking, epochs: int, n: int) -> None:
    network, loss_fn = small_perceptron(), nn.CrossEntropyLoss()
    optimizer = adam(network.parameters())
    callbacks = [Nothing() for _ in range(n)]
    for _ in range(epochs):
        for x, y in loader:
            for callback in callbacks:
                callback.on_batch_begin()
            optimizer.zero_grad()
            loss = loss_fn(network(x), y)
            loss.backward()
            for callback in callbacks:
                callback.on_after_backward()
            optimizer.step()
            for callback in callbacks:
                callback.on_batch_end()


def _lightning(callbacks: Callable[[int], list[L.Callback]]) -> Fit:
    def fit(loader: Ticking, epochs: int, n: int) -> None:
        module = SupervisedModule(small_perceptron(), nn.CrossEntropyLoss(), adam)
        quiet(max_epochs=epochs, callbacks=callbacks(n)).fit(module, loader)

    return fit


def _skorch(loader: Ticking, epochs: int, n: int) -> None:
    from skorch import NeuralNet
    from skorch.callbacks import Callback

    net = NeuralNet(
        small_perceptron,
        nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        optimizer__lr=1e-3,
        max_epochs=epochs,
        train_split=None,
        verbose=0,
        callbacks=[(f"nothing_{i}", Callback()) for i in range(n)],
        iterator_train=lambda dataset, **_: loader,
    )
    net.fit(_Wrapped(loader))


def _ignite(loader: Ticking, epochs: int, n: int) -> None:
    from ignite.engine import Events, create_supervised_trainer

    network = small_perceptron()
    engine = create_supervised_trainer(network, adam(network.parameters()), nn.CrossEntropyLoss())
    for _ in range(n):
        engine.add_event_handler(Events.ITERATION_STARTED, lambda engine: None)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: None)
    engine.run(loader, max_epochs=epochs)


def _keras(loader: Ticking, epochs: int, n: int) -> None:
    os.environ["KERAS_BACKEND"] = "torch"  # read at the first import
    import keras

    class Nothing(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None: ...

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None: ...

    layers = [keras.layers.Flatten(), keras.layers.Dense(32, "relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((1, 8, 8)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    batches = DataLoader(_Wrapped(loader), batch_size=None)  # it takes no loader that is not torch's
    # one more, as without any Keras leaves its own to another thread, which costs more than ten
    model.fit(batches, epochs=epochs, verbose=0, callbacks=[Nothing() for _ in range(n + 1)])


class _Wrapped(torch.utils.data.IterableDataset[Any]):
    """A loader as the data set that some libraries insist on."""

    def __init__(self, loader: Ticking) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)


FITS: dict[str, tuple[Fit, str]] = {
    "a loop by hand": (_by_hand, "torch"),
    "Lightning, CallbackSets": (_lightning(lambda n: [CallbackSetAdapter(nothings(n))] if n else []), "lightning"),
    "Lightning, its own callbacks": (_lightning(lambda n: [L.Callback() for _ in range(n)]), "lightning"),
    "skorch": (_skorch, "skorch"),
    "ignite": (_ignite, "ignite"),
    "Keras on torch": (_keras, "keras"),
}
"""By name, what trains, and the package it needs."""
