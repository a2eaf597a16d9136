"""LSMDC: clips from movies, with one sentence each.

    python -m data_pipelines.lsmdc --annotations annotations --videos videos --out data/lsmdc

makes train.jsonl, val.jsonl and test.jsonl from LSMDC16_annos_training.csv, LSMDC16_annos_val.csv
and LSMDC16_challenge_1000_publictect.csv, or from lists. A few clips of the first two have two
sentences: the papers count the lines of the files.
"""

from data_pipelines.manifests import Files, Split, main
from vlt.evaluation.protocols import PROTOCOLS

PROTOCOL = PROTOCOLS["lsmdc"]
SPLITS = (
    Split(
        "train",
        (Files("LSMDC16_annos_training.csv"), Files("lsmdc_ret_train.json"), Files("train.json")),
        "caption",
        texts=PROTOCOL.training,
    ),
    Split(
        "val",
        (Files("LSMDC16_annos_val.csv"), Files("lsmdc_ret_val.json"), Files("val.json")),
        "caption",
        texts=7408,
    ),
    Split(
        "test",
        (
            Files("LSMDC16_challenge_1000_publictect.csv"),
            Files("lsmdc_ret_test_1000.json"),
            Files("test.json"),
        ),
        "video",
        videos=PROTOCOL.videos,
        each=1,
    ),
)

if __name__ == "__main__":
    main(__doc__, SPLITS)
