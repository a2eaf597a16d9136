"""UCF-101: three splits of 101 classes, few-shot training sets and base-to-novel.

    python -m data_pipelines.ucf101 --annotations labels datasets_splits/ucf_splits
        datasets_splits/base2novel_splits/ucf_splits --videos UCF-101 --out data/ucf101

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

ALL = Table("ucf_101_labels.csv", "ucf101_zero_shot_1")
TRAINING = {1: 9537, 2: 9586, 3: 9624}
SPLITS = (
    *(label_split(f"train{n}", f"train{n}.txt", ALL, size) for n, size in TRAINING.items()),
    *(protocol_split(f"val{n}", f"val{n}.txt", ALL, f"ucf101_zero_shot_{n}") for n in TRAINING),
    *few_shot_splits(ALL),
    *base_to_novel_splits("ucf101", "ucf_101"),
)

if __name__ == "__main__":
    main(__doc__, SPLITS, write_manifests_and_classes)
