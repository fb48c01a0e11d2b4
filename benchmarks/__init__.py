"""What callbacks cost: `make bench`."""

SECTIONS = (
    "dispatch",
    "context",
    "peers",
    "reading",
    "memory",
    "checkpoints",
    "growth",
    "resume",
    "bars",
    "start",
    "scale",
    "gpu",
)
"""One module each, whose `measure(quick)` gives the rows of its table and whose docstring begins with its title."""
