"""ActivityNet Captions: the sentences of a video are joined into one caption.

    python -m data_pipelines.activitynet --annotations captions --videos videos --out OUT

makes train.jsonl and val1.jsonl from the published train.json and val_1.json.
"""

from data_pipelines.manifests import Files, Split, main
from vlt.evaluation.protocols import PROTOCOLS

PROTOCOL = PROTOCOLS["activitynet_val1"]
SPLITS = (
    Split(
        "train",
        (Files("train.json"), Files("anet_ret_train.json")),
        "paragraph",
        videos=PROTOCOL.training,
    ),
    Split(
        "val1",
        (Files("val_1.json"), Files("anet_ret_val_1.json")),
        "paragraph",
        videos=PROTOCOL.videos,
    ),
)

if __name__ == "__main__":
    main(__doc__, SPLITS)
