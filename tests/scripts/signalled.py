"""Trains until a signal comes, and says what happens then."""

import signal

from callbacksets import CallbackSet, CallbackSetAdapter, CallbackSetHistory
from tests.helpers import Tiny, ones, quiet


class CallbackSetSay(CallbackSet):
    def __init__(self, name: str) -> None:
        self.name = name

    def on_epoch_end(self) -> None:
        if self.ctx.epoch == 2:
            print("training", flush=True)

    def on_exit(self) -> None:
        print("exit", self.name, flush=True)


if __name__ == "__main__":
    # a shell that runs in the background has its children ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    adapter = CallbackSetAdapter(
        {"history": CallbackSetHistory(), "one": CallbackSetSay("one"), "two": CallbackSetSay("two")}
    )
    try:
        quiet(callbacks=[adapter], max_epochs=20_000).fit(Tiny(), ones(2), ones(1))
    finally:
        print("states", adapter.states, flush=True)
