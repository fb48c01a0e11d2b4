"""Selectors: what they select, what they print as, what they refuse."""

import pickle
from collections.abc import Callable

import pytest

from callbacksets import select_all, select_grep, select_invert, select_name, select_none
from callbacksets.callbacks.select import Select

NAMES = ["0.weight", "0.bias", "3.weight", "3.bias"]

SELECTORS = [
    (select_all(), "select_all()", NAMES),
    (select_none(), "select_none()", []),
    (select_name("0.bias"), "select_name(['0.bias'])", ["0.bias"]),
    (select_name(["3.bias", "0.bias"]), "select_name(['3.bias', '0.bias'])", ["0.bias", "3.bias"]),
    (select_name([]), "select_name([])", []),
    (
        select_name(["0.bias", "head.bias"], assert_present=False),
        "select_name(['0.bias', 'head.bias'], assert_present=False)",
        ["0.bias"],
    ),
    (select_grep("bias"), "select_grep(['bias'])", ["0.bias", "3.bias"]),
    (select_grep(r"^3\."), r"select_grep(['^3\\.'])", ["3.weight", "3.bias"]),
    (select_grep(["bias$", "^0"]), "select_grep(['bias$', '^0'])", ["0.weight", "0.bias", "3.bias"]),
    (select_grep("BIAS"), "select_grep(['BIAS'])", []),
    (select_grep("BIAS", ignore_case=True), "select_grep(['BIAS'], ignore_case=True)", ["0.bias", "3.bias"]),
    (select_invert(select_none()), "select_invert(select_none())", NAMES),
    (select_invert(select_grep("bias")), "select_invert(select_grep(['bias']))", ["0.weight", "3.weight"]),
]


@pytest.mark.parametrize(("select", "source", "selected"), SELECTORS, ids=[source for _, source, _ in SELECTORS])
def test_selects_prints_and_pickles(select: Select, source: str, selected: list[str]) -> None:
    assert select(NAMES) == selected
    assert select(iter(NAMES)) == selected
    assert repr(select) == source
    restored = pickle.loads(pickle.dumps(select))
    assert repr(restored) == source
    assert restored(NAMES) == selected


def test_selecting_leaves_the_names_alone() -> None:
    names = list(NAMES)
    select_all()(names).clear()
    assert names == NAMES


def test_invert_takes_any_function() -> None:
    assert select_invert(lambda names: names[1:])(NAMES) == ["0.weight"]


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"no parameter '0.wieght', 'x'. Did you mean '0.weight'\? There are '0.wei"):
        select_name(["0.wieght", "0.bias", "x"])(NAMES)
    with pytest.raises(ValueError, match=r"no parameter '0.weight'. There are none"):
        select_name("0.weight")([])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: select_name(3), TypeError, "Expected names to be a non-empty string or several but got 3"),
        (lambda: select_name(["a", None]), TypeError, r"but got \['a', None\]"),
        (
            lambda: select_name("a", assert_present=1),
            TypeError,
            "Expected assert_present to be True or False but got 1",
        ),
        (lambda: select_grep(""), ValueError, "Expected patterns to be a non-empty string or several"),
        (
            lambda: select_grep(["a", "("]),
            ValueError,
            r"Expected patterns to be regular expressions but got '\(': miss",
        ),
        (
            lambda: select_grep("a", ignore_case="no"),
            TypeError,
            "Expected ignore_case to be True or False but got 'no'",
        ),
        (lambda: select_invert("bias"), TypeError, "Expected select to be a selector such as .* but got 'bias'"),
    ],
)
def test_refuses(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
