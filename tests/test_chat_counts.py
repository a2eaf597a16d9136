"""What `vlt inspect` says of chat models: parameters, tokens and operations."""

import pytest

from vlt.configuration import load_config
from vlt.inspect import format_report, inspect_config

ROWS = 2 * 4096  # rows of the word table for two words
COUNTS = {
    "llava_tune": (7_117_296_640, 57_803_776 + ROWS, 257),
    "llava_stage1": (7_045_818_368, 4_198_400 + ROWS, 256),
    "videochatgpt": (7_045_842_944, 4_198_400 + ROWS, 356),
    "minigpt4": (7_973_394_688, 3_149_824, 32),
    "minigpt4_stage2": (7_973_394_688, 3_149_824, 32),
    "instructblip": (8_053_925_376, 0, 32),
    "instructblip_tune": (8_053_925_376, 188_837_376, 32),
    "instructblip_frames": (7_913_155_712, 0, 8 * 32),
    "llava_mean": (7_045_842_944, 4_198_400 + ROWS, 256),
    "llava_st_pooling": (7_045_842_944, 4_198_400 + ROWS, 356),
}
# Vision tower with its branch, connector, and a prompt; only matrix products and convolutions.
GMACS = {
    "llava_tune": (8101.2 + 709.4, 1.078, 2205.5 + 0.131),
    "videochatgpt": (8101.2, 1.493, 2866.7 + 0.131),
    "minigpt4": (2082.9 + 220.8, 6.374 + 0.101, 598.0 + 0.131),
    "instructblip": (2082.9 + 220.8, 7.756 + 0.101, 272.5 + 0.131),
    "instructblip_frames": (2082.9, 8 * 7.857, 1741.2 + 0.131),
}


def report_of(variant: str, **changes) -> dict:
    overrides = {"model.checkpoint": ""} | {f"model.{key}": x for key, x in changes.items()}
    return inspect_config(load_config(f"video_chat:{variant}", overrides))


@pytest.mark.slow
@pytest.mark.parametrize("variant", COUNTS)
def test_counts_of_chat_models(variant):
    report = report_of(variant)
    found = tuple(report[key] for key in ("total_params", "trainable_params", "tokens_to_llm"))
    assert found == COUNTS[variant]
    if variant in GMACS:
        keys = ("video_gmacs", "connector_gmacs", "prefill_gmacs")
        assert [report[key] for key in keys] == pytest.approx(GMACS[variant], rel=0.005)
    assert "tokens_to_llm" in format_report(report)


@pytest.mark.slow
def test_fewer_frames_and_what_is_not_run():
    """23 of 24 blocks are read; at 64 frames the branch attends to every one."""
    report = report_of("llava_tune", frames=64)
    assert report["video_gmacs"] == pytest.approx(5184.8 + 909.4, rel=0.005)
    assert report["video_gmacs_run"] == pytest.approx(4969.1 + 909.4, rel=0.005)
    assert report_of("llava_tune", frames=8)["video_gmacs"] == pytest.approx(761.1, rel=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["llava_joint_st", "llava_separate_st"])
def test_every_patch_of_every_frame(variant):
    report = report_of(variant)
    assert report["tokens_to_llm"] == 4 * 256
