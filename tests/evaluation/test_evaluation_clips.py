"""Evaluation clips have the model's input size."""

from vlt.evaluation.clips import fitted
from vlt.models.sizes import SIZES


def test_own_videos_without_a_transform_are_brought_to_the_models_size():
    own = {"transform": {}, "manifest": "mine.csv"}
    assert fitted(own, SIZES["clip_b32"])["transform"] == {"resize": 224, "crop": 224}
    assert own["transform"] == {}


def test_a_transform_and_generated_clips_stay_as_they_are():
    chosen = {"transform": {"crop": 32}, "manifest": "mine.csv"}
    generated = {"transform": {}, "manifest": "moving_shapes:clips:test:8:gallery.jsonl"}
    for section in (chosen, generated):
        assert fitted(section, SIZES["clip_b32"]) is section
