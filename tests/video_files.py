"""Small video files for tests, drawn and encoded here, and their frames decoded the plain way."""

import pathlib

import av
import numpy as np

from vlt.data.video.decode import Video

LOSSLESS = {
    "ffv1.mkv": ("ffv1", "bgr0"),
    "x264.mp4": ("libx264rgb", "rgb24"),
    "png.mov": ("png", "rgb24"),
}

# name -> (codec, options): every way in which frames do not follow their packets one by one.
TRICKY = {
    "open_gop.mp4": ("libx264", {"x264-params": "open-gop=1:keyint=12:min-keyint=6:bframes=3"}),
    "open_gop.mkv": ("libx264", {"x264-params": "open-gop=1:keyint=12:min-keyint=6:bframes=3"}),
    "closed_gop.mp4": ("libx264", {"x264-params": "keyint=12:min-keyint=6:bframes=3:b-pyramid=2"}),
    "intra_refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=12:bframes=3"}),
    "open_gop_hevc.mp4": ("libx265", {"x265-params": "keyint=12:bframes=3:log-level=none"}),
    "b_frames.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "b_frames.mp4": ("mpeg4", {"g": "12", "bf": "2"}),
    "no_b_frames.avi": ("mpeg4", {"g": "12", "bf": "0"}),
    "vp8.webm": ("libvpx", {"lag-in-frames": "16", "g": "20", "deadline": "realtime"}),
    "vp9.webm": ("libvpx-vp9", {"lag-in-frames": "16", "g": "20", "deadline": "realtime"}),
    "transport.ts": ("mpeg2video", {"g": "12", "bf": "2"}),
}


def draw(frames: int = 60, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """A textured square that moves over a textured ground: uint8 [frames, height, width, 3]."""
    rng = np.random.default_rng(seed)
    clip = np.tile(rng.integers(0, 255, (height // 8, width // 8, 3)), (frames, 8, 8, 1))
    square = rng.integers(0, 255, (height // 4, height // 4, 3))
    for t in range(frames):
        top = int((height - len(square)) * (0.5 + 0.5 * np.sin(t / 7)))
        left = (2 * t) % (width - len(square))
        clip[t, top : top + len(square), left : left + len(square)] = square
    return clip.astype(np.uint8)


def write(
    path: pathlib.Path,
    frames: np.ndarray,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    container_options: dict[str, str] | None = None,
) -> pathlib.Path:
    """Encodes uint8 [t, H, W, 3] at 25 frames a second."""
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_tricky(folder: pathlib.Path, name: str) -> pathlib.Path:
    codec, options = TRICKY[name]
    return write(folder / name, draw(), codec, options)


def write_lossless(folder: pathlib.Path, name: str, frames: np.ndarray) -> pathlib.Path:
    codec, pix_fmt = LOSSLESS[name]
    return write(folder / name, frames, codec, {"qp": "0"} if "x264" in name else {}, pix_fmt)


def count_readings(monkeypatch) -> list[None]:
    """A list that gets an item whenever a video is decoded from its start."""
    times: list[None] = []
    read = Video._all_frames
    monkeypatch.setattr(Video, "_all_frames", lambda self: times.append(None) or read(self))
    return times


def decode_all(path: pathlib.Path) -> np.ndarray:
    """Every frame, by PyAV's own loop and conversion: the reference for `vlt.data.video.decode`.

    One thread: with several, libav's VP8 decoder gives different pixels in some runs (seen in
    stream_of_water.webm from frame 53 on).
    """
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
        frames = container.decode(stream)
        return np.stack([np.rot90(f.to_ndarray(format="rgb24"), f.rotation // 90) for f in frames])


def write_recording(path: pathlib.Path, parts: int = 41, sound: int = 20) -> pathlib.Path:
    """A transport stream of 30 frames a part, whose sound is in one part alone, so that opening the
    file does not find it."""
    content = b"".join(_part(path, number, number == sound) for number in range(parts))
    counts: dict[int, int] = {}
    packets = bytearray(content)
    for at in range(0, len(packets), 188):
        program = int.from_bytes(packets[at + 1 : at + 3], "big") & 0x1FFF
        if packets[at + 3] & 0x10:  # with a payload, which is counted from packet to packet
            counts[program] = (counts.get(program, -1) + 1) % 16
        packets[at + 3] = packets[at + 3] & 0xF0 | max(0, counts.get(program, 0))
    path.write_bytes(packets)
    return path


def _part(path: pathlib.Path, number: int, sound: bool) -> bytes:
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25, options={"g": "12"})
        stream.height, stream.width = 64, 96
        stream.pix_fmt = "yuv420p"
        track = container.add_stream("mp2", rate=32000) if sound else None
        for index, image in enumerate(draw(30, seed=number)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = 30 * number + index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for index in range(20 if track else 0):
            silence = av.AudioFrame(format="s16", layout="stereo", samples=1152)
            silence.sample_rate, silence.pts = 32000, int(1.2 * number * 32000) + 1152 * index
            for plane in silence.planes:
                plane.update(bytes(plane.buffer_size))
            container.mux(track.encode(silence))
        if track:
            container.mux(track.encode(None))
    return path.read_bytes()
