"""Our docstrings say `Example:`. griffe shows code only in a section `Examples:`."""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Turns `Example:` into `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
