"""What a decoder process answers; test_clips.py covers processes that do not answer."""

import types

import numpy as np
import pytest

from vlt.data.video import messages, worker


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


def test_what_goes_wrong_is_the_answer():
    error = OSError("no such video")

    def read(request):
        raise error

    assert worker._answer(read, types.SimpleNamespace, {}) is error
    assert isinstance(worker._answer(read, lambda path: path, {"pth": "a"}), TypeError)


def test_an_answer_lies_in_memory_as_it_is_sent():
    turned = np.arange(6, dtype=np.uint8).reshape(2, 3).T
    assert answer(turned).flags.c_contiguous
    np.testing.assert_array_equal(answer(turned), turned)
