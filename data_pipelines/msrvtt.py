"""MSR-VTT for retrieval: the 1k-A test set and the two training sets that go with it.

    python -m data_pipelines.msrvtt --annotations msrvtt_data --videos videos --out data/msrvtt

makes train_9k.jsonl, train_7k.jsonl and test_1ka.jsonl from MSRVTT_data.json, MSRVTT_train.9k.csv,
MSRVTT_train.7k.csv and MSRVTT_JSFUSION_test.csv, or from the lists that other projects share
(a train.json is taken for the 9k). data_pipelines.msrvtt_captions makes the splits of captioning.
"""

from data_pipelines.manifests import Files, Split, main
from vlt.evaluation.protocols import PROTOCOLS

TRAINING = tuple(
    Split(
        f"train_{size}",
        (
            Files("MSRVTT_data.json", f"MSRVTT_train.{size}.csv"),
            Files(f"msrvtt_ret_train{size}.json"),
            Files(f"train_{size}.json"),
            *((Files("train.json"),) if size == "9k" else ()),
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
            Files("MSRVTT_JSFUSION_test.csv"),
            Files("msrvtt_test.jsonl"),
            Files("test_JSFUSION.json"),
            Files("msrvtt_ret_test1k.json"),
            Files("test.json"),
        ),
        "video",
        videos=PROTOCOLS["msrvtt_1ka"].videos,
        each=1,
    ),
)

if __name__ == "__main__":
    main(__doc__, SPLITS)
