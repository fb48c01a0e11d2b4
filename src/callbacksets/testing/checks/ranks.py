"""Two processes."""

from callbacksets.testing.bench import Bench


def ranks(bench: Bench) -> None:
    """On two ranks it decides alike."""
