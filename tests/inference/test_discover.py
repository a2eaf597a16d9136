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


def test_names_that_stand_for_nothing(clips, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "empty"), str(clips / "*.avi")):
        with pytest.raises(ValueError, match="no video file there"):
            find_videos([name])
