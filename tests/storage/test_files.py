"""Files are written whole, under unused names, and through no link."""

import os
import re

import pytest

from vlt.storage.files import (
    WriteError,
    append,
    check_target,
    foreign_entries,
    new_file,
    shortened,
    write_whole,
)


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    file = tmp_path / "results.json"
    write_whole(file, "old")
    write_whole(file, "new ü")
    assert file.read_text(encoding="utf-8") == "new ü"
    assert os.listdir(tmp_path) == ["results.json"]
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_block_that_fails_leaves_the_file_before(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_text("before")
    with pytest.raises(KeyError), new_file(file) as unfinished:
        assert unfinished.suffix == ".safetensors"
        unfinished.write_text("half")
        raise KeyError
    assert file.read_text() == "before" and os.listdir(tmp_path) == [file.name]


def test_long_names_are_cut_by_bytes(tmp_path):
    assert shortened("a日本", 4) == "a日" and shortened("a日本", 3) == "a"
    file = tmp_path / f"{'視' * 80}.json"
    write_whole(file, "x")
    assert os.listdir(tmp_path) == [file.name]
    for name in ("視" * 90, f"x.{'s' * 250}"):
        with pytest.raises(WriteError, match="cannot be written: File name too long"):
            write_whole(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize("write", [write_whole, append])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_refused_and_what_it_points_to_is_as_it_was(tmp_path, write, dangling):
    precious = tmp_path / "precious"
    if not dangling:
        precious.write_text("mine")
    link = tmp_path / "config.json"
    link.symlink_to(precious)
    with pytest.raises(WriteError, match="config.json is a link to .*precious"):
        write(link, "ours")
    assert link.is_symlink()
    assert not precious.exists() if dangling else precious.read_text() == "mine"


def test_names_of_temporary_files_cannot_be_prepared(tmp_path):
    """Names once used for temporary files: a link placed at one must not redirect the write."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("config.json.tmp", "config.tmp", ".config.json.unfinished"):
        (tmp_path / name).symlink_to(precious)
    write_whole(tmp_path / "config.json", "ours")
    assert precious.read_text() == "mine"


def test_a_full_disk_and_a_folder_that_is_a_file_are_answered_by_name(tmp_path, monkeypatch):
    with pytest.raises(WriteError, match="/dev/full cannot be written: No space left on device"):
        append(type(tmp_path)("/dev/full"), "line\n")
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file/x/y\.json cannot be written"):
        check_target(tmp_path / "file" / "x" / "y.json")
    with pytest.raises(WriteError, match="x cannot be written: .*file is a file, not a folder"):
        check_target(tmp_path / "file" / "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match="folder cannot be written: Is a directory"):
        write_whole(tmp_path / "folder", "text")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_target_gets_the_folders_above_it_and_no_more(tmp_path):
    check_target(tmp_path / "a" / "b" / "x.safetensors")
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["a", "a/b"]


def test_what_is_never_written_is_found_at_any_depth(tmp_path):
    for name in ("config.json", "weights/d/0a", "weights/notes.txt", "weights/d/e/f", "data/x.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "weights/d/0b").symlink_to(tmp_path / "config.json")
    written = re.compile(r"config\.json|weights|weights/d|weights/d/[0-9a-f]+")
    found = foreign_entries(tmp_path, written)
    assert found == ["data", "data/x.mp4", "weights/d/0b", "weights/d/e/f", "weights/notes.txt"]
