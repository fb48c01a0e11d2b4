"""What an adapter is going to do, before anything is trained: which callback runs at which stage, in which order."""

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
    """What one callback is going to do."""

    id: str
    cls: str
    weight: object
    stages: list[str]
    note: str = ""

    @property
    def shown_weight(self) -> str:
        """The weight, without digits that say nothing."""
        return f"{self.weight:g}" if isinstance(self.weight, int | float) else shown(self.weight)


def plan(sources: Mapping[str, Source]) -> list[Planned]:
    """What the callbacks of a fit are going to do, in the order in which they run.

    To plan makes no callback. What is still to be made is planned as its class says, with a note where its constructor
    may set a stage or switch one off.

    Args:
        sources: The sources of the callbacks by id.
    """
    planned = [_planned(id, source) for id, source in sources.items()]
    return sorted(planned, key=lambda one: _rank(one.weight))


def plan_as_text(name: str, sources: Mapping[str, Source]) -> str:
    """The plan as two tables, of the callbacks and of the stages."""
    planned = plan(sources)
    callbacks = [(one.id, one.cls, one.shown_weight, one.note) for one in planned]
    stages = [
        (stage.removeprefix("on_"), ", ".join(one.id for one in planned if stage in one.stages))
        for stage in _used(planned)
    ]
    return "\n".join(
        [
            f"<{name}: {_counted(planned)}>",
            *([tables.as_text(("callback", "class", "weight", ""), callbacks)] if planned else ()),
            *(("", tables.as_text(("stage", "runs, in this order"), stages)) if stages else ()),
        ]
    )


def plan_as_html(name: str, sources: Mapping[str, Source]) -> str:
    """The plan as one table, with a row for each callback and a column for each stage."""
    planned = plan(sources)
    stages = _used(planned)
    header = ("callback", "class", "weight", *(stage.removeprefix("on_") for stage in stages), "")
    rows = [
        (one.id, one.cls, one.shown_weight, *("●" if stage in one.stages else "" for stage in stages), one.note)
        for one in planned
    ]
    about = f"{_counted(planned)}. In every stage they run from top to bottom."
    return html.table(name, about, header, rows)


def _planned(id: str, source: Source) -> Planned:
    if isinstance(source, CallbackSet):
        return Planned(id, type(source).__name__, source.weight, source.stages)
    missing = source.param_set.missing if isinstance(source, TorchCallback) else []
    cls = source.generator if isinstance(source, TorchCallback) else source
    open_still = [stage for stage in stages_in_constructor(cls) if getattr(cls, stage, _ABSENT) is not None]
    notes = (
        f"still needs {listed(missing)}" if missing else "",
        f"its constructor decides on {html.names(open_still)}" if open_still else "",
    )
    return Planned(id, cls.__name__, source.weight, stages_of(cls), "; ".join(filter(None, notes)))


_ABSENT = object()


def _rank(weight: object) -> float:
    """What a fit sorts by; a weight that it will refuse comes last here."""
    is_number = isinstance(weight, numbers.Real) and not math.isnan(weight)
    return float(weight) if is_number else math.inf  # type: ignore[arg-type]


def _used(planned: list[Planned]) -> list[str]:
    return [stage for stage in STAGES if any(stage in one.stages for one in planned)]


def _counted(planned: list[Planned]) -> str:
    return f"{len(planned) or 'no'} callback{'' if len(planned) == 1 else 's'}"
