"""Notebooks as a reader sees them: executed in a kernel, rendered by nbconvert, photographed in a headless Chromium."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def executed(*cells: str, folder: Path, fails: bool = False) -> Any:
    """A notebook of these cells of code, run in a kernel that works in the folder."""
    import nbclient
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources=resources, allow_errors=fails
    )
    client.execute()
    return notebook


def page(notebook: Any, *, theme: str = "light", code: bool = True) -> str:
    """The notebook as a page of its own, which loads nothing."""
    import nbconvert

    exporter = nbconvert.HTMLExporter(
        theme=theme,
        exclude_input=not code,
        exclude_input_prompt=not code,
        exclude_output_prompt=not code,
        require_js_url="",
        mathjax_url="",
        embed_images=True,
    )
    html, _ = exporter.from_notebook_node(notebook)
    return str(html)


def photograph(html: str, png: Path, *, width: int = 900, height: int = 700, scale: float = 1) -> None:
    """What Chromium shows of a page."""
    png.parent.mkdir(parents=True, exist_ok=True)
    _chromium(html, f"--screenshot={png}", f"--window-size={width},{height}", f"--force-device-scale-factor={scale}")


def dom(html: str) -> str:
    """What Chromium makes of a page, when its scripts have run."""
    return _chromium(html, "--dump-dom")


def _chromium(html: str, *arguments: str) -> str:
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(html)
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
            *arguments,
            file.as_uri(),
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=90).stdout
