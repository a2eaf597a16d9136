"""MSR-VTT: the 1k-A test set and the two training sets that go with it.

    python -m data_pipelines.msrvtt --annotations msrvtt_data --videos videos --out data/msrvtt

makes train_9k.jsonl, train_7k.jsonl and test_1ka.jsonl of MSRVTT_data.json, MSRVTT_train.9k.csv,
MSRVTT_train.7k.csv and MSRVTT_JSFUSION_test.csv, or of the lists that other projects share.
"""

from data_pipelines.retrieval_manifests import Split, main
from vlt.tasks.protocols import PROTOCOLS

TRAINING = tuple(
    Split(
        f"train_{size}",
        (
            ("MSRVTT_data.json", f"MSRVTT_train.{size}.csv"),
            (f"msrvtt_ret_train{size}.json",),
            (f"train_{size}.json",),
        ),
        "caption",
        videos=PROTOCOLS[f"msrvtt_1ka_{size}"].training,
        each=20,
    )
    for size in ("9k", "7k")
)
SPLITS = (
    *TRAINING,
    Split(
        "test_1ka",
        (
            ("MSRVTT_JSFUSION_test.csv",),
            ("msrvtt_test.jsonl",),
            ("test_JSFUSION.json",),
            ("msrvtt_ret_test1k.json",),
            ("test.json",),
        ),
        "video",
        videos=PROTOCOLS["msrvtt_1ka"].videos,
        each=1,
    ),
)

if __name__ == "__main__":
    main(__doc__, SPLITS)
