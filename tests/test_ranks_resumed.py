"""Two ranks that draw, resumed from every kind of checkpoint, end as if they had not been interrupted."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import on_ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("drawn"),
    pytest.mark.skipif(sys.platform == "win32", reason="gloo between processes is for POSIX"),
]
KINDS = ["epoch end", "epoch end with workers", "save last", "own", "validation end", "inside, plain"]
KINDS += ["inside, plain with workers", *(["inside"] if find_spec("torchdata") else [])]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("drawn") / "ranks"
    done = on_ranks("drawn", folder, str(folder), *KINDS, "on exception")
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_rank_ends_as_if_it_had_not_been_interrupted(kind: str, ranks: list[dict[str, Any]]) -> None:
    after = 5 if kind.startswith("inside") else 4
    for rank in ranks:
        whole, parts = rank[kind]["whole"], rank[kind]["parts"]
        assert [row[0] for row in whole["seen"]] == [1, 2, 3, 4, 5, 6, 7, 8]
        assert parts == whole | {"seen": whole["seen"][after:]}
    zero, one = (rank[kind]["whole"] for rank in ranks)
    assert zero["seen"][-1] != one["seen"][-1]
    assert zero["drawn"] != one["drawn"]
    assert zero["weights"] == one["weights"]
    assert zero["history"] == one["history"]


@pytest.mark.skipif("validation end" not in KINDS, reason="2.4 validates at once")
def test_on_an_exception_only_the_numbers_of_rank_zero_are_kept(ranks: list[dict[str, Any]]) -> None:
    """The other ranks may be gone when it writes the checkpoint. The order of the data does not depend on them."""
    for rank, runs in enumerate(ranks):
        whole, parts = runs["on exception"]["whole"], runs["on exception"]["parts"]
        for one, other in zip(whole["seen"][4:], parts["seen"], strict=True):
            assert [sample[0] for sample in one[1]] == [sample[0] for sample in other[1]]
            assert (one[1] == other[1]) is (rank == 0)
        assert (whole["drawn"] == parts["drawn"]) is (rank == 0)
