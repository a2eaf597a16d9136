"""Messages of decoder processes are checked: errors from a closed list, arrays within bounds."""

import dataclasses
import json
import pathlib
import pickle
import sys
import textwrap
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines.shards.encode import Clips, Frames, request_of
from data_pipelines.shards.encode import Request as EncodeRequest
from vlt.data.video import errors, messages
from vlt.data.video.clips import ClipRequest, DecoderPool


def crossed(error):
    """The error as it comes out at the other end."""
    packed = messages.pack_answer(error)
    assert messages.LENGTH.unpack(packed[:8]) == (len(packed) - 8,)
    assert len(packed) <= messages.MOST_TEXT
    return messages.shape_or_error(messages.unpack(packed[8:]))


KINDS = [errors.VideoError, *errors.VideoError.__subclasses__()]


@pytest.mark.parametrize("kind", KINDS)
def test_every_video_error_crosses(kind):
    found = crossed(kind("a/\udcff\n\u00e9.mp4", "a \u2028 reason"))
    assert type(found) is kind
    assert (found.path, found.reason) == ("a/\udcff\n\u00e9.mp4", "a \u2028 reason")


def test_other_errors_cross_by_their_text():
    for kind in messages.REQUEST_ERRORS:
        found = crossed(kind("why"))
        assert (type(found), str(found)) == (kind, "why")
    assert crossed(errors.NoFrames("a", "b" * 10**7)).reason == "b" * 50_000


def test_arrays_cross_as_their_shape():
    assert crossed(np.zeros((2, 0, 3), np.uint8)) == (2, 0, 3)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        None,
        3,
        {"shape": 3},
        {"shape": [-1]},
        {"shape": [1.0]},
        {"shape": [True]},
        {"shape": ["3"]},
        {"shape": [1 << 40]},
        {"shape": [1 << 20] * 4},
        {"shape": [1] * 9},
        {"shape": [3], "dtype": "object"},
        {"error": "SystemExit", "reason": "x"},
        {"error": "VideoError.__init__", "path": "a", "reason": "b"},
        {"error": "unknown", "path": "a", "reason": "b"},
        {"error": "Truncated", "path": 3, "reason": "b"},
        {"error": "Truncated", "reason": "b"},
        {"error": "Truncated", "path": "a", "reason": "b", "more": 1},
        {"error": "eval", "reason": "1"},
    ],
)
def test_anything_else_is_no_answer(answer):
    with pytest.raises(messages.BadAnswer):
        messages.shape_or_error(messages.unpack(json.dumps(answer).encode()))


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 500_000, pickle.dumps({"shape": [3]})])
def test_what_is_no_json_is_no_message(text):
    with pytest.raises(messages.BadAnswer):
        messages.unpack(text)


def test_requests_come_out_as_they_went_in():
    transform = {"resize": 24, "flip": 0.1, "random_resized_crop": {"size": 8, "area": (0.1, 1.0)}}
    whole = ClipRequest("a.mp4", "linspace", 4, transform, seed=2**63, sha256="ab")
    for given in (transform, ConfigDict(transform), types.MappingProxyType(transform)):
        request = dataclasses.replace(whole, transform=given)
        text = messages.pack_request(request, 1.5)[8:]
        asked = json.loads(text)
        found = ClipRequest(**asked["request"])
        assert asked["limit"] == 1.5
        assert found == dataclasses.replace(whole, transform=json.loads(json.dumps(transform)))
    for form in (Clips(crf=3), Frames(fps=0.1)):
        request = EncodeRequest("a", "b", "c", "d", form)
        assert request_of(**json.loads(messages.pack_request(request, 1)[8:])["request"]) == request
    numbers = ClipRequest(pathlib.Path("a"), "linspace", np.int64(4), {"flip": np.float32(0.5)})
    found = ClipRequest(**json.loads(messages.pack_request(numbers, 1)[8:])["request"])
    assert found == ClipRequest("a", "linspace", 4, {"flip": 0.5})


def hostile(answer: str) -> tuple[str, ...]:
    """A decoder that reports ready, then answers each request with the bytes of an expression."""
    code = f"""
        import json, os, pickle, struct, sys
        def pack(text): return struct.pack("<Q", len(text)) + text
        class Touch:
            def __reduce__(self): return open, (sys.argv[1], "w")
        os.write(1, pack(b'{{"ready": true}}'))
        while head := sys.stdin.buffer.read(8):
            sys.stdin.buffer.read(*struct.unpack("<Q", head))
            os.write(1, {answer})
    """
    return (sys.executable, "-c", textwrap.dedent(code))


@pytest.mark.parametrize(
    "answer",
    [
        "pack(pickle.dumps(Touch()))",
        "pack(json.dumps({'shape': [1 << 40]}).encode())",
        "struct.pack('<Q', 1 << 40)",
        "pack(b'{}')",
    ],
)
def test_a_decoder_taken_over_can_only_fail(tmp_path, answer):
    touched = tmp_path / "touched"
    with DecoderPool(1, command=(*hostile(answer), str(touched))) as pool:
        for _ in range(2):
            with pytest.raises(errors.DecoderDied, match="a.mp4: its decoder gave a malformed"):
                pool.read(ClipRequest("a.mp4", "linspace", 2))
    assert not touched.exists()


def test_an_answer_may_be_as_long_as_the_bound_and_no_longer(monkeypatch):
    monkeypatch.setattr(messages, "MOST_TEXT", 100)
    for size in (100, 101):
        answer = f"pack(json.dumps({{'shape': [2]}}).encode().ljust({size})) + bytes(2)"
        with DecoderPool(1, command=hostile(answer)) as pool:
            if size == 100:
                assert pool.read(ClipRequest("a.mp4", "linspace", 2)).tolist() == [0, 0]
            else:
                with pytest.raises(errors.DecoderDied, match="gave a malformed answer"):
                    pool.read(ClipRequest("a.mp4", "linspace", 2))


def test_no_pickle_is_left():
    folder = pathlib.Path(messages.__file__).parent
    assert not [path.name for path in folder.glob("*.py") if "import pickle" in path.read_text()]
