"""HMDB-51: three splits of 51 classes, few-shot training sets and base-to-novel.

    python -m data_pipelines.hmdb51 --annotations labels datasets_splits/hmdb_splits
        datasets_splits/base2novel_splits/hmdb_splits --videos hmdb51 --out data/hmdb51

makes train1 to train3, val1 to val3, few_shot_2 to few_shot_16, base_train_s1 to base_train_s3,
base_val and novel_val (.jsonl) from the lists that are given, with classes.txt, base_classes.txt
and novel_classes.txt.
"""

from data_pipelines.manifests import main
from data_pipelines.recognition import (
    Table,
    base_to_novel_splits,
    few_shot_splits,
    label_split,
    protocol_split,
    write_manifests_and_classes,
)

ALL = Table("hmdb_51_labels.csv", "hmdb51_zero_shot_1")
SPLITS = (
    *(label_split(f"train{n}", f"train{n}.txt", ALL, 3570, each=70) for n in (1, 2, 3)),
    *(protocol_split(f"val{n}", f"val{n}.txt", ALL, f"hmdb51_zero_shot_{n}") for n in (1, 2, 3)),
    *few_shot_splits(ALL),
    *base_to_novel_splits("hmdb51", "hmdb_51"),
)

if __name__ == "__main__":
    main(__doc__, SPLITS, write_manifests_and_classes)
