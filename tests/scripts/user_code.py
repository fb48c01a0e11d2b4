"""The examples of README and documentation: `python -m tests.scripts.user_code` type-checks them as users' code.

The examples of a page run one after the other, and a page has all that they need. A fence of more than `python` holds
code for another library, and is left out.
"""

import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
SCRIPTS = sorted((ROOT / "docs" / "examples").glob("*.py"))


def examples(page: Path) -> list[str]:
    """The blocks of Python on a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    """A name for a page that a module can have."""
    return re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix("")))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        for page in (README, *PAGES):
            if blocks := examples(page):
                (Path(folder) / f"{name(page)}.py").write_text("\n".join(blocks))
        for script in SCRIPTS:
            if "import optuna" not in script.read_text() or find_spec("optuna"):
                (Path(folder) / script.name).write_text(script.read_text())
        Path(folder, "mypy.ini").write_text("[mypy]\ncheck_untyped_defs = True\nignore_missing_imports = True\n")
        checks = [
            ["mypy", "--config-file", "mypy.ini", "."],
            ["pyright", "--pythonpath", sys.executable, "."],
        ]
        return max(subprocess.run([sys.executable, "-m", *check], cwd=folder).returncode for check in checks)


if __name__ == "__main__":
    sys.exit(main())
