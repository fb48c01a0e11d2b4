"""Docstrings here say `Example:`, for which griffe has no section of code, only for `Examples:`."""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Reads the one as the other."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
