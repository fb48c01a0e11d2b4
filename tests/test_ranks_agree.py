"""What is decided on several ranks is decided alike, and what each draws it draws again in a resumed run."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import on_ranks

pytestmark = pytest.mark.xdist_group("agreed")  # they share what `ranks` has done


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("agreed") / "ranks"
    done = on_ranks("agreed", folder, str(folder))
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_measures_and_directions_are_those_of_rank_zero(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["whole"]["measures"] == ["loss", "zero"]
        assert rank["whole"]["minimize"] == {"loss": True, "zero": None}


def test_what_decides_is_rank_zeros_also_where_a_callback_added_it(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["whole"]["best"] == 1  # for the other rank, each epoch would be the best
        assert rank["whole"]["score"] == 1.0
        assert rank["whole"]["lr"] < 0.01
        assert rank["whole"]["published"]["val_own"] == 4.0
        assert rank["whole"]["own"] == [1.0, 2.0, 3.0, 4.0]  # also in the history of the other rank
    assert ranks[0]["whole"]["lr"] == ranks[1]["whole"]["lr"]
    assert ranks[0]["whole"]["weights"] == ranks[1]["whole"]["weights"]


def test_each_rank_gets_its_own_random_numbers_back(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["whole"]["losses"] != ranks[1]["whole"]["losses"]
    for rank in ranks:
        assert rank["parts"] == rank["whole"] | {"losses": rank["whole"]["losses"][6:]}
