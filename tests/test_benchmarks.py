"""The benchmarks run. What they measure is no matter of a test."""

import pytest

from benchmarks import SECTIONS
from benchmarks.__main__ import heading, section
from tests.helpers import RELEASE

pytestmark = [*RELEASE, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_gives_a_titled_table(name: str) -> None:
    title, empty, header, rule, *rows = section(name, quick=True).splitlines()
    assert title.startswith("## ")
    assert empty == ""
    assert header.split()[1::2][:1] == ["what"]
    assert rows
    assert all(len(row) == len(header) == len(rule) for row in rows)
    assert not any("failed" in row for row in rows)


def test_the_heading_tells_machine_and_versions() -> None:
    assert all(word in heading() for word in ("cores", "Python", "callbacksets", "lightning", "torch"))
