from pathlib import Path

import pytest

from callbacksets.callbacks.checkpoint_files import Reached, complete, drop, remove_leftovers, superseded


def test_names_and_positions() -> None:
    for name in ("epoch1.ckpt", "epoch12.ckpt", "epoch1-batch3.ckpt", "epoch10-batch200.ckpt"):
        position = Reached.of(name)
        assert position is not None
        assert position.name == name
    for name in ("epoch0.ckpt", "epoch01.ckpt", "epoch1-batch0.ckpt", "epoch1-batch.ckpt", "epoch=1-step=2.ckpt", "a"):
        assert Reached.of(name) is None
    assert (str(Reached(3)), str(Reached(3, 5))) == ("epoch 3", "batch 5 of epoch 4")


def test_newest_is_by_position() -> None:
    names = ["epoch9.ckpt", "epoch10-batch2.ckpt", "epoch10-batch11.ckpt", "epoch10.ckpt", "epoch11-batch1.ckpt"]
    assert sorted(names, key=lambda name: Reached.of(name) or Reached(0)) == names


@pytest.mark.parametrize(
    ("known", "keep", "gone"),
    [
        ([(1, 0), (2, 0), (3, 0)], None, []),
        ([(1, 0), (1, 4), (2, 0)], None, [(1, 4)]),
        ([(1, 0), (1, 4), (1, 9)], None, [(1, 4)]),
        ([(1, 0), (2, 0), (3, 0)], 2, [(1, 0)]),
        ([(1, 0), (2, 0), (2, 7)], 2, [(1, 0)]),
        ([(2, 0), (2, 7), (3, 0)], 2, [(2, 7)]),
        ([(1, 0), (2, 0), (2, 7), (2, 9)], 1, [(1, 0), (2, 0), (2, 7)]),
        ([(0, 3)], 1, []),
        ([(1, 0), (0, 7)], 1, [(1, 0)]),
        ([(1, 0), (3, 0), (2, 7)], 2, [(3, 0)]),
    ],
)
def test_what_goes(known: list[tuple[int, int]], keep: int | None, gone: list[tuple[int, int]]) -> None:
    assert sorted(superseded([Reached(*one) for one in known], Reached(*known[-1]), keep)) == gone


def test_a_folder_loses_its_name_before_it_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    (tmp_path / "epoch1.ckpt").mkdir()
    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        drop(tmp_path, Reached(1), "0123abcd")
    assert complete(tmp_path) == {}
    monkeypatch.undo()
    remove_leftovers(tmp_path, {Reached(2)})
    assert list(tmp_path.iterdir()) == []


def test_one_that_was_being_replaced_stays_as_long_as_it_is_needed(tmp_path: Path) -> None:
    old = tmp_path / ".epoch1.ckpt.0123abcd.old"
    old.touch()
    assert complete(tmp_path) == {Reached(1): old}
    remove_leftovers(tmp_path, {Reached(1)})
    assert old.exists()
    remove_leftovers(tmp_path, {Reached(2)})
    assert not old.exists()
