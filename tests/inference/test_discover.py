"""The files that names of files, folders and patterns stand for."""

import pytest

from vlt.inference.discover import find_videos


@pytest.fixture
def clips(tmp_path):
    """Empty files, since only names matter."""
    folder = tmp_path / "videos" / "below"
    folder.mkdir(parents=True)
    for name in ("1.mp4", "2.MOV", "3.webm", "notes.txt"):
        (folder / name).write_bytes(b"")
    (folder / "folder.mp4").mkdir()
    return folder


def test_files_folders_and_patterns(clips):
    files = [str(clips / name) for name in ("1.mp4", "2.MOV", "3.webm")]
    assert find_videos([str(clips.parent)]) == files
    assert find_videos([str(clips.parent.parent / "**" / "[12].*")]) == files[:2]
    odd = clips / "a[1].txt"
    odd.write_bytes(b"")
    assert find_videos([str(odd)]) == [str(odd)]


def test_each_is_found_once_and_the_order_is_that_of_the_names(clips):
    files = [str(clips / name) for name in ("1.mp4", "2.MOV", "3.webm")]
    found = find_videos([files[1], str(clips), "absent.mp4"])
    assert found == [files[1], files[0], files[2], "absent.mp4"]


def test_another_way_to_write_a_path_is_no_other_file(clips, monkeypatch):
    monkeypatch.chdir(clips)
    assert find_videos(["1.mp4", "./1.mp4", str(clips / "1.mp4"), "../below/1.mp4"]) == ["1.mp4"]


def test_linked_folders_are_searched_once(clips, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "4.mp4").write_bytes(b"")
    for name, target in (("a", elsewhere), ("loop", clips.parent), ("more", elsewhere)):
        (clips / name).symlink_to(target)
    (clips.parent / "again").symlink_to(clips)
    names = ["1.mp4", "2.MOV", "3.webm", "a/4.mp4"]
    assert find_videos([str(clips.parent)]) == [str(clips / name) for name in names]
    assert find_videos([str(clips / "a")]) == [str(clips / "a" / "4.mp4")]


def test_names_that_stand_for_nothing(clips, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "empty"), str(clips / "*.avi")):
        with pytest.raises(ValueError, match="no video file there"):
            find_videos([name])
