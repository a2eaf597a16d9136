"""VATEX: ten English captions per video.

    python -m data_pipelines.vatex --annotations vatex_data --videos videos --out data/vatex

makes train.jsonl, val.jsonl and test.jsonl from vatex_training_v1.0.json,
vatex_validation_v1.0.json and vatex_public_test_english_v1.1.json, or from lists. Many of its
videos are no longer online: `--missing=drop` leaves them out and lists them.
"""

from data_pipelines.manifests import Files, Split, main
from vlt.evaluation.protocols import PROTOCOLS

PROTOCOL = PROTOCOLS["vatex_captions"]
SPLITS = (
    Split(
        "train",
        (Files("vatex_training_v1.0.json"), Files("train.json")),
        "caption",
        videos=PROTOCOL.training,
        each=10,
    ),
    Split(
        "val",
        (Files("vatex_validation_v1.0.json"), Files("val.json")),
        "video",
        videos=3000,
        each=10,
    ),
    Split(
        "test",
        (Files("vatex_public_test_english_v1.1.json"), Files("test.json")),
        "video",
        videos=PROTOCOL.videos,
        each=10,
    ),
)

if __name__ == "__main__":
    main(__doc__, SPLITS)
