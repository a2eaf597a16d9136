"""Display matrices: every mirroring and quarter turn, and what is refused."""

import io
import math

import av
import msgpack
import numpy as np
import pytest
from PIL import Image
from video_files import draw, write_lossless

from data_pipelines.check.inspection import Request, inspect
from data_pipelines.shards.encode import Clips, Frames, encode
from data_pipelines.shards.encode import Request as EncodeRequest
from vlt.data.video import errors
from vlt.data.video.clips import ClipRequest, read_clip
from vlt.data.video.decode import Video, decode

ONE = 1 << 16
FRAMES = draw(12, 32, 64)

# name -> (a, b, c, d), and the effect on frames [t, H, W, 3].
TURNS = {
    "as stored": ((1, 0, 0, 1), lambda f: f),
    "mirror left-right": ((-1, 0, 0, 1), lambda f: f[:, :, ::-1]),
    "mirror top-bottom": ((1, 0, 0, -1), lambda f: f[:, ::-1]),
    "half turn": ((-1, 0, 0, -1), lambda f: f[:, ::-1, ::-1]),
    "clockwise": ((0, 1, -1, 0), lambda f: np.rot90(f, -1, (1, 2))),
    "anticlockwise": ((0, -1, 1, 0), lambda f: np.rot90(f, 1, (1, 2))),
    "transpose": ((0, 1, 1, 0), lambda f: f.swapaxes(1, 2)),
    "transverse": ((0, -1, -1, 0), lambda f: f[:, ::-1, ::-1].swapaxes(1, 2)),
}


def linear(a, b, c, d):
    """The nine numbers of a matrix with this linear part, in the container's fixed-point format."""
    fixed = [round(ONE * n) for n in (a, b, c, d)]
    return [fixed[0], fixed[1], 0, fixed[2], fixed[3], 0, 0, 0, 1 << 30]


def rotation(degrees):
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (cos, sin, -sin, cos)


def write_turned(path, matrix, codec="libx264rgb", pix_fmt="rgb24", options=None):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {"qp": "0", "g": "4"})
        stream.height, stream.width = FRAMES.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.set_display_matrix(matrix)
        for frame in FRAMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return str(path)


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("container", ["a.mp4", "a.mov", "a.mkv"])
def test_mirrors_and_quarter_turns_are_obeyed(tmp_path, name, container):
    numbers, turn = TURNS[name]
    path = write_turned(tmp_path / container, linear(*numbers))
    expected = turn(FRAMES)
    assert np.array_equal(decode(path, range(12)), expected)
    assert np.array_equal(decode(path, [9, 2]), expected[[9, 2]])
    with Video(path) as video:
        assert np.array_equal(np.stack([*video.frames([1, 7])]), expected[[1, 7]])
    with open(path, "rb") as file, Video("in memory", content=file.read()) as video:
        assert np.array_equal(video.read([5]), expected[[5]])
    assert np.array_equal(read_clip(ClipRequest(path, "linspace", 4)), expected[[0, 4, 7, 11]])


@pytest.mark.parametrize("name", TURNS)
def test_tools_see_the_frames_as_they_are_shown(tmp_path, name):
    numbers, turn = TURNS[name]
    path = write_turned(tmp_path / "a.mp4", linear(*numbers))
    height, width = turn(FRAMES).shape[1:3]
    assert f'"height": {height}, "width": {width}' in inspect(Request(path)).tobytes().decode()
    for form in (Frames(), Clips()):
        packed = encode(EncodeRequest(path, "a", "", "run", form)).tobytes()
        record = msgpack.unpackb(packed)
        if "frames" in record:
            shown = np.asarray(Image.open(io.BytesIO(record["frames"][3])))
        else:
            with Video("clip", content=record["content"]) as video:
                shown = video.read([3])[0]
        differences = {other: difference(shown, do(FRAMES)[3]) for other, (_, do) in TURNS.items()}
        assert min(differences, key=differences.get) == name


def difference(shown, frame):
    if shown.shape != frame.shape:
        return 255.0
    return np.abs(shown.astype(int) - frame).mean()


