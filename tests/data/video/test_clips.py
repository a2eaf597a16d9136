"""Clips read in decoder processes: the same pixels, the same errors, and no endless hang."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from helpers import ROOT, environment, run_python
from video_files import draw, write, write_lossless, write_tricky

from vlt.data.video import clips, errors, index
from vlt.data.video import decode as decode_module
from vlt.data.video.clips import ClipRequest, DecoderPool, decoders, read_clip
from vlt.data.video.sample import sample

# A decoder process that hangs in C holding the GIL, crashes or exits, depending on the file name.
MISBEHAVING = (
    sys.executable,
    "-c",
    textwrap.dedent("""
        import ctypes, os, signal
        from vlt.data.video import worker

        def read_clip(request, read=worker.read_clip):
            name = os.path.basename(request.path)
            if name == "hang.mkv":
                ctypes.PyDLL(None).sleep(600)
            if name == "crash.mkv":
                os.kill(os.getpid(), signal.SIGSEGV)
            if name == "quit.mkv":
                os._exit(3)
            if name == "chatty.mkv":
                os.write(1, b"a library prints")
            return read(request)

        worker.read_clip = read_clip
        worker.main()
    """),
)


@pytest.fixture
def clip(tmp_path) -> ClipRequest:
    path = write_lossless(tmp_path, "ffv1.mkv", draw(25, 32, 32))
    return ClipRequest(str(path), "segment_centre", 8)


def renamed(clip: ClipRequest, name: str) -> ClipRequest:
    path = pathlib.Path(clip.path)
    return ClipRequest(str(path.rename(path.with_name(name))), "segment_centre", 8)


def test_read_clip_samples_decodes_and_transforms(tmp_path):
    frames = draw(25, 32, 48)
    path = str(write_lossless(tmp_path, "png.mov", frames))
    got = read_clip(ClipRequest(path, "linspace", 4, {"crop": 32, "flip": 1.0}))
    assert np.array_equal(got, frames[[0, 8, 16, 24], :, 8:40][:, :, ::-1])


def test_read_clip_is_a_function_of_file_and_request(tmp_path):
    path = str(write_lossless(tmp_path, "png.mov", draw(25)))
    spec = {"random_resized_crop": 24}
    clips = [read_clip(ClipRequest(path, "uniform_segments", 4, spec, seed)) for seed in (1, 1, 2)]
    assert np.array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


def test_read_clip_samples_again_when_fewer_frames_exist(tmp_path, monkeypatch):
    path = str(write_tricky(tmp_path, "closed_gop.mp4"))
    expected = read_clip(ClipRequest(path, "linspace", 4))

    def build_with_frames_too_many(container, stream):
        built = index.build_index(container, stream)
        for _ in range(4):
            ghost = built.pts[-1] + 512
            built.place[ghost] = built.place[built.pts[-1]]
            built.pts.append(ghost)
        built.pictures += 4
        return built

    monkeypatch.setattr(decode_module, "build_index", build_with_frames_too_many)
    again = ClipRequest(path, "linspace", 4, allow_truncated=True)
    assert np.array_equal(read_clip(again), expected)
    with pytest.raises(errors.Truncated, match="60 frames decode of 64 pictures"):
        read_clip(ClipRequest(path, "linspace", 4))


def test_fps_reaches_the_sampler(tmp_path):
    frames = draw(60, 32, 32)
    path = str(write_lossless(tmp_path, "ffv1.mkv", frames))
    indices = sample("fps1_linspace", 60, 2, rng=np.random.default_rng(0), fps=25.0)
    assert indices.tolist() == [0, 50]
    assert np.array_equal(read_clip(ClipRequest(path, "fps1_linspace", 2)), frames[indices])


@pytest.mark.parametrize("workers", [0, 2])
def test_pool_gives_what_read_clip_gives(tmp_path, clip, workers):
    large = write(tmp_path / "large.mp4", draw(30, 240, 320))
    requests = [clip, ClipRequest(str(large), "uniform_segments", 8, {"resize": 224}, 7)] * 4
    got: dict[int, np.ndarray] = {}
    with DecoderPool(workers) as pool:

        def read(start: int) -> None:
            for i in range(start, len(requests), 3):
                got[i] = pool.read(requests[i])

        threads = [threading.Thread(target=read, args=(start,)) for start in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(got) == list(range(8))
    for i, request in enumerate(requests):
        assert np.array_equal(got[i], read_clip(request))
        assert got[i].flags.writeable


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_cross_from_the_decoder(tmp_path, clip, workers):
    cut = write(tmp_path / "cut.mp4", draw(100), container_options={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    absent = str(tmp_path / "absent.mp4")
    with DecoderPool(workers) as pool:
        with pytest.raises(errors.CannotOpen, match="no such file") as caught:
            pool.read(ClipRequest(absent, "linspace", 8))
        assert caught.value.path == absent
        with pytest.raises(errors.Truncated):
            pool.read(ClipRequest(str(cut), "linspace", 8))
        assert len(pool.read(ClipRequest(str(cut), "linspace", 8, allow_truncated=True))) == 8
        with pytest.raises(ValueError, match="unknown sampler 'linspac'"):
            pool.read(ClipRequest(clip.path, "linspac", 8))
        assert pool.read(clip).shape == (8, 32, 32, 3)


def test_a_decoder_that_hangs_is_killed_and_named(clip):
    good = read_clip(clip)
    path = pathlib.Path(clip.path)
    hanging = ClipRequest(str(path.with_name("hang.mkv")), "linspace", 8)
    with DecoderPool(2, timeout=0.5, command=MISBEHAVING) as pool:
        old = {process.pid for process in pool.processes}
        start = time.monotonic()
        with pytest.raises(errors.DecodeTimeout, match=r"hang.mkv: no frames after 0.5 s"):
            pool.read(hanging)
        assert time.monotonic() - start < 60
        assert len(old & {process.pid for process in pool.processes}) == 1
        for _ in range(4):
            assert np.array_equal(pool.read(clip), good)


@pytest.mark.parametrize(("cores", "expected"), [(1, 2), (2, 2), (5, 5), (64, 16)])
def test_one_process_for_each_core_decodes(monkeypatch, cores, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert decoders() == expected
    assert decoders(8) == min(8, expected)


def test_a_large_file_has_more_time(tmp_path):
    hanging = tmp_path / "hang.mkv"
    with hanging.open("wb") as file:
        file.truncate(3 << 30)  # sparse
    told = pytest.raises(errors.DecodeTimeout, match=r"hang.mkv: no frames after 1.5 s")
    with DecoderPool(1, timeout=0.5, command=MISBEHAVING) as pool, told:
        pool.read(ClipRequest(str(hanging), "linspace", 8))


def test_a_stopped_decoder_is_killed_and_named(clip):
    with DecoderPool(1, timeout=0.5) as pool:
        good = pool.read(clip)
        os.kill(pool.processes[0].pid, signal.SIGSTOP)
        with pytest.raises(errors.DecodeTimeout):
            pool.read(clip)
        assert np.array_equal(pool.read(clip), good)


@pytest.mark.parametrize(
    ("name", "fate"), [("crash.mkv", "died of SIGSEGV"), ("quit.mkv", "ended with status 3")]
)
def test_a_decoder_that_dies_is_reported_as_a_broken_file(clip, name, fate):
    path = pathlib.Path(clip.path)
    with DecoderPool(1, command=MISBEHAVING) as pool:
        with pytest.raises(errors.DecoderDied, match=f"{name}: its decoder {fate}"):
            pool.read(ClipRequest(str(path.with_name(name)), "linspace", 8))
        assert np.array_equal(pool.read(clip), read_clip(clip))


def test_what_a_library_prints_is_no_answer(clip, capfd):
    chatty = renamed(clip, "chatty.mkv")
    with DecoderPool(1, command=MISBEHAVING) as pool:
        assert np.array_equal(pool.read(chatty), read_clip(chatty))
    assert "a library prints" in capfd.readouterr().err


def test_a_command_that_does_not_start_is_no_broken_file(clip):
    with (
        DecoderPool(1, command=(sys.executable, "-c", "raise SystemExit(1)")) as pool,
        pytest.raises(RuntimeError, match="a decoder did not start"),
    ):
        pool.read(clip)


def test_close_ends_the_processes(clip):
    pool = DecoderPool(2)
    pool.read(clip)
    processes = pool.processes
    pool.close()
    assert all(process.poll() is not None for process in processes)
    with pytest.raises(RuntimeError, match="closed"):
        pool.read(clip)


@pytest.mark.parametrize(
    ("workers", "timeout", "named"),
    [
        (-1, 60, "workers must be >= 0, got -1"),
        (1, 0, "timeout must be > 0 .* got 0"),
        (1, -2.5, "timeout must be > 0 .* got -2.5"),
        (1, float("nan"), "timeout must be > 0 .* got nan"),
        (1, float("inf"), "timeout must be > 0 .* got inf"),
    ],
)
def test_counts_and_times_that_cannot_be_are_refused(workers, timeout, named):
    with pytest.raises(ValueError, match=named):
        DecoderPool(workers, timeout)


def test_close_ends_every_wait(clip):
    """Waits for a decode in progress, for a free process, and for a process to start."""
    hanging = ClipRequest(str(pathlib.Path(clip.path).with_name("hang.mkv")), "linspace", 8)
    pool = DecoderPool(1, timeout=600, command=MISBEHAVING)
    pool.read(clip)
    starting = DecoderPool(1, timeout=600, command=("sleep", "600"))
    ended: list[tuple[str, Exception]] = []

    def read(pool):
        try:
            pool.read(hanging)
        except Exception as error:
            ended.append(error)

    threads = [threading.Thread(target=read, args=(p,)) for p in (pool, pool, pool, starting)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert not ended
    children = pool.processes + starting.processes
    start = time.monotonic()
    pool.close()
    starting.close()
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - start < 5
    assert [type(error) for error in ended] == [RuntimeError] * 4
    assert {str(error) for error in ended} == {"the decoder pool is closed"}
    assert all(child.poll() is not None for child in children)
    assert not set(pool.processes + starting.processes) - set(children)  # none started since


def test_a_signal_s_handler_may_close_the_pool(clip):
    """It runs in the waiting thread itself, whatever that thread is doing."""
    path = pathlib.Path(clip.path).with_name("hang.mkv")
    pool = DecoderPool(1, timeout=600, command=MISBEHAVING)
    pool.read(clip)
    old = signal.signal(signal.SIGALRM, lambda *_: pool.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(RuntimeError, match="the decoder pool is closed"):
            pool.read(ClipRequest(str(path), "linspace", 8))
    finally:
        signal.signal(signal.SIGALRM, old)


def test_decoders_outlive_the_signals_that_stop_a_job(clip):
    """Otherwise files that the main process is still reading would count as broken."""
    with DecoderPool(1) as pool:
        good = pool.read(clip)
        for stop in (signal.SIGINT, signal.SIGTERM):
            os.kill(pool.processes[0].pid, stop)
            assert np.array_equal(pool.read(clip), good)


def test_a_command_that_is_none_is_named():
    with pytest.raises(RuntimeError, match="a decoder did not start: .*no_such_command"):
        DecoderPool(2, command=("no_such_command",))


def test_a_decoder_that_never_says_that_it_runs_is_given_up(clip, monkeypatch):
    monkeypatch.setattr(clips, "_START_LIMIT", 0.3)
    with (
        DecoderPool(1, command=("sleep", "600")) as pool,
        pytest.raises(RuntimeError, match="a decoder did not start: .*sleep"),
    ):
        pool.read(clip)


def alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", ["idle", "hang.mkv"])
def test_decoders_end_when_their_parent_is_killed(clip, name):
    code = """
        import sys
        from vlt.data.video.clips import ClipRequest, DecoderPool
        pool = DecoderPool(1, timeout=0.5, command=eval(sys.argv[1]))
        pool.read(ClipRequest(sys.argv[2], "linspace", 8))
        print(pool.processes[0].pid, flush=True)
        pool.timeout = 600
        if sys.argv[3] != "idle":
            process = pool._free.get()
            process.ask(ClipRequest(sys.argv[3], "linspace", 8), 0.5)
        sys.stdin.read()
    """
    arguments = [repr(MISBEHAVING), clip.path, name]
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    parent = subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, env=environment(1), cwd=ROOT
    )
    child = int(parent.stdout.readline())
    assert alive(child)
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def test_a_decoder_process_imports_little():
    run_python(
        """
        import sys
        import vlt.data.video.worker
        heavy = {"jax", "tensorflow", "grain", "flax", "torch", "decord", "ml_collections"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        """
    )
