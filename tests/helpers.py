"""Tiny modules, data and Trainers for the tests."""

from typing import Any

import lightning as L


def quiet(**kwargs: Any) -> L.Trainer:
    """A Trainer on the CPU that prints and writes nothing."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**(defaults | kwargs))
