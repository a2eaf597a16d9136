"""The measurement of reading shards."""

import numpy as np
from shard_folders import write_videos

from data_pipelines.shards.encode import Clips, Frames
from vlt.bench.shards import bench, make_shards
from vlt.data.video.clips import ClipRequest, read_clip


def test_each_source_gives_the_same_clips_and_a_rate(tmp_path):
    write_videos(tmp_path, lengths=(9, 5))
    videos = [str(path) for path in sorted((tmp_path / "videos").iterdir())]
    forms = {"frames": Frames(quality=95), "clips": Clips(crf=0)}
    made = {name: make_shards(videos, form, str(tmp_path / name)) for name, form in forms.items()}
    sources = {
        name: [ClipRequest(path, "segment_middle", 4) for path in paths]
        for name, paths in {"videos": videos, **made}.items()
    }
    rates, times = bench(sources, workers=0, rounds=2)
    assert rates.keys() == sources.keys() and times.shape == (2, 3) and min(rates.values()) > 0
    for original, *stored in zip(*sources.values(), strict=True):
        truth = read_clip(original).astype(int)
        for request in stored:
            assert np.abs(read_clip(request) - truth).mean() < 4
