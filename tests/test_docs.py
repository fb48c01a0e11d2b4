"""The examples of the documentation run as they stand and print what they say; its links lead somewhere."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from callbacksets import CallbackSet, torch_callbacks
from callbacksets.testing import check_callback_set
from tests.scripts.user_code import PAGES, README, ROOT, examples

DOCS = ROOT / "docs"
OTHERS = [README, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md"))]
TEACHING = ("averages", "write")  # pages whose callbacks are models for those of readers, so they pass the kit
LONG = ("port-script", "test")  # pages whose examples train for long
WITH_EXAMPLES = [page for page in PAGES if examples(page)]


def test_there_are_pages() -> None:
    pages = {"averages", "coming-from", "configure", "log", "notebook", "resume", "test", "tune", "use", "write"}
    assert pages <= {page.stem for page in WITH_EXAMPLES}


@pytest.fixture(autouse=True)
def _dictionary_as_before() -> Iterator[None]:
    before = dict(torch_callbacks._makes)
    yield
    torch_callbacks._makes = before


def page_of(page: Path, *, is_slow: bool) -> Any:
    return pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if is_slow else [])


@pytest.mark.filterwarnings("ignore")  # as users see them
@pytest.mark.parametrize("page", [page_of(page, is_slow=page.stem in LONG) for page in WITH_EXAMPLES])
def test_examples(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(page, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in TEACHING], ids=lambda page: page.stem)
def test_callbacks_that_teach_are_sound(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = [thing for thing in run(page, tmp_path, monkeypatch).values() if isinstance(thing, type)]
    own = [one for one in classes if issubclass(one, CallbackSet) and one.__module__ == "builtins"]
    assert own
    for one in own:
        check_callback_set(one)


def run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the examples of a page; gives their names."""
    if page.stem in ("port-script", "tune"):
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []
    namespace: dict[str, Any] = {"print": lambda *values: printed.append(" ".join(map(str, values)))}
    for block in examples(page):
        exec(compile(block, str(page), "exec"), namespace)
        said = [output for output in re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE) if "..." not in output]
        assert [output for output in said if not any(same(output, line) for line in printed)] == []
    return namespace


def same(said: str, printed: str) -> bool:
    """Whether a comment says what was printed; strings may be in other quotes."""
    try:
        return bool(ast.literal_eval(said) == ast.literal_eval(printed))
    except (SyntaxError, ValueError):
        return said == printed


@pytest.mark.parametrize("page", [*OTHERS, *PAGES], ids=lambda page: page.stem)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [page for page in PAGES if f" {page.relative_to(DOCS)}" not in menu] == []


def test_every_public_name_has_its_place_in_the_reference() -> None:
    import callbacksets

    reference = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    missing = [name for name in callbacksets.__all__ if not re.search(rf"^::: \S*\b{name}$", reference, re.MULTILINE)]
    assert set(missing) <= {"torch_callbacks", "STAGES", "__version__"}  # values, which a page shows by itself


def test_the_reference_says_what_each_object_is() -> None:
    """Also where nothing fills in the docstrings, as on GitHub."""
    for page in (DOCS / "reference").glob("*.md"):
        text = page.read_text()
        rows = {name: rest for name, *rest in re.findall(r"^\| \[`(.+?)`\]\((.+?)\) \| (.+) \|$", text, re.MULTILINE)}
        for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE):
            module, _, attribute = name.rpartition(".")
            source, what = rows.get(name) or rows[attribute]
            assert (ROOT / source.partition("/main/")[2]).exists()
            thing = getattr(importlib.import_module(module), attribute)
            assert not callable(thing) or what == (inspect.getdoc(thing) or "").splitlines()[0]
