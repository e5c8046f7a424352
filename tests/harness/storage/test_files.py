from pathlib import Path

import pytest

from harness.storage import files
from zoo.errors import UserError


def test_atomic_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    files.atomic_write(path, "first, longer")
    files.atomic_write(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_atomic_write_keeps_line_ends_and_utf8(tmp_path: Path) -> None:
    files.atomic_write(tmp_path / "a", "±\r\n\n")
    assert (tmp_path / "a").read_bytes() == "±\r\n\n".encode()


@pytest.mark.parametrize(
    ("number", "fix"), [(28, "the disk is full"), (30, "read-only"), (13, "write permission"), (5, "mend that")]
)
def test_failed_write_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fix: str
) -> None:
    path = tmp_path / "row.json"
    path.write_text("old")

    def broken(descriptor: int) -> None:
        raise OSError(number, "broken")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(UserError, match=fix) as caught:
        files.atomic_write(path, "new")
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.atomic_write(tmp_path / "row.json", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_a_folder_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*; "):
        files.atomic_write(tmp_path / "a" / "b", "x")
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="folder of that name"):
        files.atomic_write(tmp_path / "c", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "c"]


def test_reading_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json does not exist"):
        files.read_bytes(tmp_path / "gone.json")
    with pytest.raises(UserError, match="cannot read"):
        files.read_bytes(tmp_path)


def test_removing_what_is_not_there_is_fine(tmp_path: Path) -> None:
    files.remove(tmp_path / "gone")
    with pytest.raises(UserError, match="cannot remove"):
        files.remove(tmp_path)
