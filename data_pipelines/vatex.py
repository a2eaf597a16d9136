"""VATEX: ten English captions a video.

    python -m data_pipelines.vatex --annotations vatex_data --videos videos --out data/vatex

makes train.jsonl, val.jsonl and test.jsonl of vatex_training_v1.0.json, vatex_validation_v1.0.json
and vatex_public_test_english_v1.1.json, or of lists. Many of its videos have left the web:
`--missing=drop` goes on without them and lists them.
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
