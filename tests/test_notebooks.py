"""The notebooks run from top to bottom, and their outputs in the repository are those of a run."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import LIMIT

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def shown(notebook: Any) -> list[list[str]]:
    """For each cell of code, what kinds of output it has."""
    kinds = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = [getattr(output, "name", None) or max(output.data) for output in cell.outputs]
            kinds.append(list(dict.fromkeys(outputs)))  # what is printed may come in several pieces
    return kinds


def test_there_are_four() -> None:
    names = ["custom_callbacks", "porting_from_mlr3torch", "quickstart", "resume_and_devices"]
    assert [path.stem for path in NOTEBOOKS] == names


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads of tests that run side by side get into each other's way
    notebook = read(path)
    before = shown(notebook)
    resources = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(
        notebook, timeout=LIMIT, startup_timeout=LIMIT, kernel_name="python3", resources=resources
    ).execute()
    assert shown(notebook) == before


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_with_the_outputs_of_a_run(path: Path) -> None:
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert "image/png" in cells[-1].outputs[-1].data
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    texts = "".join(str(output) for output in outputs if "image/png" not in output.get("data", {}))
    assert not re.search(r"/(home|root|tmp|work|Users)/|site-packages", texts)


def test_the_porting_notebook_has_the_tables_of_the_documentation() -> None:
    notebook = read(ROOT / "notebooks" / "porting_from_mlr3torch.ipynb")
    text = "\n".join(cell.source for cell in notebook.cells)
    pages = [(ROOT / "docs" / page).read_text() for page in ("how-to/port.md", "differences.md")]
    rows = [line for page in pages for line in page.splitlines() if line.startswith("|")]
    assert len(rows) > 80
    assert not [row for row in rows if row not in text]
