"""What a decoder process answers; test_clips.py covers processes that do not answer."""

import types

import numpy as np
import pytest

from vlt.data.video import errors, messages, worker


def answer(content):
    """The answer to a request for this content."""
    return worker._answer(
        lambda request: request.content, types.SimpleNamespace, {"content": content}
    )


def test_bytes_are_answered_up_to_the_bound(monkeypatch):
    monkeypatch.setattr(messages, "MOST_BYTES", 12)
    fits = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(answer(fits), fits)
    found = answer(np.zeros((13,), np.uint8))
    assert isinstance(found, ValueError)
    assert str(found) == "uint8 of shape (13,) is asked for; uint8 of at most 12 bytes can be"


@pytest.mark.parametrize("content", [np.zeros((2,), np.float32), np.zeros((2,), np.int8)])
def test_other_numbers_than_bytes_are_refused(content):
    assert "uint8 of at most" in str(answer(content))


def failing(error, fields):
    """The answer to a request during which this happens."""

    def read(request):
        raise error

    return worker._answer(read, types.SimpleNamespace, fields)


@pytest.mark.parametrize(
    "error",
    [*(kind("why") for kind in messages.REQUEST_ERRORS), errors.NoFrames("a.mp4", "why")],
)
def test_what_is_wrong_with_a_request_or_a_video_is_the_answer(error):
    assert failing(error, {"path": "a.mp4"}) is error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "its decoder ran out of memory"),
        (IndexError("list index"), "its decoder failed with IndexError: list index (test_worker"),
        (UnicodeDecodeError("utf8", b"x", 0, 1, "bad"), "its decoder failed with UnicodeDecodeEr"),
    ],
)
def test_what_a_library_makes_of_a_file_is_the_files_fault(error, reason):
    found = failing(error, {"path": "a.mp4"})
    assert isinstance(found, errors.DecoderDied) and found.path == "a.mp4"
    assert found.reason.startswith(reason)


def test_an_invalid_request_is_the_answer():
    assert isinstance(worker._answer(None, lambda path: path, {"pth": "a"}), TypeError)


def test_an_answer_lies_in_memory_as_it_is_sent():
    turned = np.arange(6, dtype=np.uint8).reshape(2, 3).T
    assert answer(turned).flags.c_contiguous
    np.testing.assert_array_equal(answer(turned), turned)