@pytest.mark.parametrize("name", TURNS)
def test_decord_turns_alike_or_refuses(tmp_path, name):
    pytest.importorskip("decord")
    numbers, turn = TURNS[name]
    path = write_turned(tmp_path / "a.mp4", linear(*numbers))
    try:
        found = decode(path, [0, 7], backend="decord")
    except errors.UnsupportedByDecord as error:
        assert "mirror" in error.reason and ("mirror" in name or "trans" in name)
    else:
        assert np.array_equal(found, turn(FRAMES)[[0, 7]])


@pytest.mark.parametrize("degrees", [1, -1, 5, 89, 91, 179, 181, 266, 271, 359])
def test_small_angles_count_as_the_nearest_quarter(tmp_path, degrees):
    path = write_turned(tmp_path / "a.mp4", linear(*rotation(degrees)))
    expected = np.rot90(FRAMES, -round(degrees / 90), (1, 2))
    assert np.array_equal(decode(path, range(12)), expected)


def test_scale_changes_no_size(tmp_path):
    path = write_turned(tmp_path / "a.mp4", linear(-2, 0, 0, 0.5))
    assert np.array_equal(decode(path, range(12)), FRAMES[:, :, ::-1])


@pytest.mark.parametrize(
    "matrix",
    [
        linear(*rotation(45)),
        linear(*rotation(30)),
        linear(1, 0, 0.1, 1),
        linear(1, 0, 1, 0),
        linear(1, 0, 0, 0),
        [ONE, 0, 5, 0, ONE, 0, 0, 0, 1 << 30],
    ],
    ids=["45 degrees", "30 degrees", "shear", "a line", "no height", "perspective"],
)
def test_other_matrices_are_refused(tmp_path, matrix):
    path = write_turned(tmp_path / "a.mp4", matrix)
    with pytest.raises(errors.UnsupportedTurn, match="display matrix .* asks for more than") as e:
        decode(path, [0])
    assert e.value.path == path


def test_a_matrix_of_zeros_says_nothing(tmp_path):
    path = write_turned(tmp_path / "a.mp4", linear(0, 0, 0, 0))
    with pytest.warns(UserWarning, match="a.mp4: its display matrix is zero"):
        assert np.array_equal(decode(path, range(12)), FRAMES)


def test_orientation_in_the_stream_itself(tmp_path):
    """H.264's "display orientation" message: a mirroring, then 90 degrees anticlockwise."""
    write_turned(tmp_path / "plain.h264", linear(1, 0, 0, 1))
    # Payload 47 of 3 bytes: no cancel, hor_flip, ver_flip, 16 bits of angle, ue(0), stop.
    bits = "0" + "1" + "0" + f"{1 << 14:016b}" + "1" + "0"
    payload = int((bits + "1").ljust(24, "0"), 2).to_bytes(3)
    sei = b"\0\0\0\1\x06" + bytes([47, 3]) + payload + b"\x80"
    content = (tmp_path / "plain.h264").read_bytes()
    first_slice = content.index(b"\0\0\1\x65")
    turned = content[:first_slice].rstrip(b"\0") + sei + b"\0" + content[first_slice:]
    with Video("a.h264", content=turned) as video:
        found = video.read([0])
    expected = np.rot90(FRAMES[:1, :, ::-1], 1, (1, 2))
    assert np.array_equal(found, expected)


def test_turned_files_given(shared):
    folder = shared / "faults"
    truth = decode(folder / "mp4_matrix_none_reference.mp4", range(10))
    names = {"mirror_left_right": truth[:, :, ::-1], "transpose": truth.swapaxes(1, 2)}
    for name, expected in (names | {"rotation_1_degree": truth}).items():
        assert np.array_equal(decode(folder / f"mp4_matrix_{name}.mp4", range(10)), expected), name


def test_files_without_a_matrix_stay_as_they_are(tmp_path):
    path = write_lossless(tmp_path, "ffv1.mkv", FRAMES)
    assert np.array_equal(decode(path, range(12)), FRAMES)
