"""MSR-VTT for captioning: its own split, twenty captions per video.

    python -m data_pipelines.msrvtt_captions --annotations DIR --videos DIR --out OUT

makes train.jsonl, val.jsonl and test.jsonl from MSRVTT_data.json, from train_val_videodatainfo.json
and test_videodatainfo.json, or from lists. data_pipelines.msrvtt makes the splits of retrieval.
"""

from data_pipelines.manifests import Files, Split, main
from vlt.evaluation.protocols import PROTOCOLS

PROTOCOL = PROTOCOLS["msrvtt_captions"]
SPLITS = (
    Split(
        "train",
        (
            Files("MSRVTT_data.json", part="train"),
            Files("train_val_videodatainfo.json", part="train"),
            Files("train.json"),
        ),
        "caption",
        videos=PROTOCOL.training,
        each=20,
    ),
    Split(
        "val",
        (
            Files("MSRVTT_data.json", part="validate"),
            Files("train_val_videodatainfo.json", part="validate"),
            Files("val.json"),
        ),
        "video",
        videos=497,
        each=20,
    ),
    Split(
        "test",
        (
            Files("MSRVTT_data.json", part="test"),
            Files("test_videodatainfo.json"),
            Files("test.json"),
        ),
        "video",
        videos=PROTOCOL.videos,
        each=20,
    ),
)

if __name__ == "__main__":
    main(__doc__, SPLITS)
