"""Folders of results appear whole, or leave everything as it was."""

import errno

import pytest

from cryoatlas.errors import OutputError
from cryoatlas.io.folder import atomic_directory, require_space


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_its_block_ends(tmp_path):
    with atomic_directory(tmp_path / "deep" / "set") as folder:
        (folder / "a.txt").write_text("a")
        assert not (tmp_path / "deep" / "set").exists()
    assert names(tmp_path / "deep") == ["set"]
    assert names(tmp_path / "deep" / "set") == ["a.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    with atomic_directory(tmp_path / "set") as folder:
        (folder / "a.txt").write_text("a")
    assert names(tmp_path / "set") == ["a.txt"]
    assert names(tmp_path) == ["set"]


def fail_while_writing(path, error: BaseException) -> None:
    with atomic_directory(path, overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_older_folder_as_it_was(tmp_path, error):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old.txt").write_text("old")
    with pytest.raises(error):
        fail_while_writing(tmp_path / "set", error())
    assert names(tmp_path) == ["set"]
    assert names(tmp_path / "set") == ["old.txt"]


def test_the_systems_refusals_are_explained_with_the_folders_name(tmp_path):
    with pytest.raises(OutputError, match="set: the disk is full"):
        fail_while_writing(tmp_path / "set", OSError(errno.ENOSPC, "No space left on device"))
    assert names(tmp_path) == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "set").write_text("a file")
    with pytest.raises(OutputError, match="is a file"), atomic_directory(tmp_path / "set", overwrite=True):
        pass
    assert (tmp_path / "set").read_text() == "a file"


def test_space_is_sought_on_the_disk_of_the_nearest_folder_there_is(tmp_path):
    require_space(tmp_path / "not" / "yet" / "there", 1000)
    with pytest.raises(OutputError, match=r"will take 1048576\.00 GiB"):
        require_space(tmp_path / "not" / "yet" / "there", 2**50)
