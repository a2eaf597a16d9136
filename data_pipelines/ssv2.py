"""Something-Something V2: 174 classes, few-shot training sets and base-to-novel.

    python -m data_pipelines.ssv2 --annotations labels datasets_splits/ssv2_splits
        datasets_splits/base2novel_splits/ssv2_splits --videos 20bn-something-something-v2
        --out data/ssv2

makes train, val, few_shot_2 to few_shot_16, base_train_s1 to base_train_s3, base_val and novel_val
(.jsonl) from the lists that are given, with classes.txt, base_classes.txt and novel_classes.txt.
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

ALL = Table("ssv2_labels.csv", "ssv2_few_shot_2")
SPLITS = (
    label_split("train", "train.txt", ALL, 168_913),
    protocol_split("val", "validation.txt", ALL, "ssv2_few_shot_2"),
    *few_shot_splits(ALL),
    *base_to_novel_splits("ssv2", "ssv2_174"),
)

if __name__ == "__main__":
    main(__doc__, SPLITS, write_manifests_and_classes)
