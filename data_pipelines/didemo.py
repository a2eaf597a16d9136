"""DiDeMo: the descriptions of a video are joined into one caption, in the order of the file.

    python -m data_pipelines.didemo --annotations data --videos videos --out data/didemo

makes train.jsonl, val.jsonl and test.jsonl from the published train_data.json, val_data.json and
test_data.json. Annotators saw the first 30 seconds of each video; trim longer files to them, as
the papers do, since a manifest names whole files.
"""

from data_pipelines.manifests import Files, Split, main
from vlt.evaluation.protocols import PROTOCOLS

PROTOCOL = PROTOCOLS["didemo"]
SPLITS = tuple(
    Split(
        name,
        (Files(f"{name}_data.json"), Files(f"didemo_ret_{name}.json")),
        "paragraph",
        videos=videos,
    )
    for name, videos in (("train", PROTOCOL.training), ("val", 1065), ("test", PROTOCOL.videos))
)

if __name__ == "__main__":
    main(__doc__, SPLITS)
