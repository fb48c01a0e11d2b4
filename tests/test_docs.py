"""The examples of the documentation run as they stand, those of a page one after the other."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacksets import CallbackSet, SupervisedModule, torch_callbacks
from callbacksets.testing import check_callback_set

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "\n```python\n" in page.read_text()]


def test_there_are_pages() -> None:
    assert {"index", "write", "test", "resume", "configure"} <= {page.stem for page in PAGES}


@pytest.fixture(autouse=True)
def _dictionary_as_before() -> Iterator[None]:
    before = dict(torch_callbacks._makes)
    yield
    torch_callbacks._makes = before


@pytest.mark.filterwarnings("ignore")  # as users see them
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loader = DataLoader(TensorDataset(torch.randn(32, 2), torch.randn(32, 1)), batch_size=4)
    module = SupervisedModule(nn.Linear(2, 1), nn.MSELoss(), lambda params: torch.optim.SGD(params, lr=0.01))
    namespace = {"module": module, "train_loader": loader, "valid_loader": loader}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE):
        exec(compile(block, str(page), "exec"), namespace)
    for thing in list(namespace.values()):
        if isinstance(thing, type) and issubclass(thing, CallbackSet) and thing.__module__ == "builtins":
            check_callback_set(thing)


def test_every_public_name_has_its_place_in_the_reference() -> None:
    import callbacksets

    reference = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    missing = [name for name in callbacksets.__all__ if not re.search(rf"^::: \S*\b{name}$", reference, re.MULTILINE)]
    assert missing == ["torch_callbacks"]  # an instance of DictionaryTorchCallbacks
