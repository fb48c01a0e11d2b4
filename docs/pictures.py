"""Make the pictures of README and documentation: `python -m docs.pictures`, in the root of the repository.

The pictures are outputs of the quickstart notebook: the table of `progress` and the plot of `plot_history()`. This
script needs Chromium, nbconvert and Pillow.
"""

import base64
import copy
import re
import warnings
from pathlib import Path

import nbformat
from PIL import Image, ImageChops

from tests import browser

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


def main() -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    IMAGES.mkdir(exist_ok=True)
    [block] = [output for output in outputs if re.match("Trained", output.get("data", {}).get("text/plain", ""))]
    only = copy.deepcopy(notebook)
    only.cells = [nbformat.v4.new_code_cell(outputs=[block])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbconvert's own warnings
        html = browser.page(only, code=False)
    browser.photograph(html, IMAGES / "progress.png", width=800, height=600, scale=1.5)
    trim(IMAGES / "progress.png")
    [*_, plot] = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    (IMAGES / "history.png").write_bytes(base64.b64decode(plot))


def trim(png: Path, margin: int = 20) -> None:
    """Cut off the empty margin of a picture."""
    image = Image.open(png).convert("RGB")
    left, top, right, bottom = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    box = (max(left - margin, 0), max(top - margin, 0), right + margin, bottom + margin)
    image.crop(box).quantize(64).save(png, optimize=True)


if __name__ == "__main__":
    main()
