"""The plan of an adapter before a fit: which callback runs at which stage, and in which order."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass

from callbacksets.base import STAGES, CallbackSet, stages_in_constructor, stages_of
from callbacksets.checks import listed, shown
from callbacksets.describe.descriptor import TorchCallback
from callbacksets.describe.sources import Source
from callbacksets.show import html, tables


@dataclass(frozen=True)
class Planned:
    """The plan of one callback."""

    id: str
    cls: str
    weight: str
    stages: list[str]
    note: str = ""


def plan(sources: Mapping[str, Source]) -> list[Planned]:
    """The plans of the callbacks of a fit, in the order in which they run.

    This makes no callback. For a class or descriptor the plan shows the stages of the class, with a note about stages
    that its constructor may set or switch off.

    Args:
        sources: The sources of the callbacks by id.
    """
    in_order = sorted(sources.items(), key=lambda item: _rank(item[1].weight))
    return [_planned(id, source) for id, source in in_order]


def plan_as_text(name: str, sources: Mapping[str, Source]) -> str:
    """The plan as two tables: one of the callbacks, one of the stages."""
    planned = plan(sources)
    callbacks = [(one.id, one.cls, one.weight, one.note) for one in planned]
    stages = [(stage, ", ".join(one.id for one in planned if stage in one.stages)) for stage in _used(planned)]
    return "\n".join(
        [
            f"<{name}: {_counted(planned)}>",
            *([tables.as_text(("callback", "class", "weight", ""), callbacks)] if planned else ()),
            *(("", tables.as_text(("stage", "callbacks in running order"), stages)) if stages else ()),
        ]
    )


def plan_as_html(name: str, sources: Mapping[str, Source]) -> str:
    """The plan as one table, with a row for each callback and a column for each stage."""
    planned = plan(sources)
    stages = _used(planned)
    header = ("callback", "class", "weight", *stages, "")
    rows = [
        (one.id, one.cls, one.weight, *("●" if stage in one.stages else "" for stage in stages), one.note)
        for one in planned
    ]
    about = f"{_counted(planned)}. In each stage they run from top to bottom."
    return html.table(name, about, header, rows)


def _rank(weight: object) -> float:
    """The number by which a fit sorts. A weight that was set later, and that the fit will refuse, comes last here."""
    return float(weight) if isinstance(weight, numbers.Real) else math.inf


def _planned(id: str, source: Source) -> Planned:
    weight = f"{source.weight:g}" if isinstance(source.weight, numbers.Real) else shown(source.weight)
    if isinstance(source, CallbackSet):
        return Planned(id, type(source).__name__, weight, source.stages)
    missing = source.param_set.missing if isinstance(source, TorchCallback) else []
    cls = source.generator if isinstance(source, TorchCallback) else source
    open_still = [stage for stage in stages_in_constructor(cls) if getattr(cls, stage, ...) is not None]
    notes = (
        f"still needs {listed(missing)}" if missing else "",
        f"its constructor may set or unset {', '.join(open_still)}" if open_still else "",
    )
    return Planned(id, cls.__name__, weight, stages_of(cls), "; ".join(filter(None, notes)))


def _used(planned: list[Planned]) -> list[str]:
    return [stage for stage in STAGES if any(stage in one.stages for one in planned)]


def _counted(planned: list[Planned]) -> str:
    return f"{len(planned) or 'no'} callback{'' if len(planned) == 1 else 's'}"
