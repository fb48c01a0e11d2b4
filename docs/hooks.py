"""The notebooks are pages of the site, though they are outside of its folder: `hooks` in mkdocs.yml."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


@event_priority(100)  # before mkdocs-jupyter, which makes pages of them
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the notebooks."""
    root = Path(config.config_file_path).parent
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        files.append(File(f"notebooks/{notebook.name}", str(root), config.site_dir, config.use_directory_urls))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between notebooks lead to pages of the site."""
    is_notebook = page.file.src_uri.startswith("notebooks/")
    return re.sub(r'href="([\w-]+)\.ipynb"', r'href="../\1/"', html) if is_notebook else html
