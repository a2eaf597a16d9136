"""MSVD: about forty captions a video, each of which is a query of the test.

    python -m data_pipelines.msvd --annotations msvd_data --videos YouTubeClips --out data/msvd

makes train.jsonl, val.jsonl and test.jsonl of raw-captions.pkl with train_list.txt, val_list.txt
and test_list.txt, or of lists.
"""

from data_pipelines.retrieval_manifests import Split, main
from vlt.tasks.protocols import PROTOCOLS

PROTOCOL = PROTOCOLS["msvd"]
COUNTS = {
    "train": (PROTOCOL.training, None),
    "val": (100, 4290),
    "test": (PROTOCOL.videos, PROTOCOL.queries),
}
SPLITS = tuple(
    Split(
        name,
        (
            ("raw-captions.pkl", f"{name}_list.txt"),
            (f"msvd_ret_{name}.json",),
            (f"{name}.json",),
        ),
        "caption" if name == "train" else "video",
        videos=videos,
        captions=captions,
    )
    for name, (videos, captions) in COUNTS.items()
)

if __name__ == "__main__":
    main(__doc__, SPLITS)
