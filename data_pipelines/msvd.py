"""MSVD: about forty captions per video, for captioning and for retrieval (each one a query).

    python -m data_pipelines.msvd --annotations msvd_data --videos YouTubeClips --out data/msvd

makes train.jsonl, val.jsonl and test.jsonl from raw-captions.pkl or AllVideoDescriptions.txt with
train_list.txt, val_list.txt and test_list.txt, or from lists.
"""

from data_pipelines.manifests import Files, Split, main
from vlt.evaluation.protocols import PROTOCOLS

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
            Files("raw-captions.pkl", f"{name}_list.txt"),
            Files("AllVideoDescriptions.txt", f"{name}_list.txt", counted=False),
            Files(f"msvd_ret_{name}.json"),
            Files(f"{name}.json"),
        ),
        "caption" if name == "train" else "video",
        videos=videos,
        texts=texts,
    )
    for name, (videos, texts) in COUNTS.items()
)

if __name__ == "__main__":
    main(__doc__, SPLITS)
