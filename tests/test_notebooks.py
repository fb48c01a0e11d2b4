"""The notebooks run from top to bottom, and their outputs in the repository are those of a run."""

import json
import os
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests import browser
from tests.helpers import LIMIT, RELEASE

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def use_this_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let kernels import what is tested here, from whatever folder they work in."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads of tests that run side by side get into each other's way


def shown(notebook: Any) -> list[list[str]]:
    """For each cell of code, what kinds of output it has."""
    kinds = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = [getattr(output, "name", None) or max(output.data) for output in cell.outputs]
            kinds.append(list(dict.fromkeys(outputs)))  # what is printed may come in several pieces
    return kinds


def test_there_are_five() -> None:
    names = ["compare", "custom_callbacks", "porting_from_mlr3torch", "quickstart", "resume_and_devices"]
    assert [path.stem for path in NOTEBOOKS] == names


LONG = ("compare", "custom_callbacks")


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=RELEASE if path.stem in LONG else []) for path in NOTEBOOKS]
)
def test_runs_from_top_to_bottom(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_this_source(monkeypatch)
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


# --- as a reader sees them -------------------------------------------------------------------------------------------

needs_chromium = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium")
SETUP = """
import logging
import warnings

import lightning as L
import torch

from callbacksets import CallbackSet, CallbackSetAdapter, latest_checkpoint
from tests.helpers import Tiny, ones, quiet

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


class CallbackSetInterrupt(CallbackSet):
    def on_batch_end(self):
        if self.ctx.global_step == 8:
            raise KeyboardInterrupt


def fit(*callbacks, **kwargs):
    adapter = CallbackSetAdapter(["progress", {"checkpoint": {"path": "checkpoints", "freq": 1}}, *callbacks])
    quiet(max_epochs=4, callbacks=[adapter]).fit(Tiny(), ones(3), ones(1), **kwargs)
    return adapter
"""


def outputs(cell: Any) -> list[Any]:
    """What a cell shows, besides what is printed and the error that an interrupt leaves."""
    return [output for output in cell.outputs if "data" in output]


@pytest.mark.slow
def test_interrupted_in_one_cell_and_resumed_in_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_this_source(monkeypatch)
    cells = (SETUP, "fit(CallbackSetInterrupt())", "fit(ckpt_path=latest_checkpoint('checkpoints'))")
    notebook = browser.executed(*cells, folder=tmp_path, fails=True)
    _, interrupted, resumed = notebook.cells
    [block] = outputs(interrupted)
    assert block.data["text/plain"].startswith("Interrupted in epoch 3 of 4, batch 2, after ")
    [block, outcome] = outputs(resumed)
    lines = block.data["text/plain"].splitlines()
    assert lines[0].startswith("Trained 4 epochs in ")
    assert [line.split()[0] for line in lines[2:]] == ["epoch", "1", "2", "3", "4"]
    assert outcome.data["text/plain"].startswith("<CallbackSetAdapter: trained 4 epochs in ")


def test_the_quickstart_shows_a_table_of_its_epochs() -> None:
    cells = [cell for cell in read(ROOT / "notebooks" / "quickstart.ipynb").cells if cell.cell_type == "code"]
    [block] = [output for cell in cells for output in cell.outputs if output.output_type == "display_data"][:1]
    assert set(block.data) == {"text/html", "text/plain"}
    assert re.match(r"Trained \d+ of 100 epochs in ", block.data["text/plain"])
    assert "best" in block.data["text/plain"]


@needs_chromium
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of nbconvert
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_table_and_picture(theme: str, tmp_path: Path) -> None:
    pytest.importorskip("nbconvert")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    html = browser.page(read(ROOT / "notebooks" / "quickstart.ipynb"), theme=theme)
    assert "widget" not in re.sub(r"<style.*?</style>|<script.*?</script>", "", html, flags=re.DOTALL)
    measured = browser.dom(html.replace("</body>", f"<script>{MEASURE}</script></body>"))
    [seen] = re.findall(r'data-seen="(.*?)"', measured)
    seen = json.loads(unescape(seen))
    assert len(set(map(tuple, seen["columns"]))) == 1  # the parts of the folded table are aligned
    assert all(width > 20 for width in seen["columns"][0])
    assert seen["epochs"][:3] == ["1", "2", "3"]
    assert len(seen["epochs"]) < 12
    assert seen["images"][-1][0] > 400
    assert contrast(seen["ink"], seen["paper"]) > 7

    browser.photograph(html, tmp_path / "page.png", height=2300)
    pixels = pyplot.imread(tmp_path / "page.png")[..., :3]
    paper = {"light": 1.0, "dark": 17 / 255}[theme]
    assert abs(pixels[5, 5] - paper).max() < 0.05


MEASURE = """
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const tables = all("table").filter(table => table.querySelector("col"));
const shown = tables.filter(table => !table.closest("details"));
all("details").forEach(details => details.open = true);
const widths = table => all("tr:first-child > *", table).map(cell => Math.round(cell.getBoundingClientRect().width));
const rgb = text => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
document.body.dataset.seen = JSON.stringify({
    columns: tables.map(widths),
    epochs: shown.flatMap(table => all("td:first-child", table).map(cell => cell.textContent)),
    images: all("img").map(image => [image.naturalWidth, image.naturalHeight]),
    ink: rgb(getComputedStyle(shown[0].querySelector("td")).color),
    paper: rgb(getComputedStyle(document.body).backgroundColor),
});
"""


def contrast(ink: list[float], paper: list[float]) -> float:
    """As the Web Content Accessibility Guidelines count it: 7 is what they ask for at most."""

    def luminance(colour: list[float]) -> float:
        linear = [(one / 255 / 12.92) if one <= 10 else ((one / 255 + 0.055) / 1.055) ** 2.4 for one in colour]
        return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(ink), luminance(paper)))
    return (light + 0.05) / (dark + 0.05)
