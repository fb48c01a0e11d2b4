"""The hooks of other libraries, and the stages that correspond to them."""

from functools import cache
from importlib.resources import files


@cache
def hooks() -> dict[str, dict[str, list[str]]]:
    """The hooks by library, and by the stage or method that corresponds to them; `""` for none."""
    import tomllib  # only for an error, or a warning

    return tomllib.loads(files(__package__).joinpath("elsewhere.toml").read_text(encoding="utf-8"))


def found(name: str) -> dict[str, list[str]]:
    """The stages that correspond to a hook, each with the libraries that have the hook.

    Args:
        name: The name of the hook. If no library has it, a leading `on_` is left out.
    """
    libraries: dict[str, list[str]] = {}
    for library, stages in hooks().items():
        for stage, names in stages.items():
            if name in names:
                libraries.setdefault(stage, []).append(library)
    return libraries or (found(name.removeprefix("on_")) if name.startswith("on_") else {})


def hint(name: str) -> str:
    """` It is a hook of Keras; here it is 'on_end'.`, or an empty string for any other name."""
    text = ""
    for stage, libraries in found(name).items():
        if libraries == [""]:
            text += f" Did you mean {stage!r}?"
            continue
        here = f"it is {stage!r}" if stage else "no stage runs at that moment"
        text += f" It is a hook of {', '.join(libraries)}; here {here}."
    return text
