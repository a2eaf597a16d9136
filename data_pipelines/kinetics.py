"""Kinetics-400, its base-to-novel lists, and the zero-shot splits of Kinetics-600.

    python -m data_pipelines.kinetics --annotations labels datasets_splits/k400_splits
        datasets_splits/base2novel_splits/k400_splits --videos k400 --out data/k400
    python -m data_pipelines.kinetics --annotations labels datasets_splits/k600_splits
        --videos k600 --out data/k400

makes train, val, base_train_s1 to base_train_s3, base_val, novel_val and zero_shot_1 to zero_shot_3
(.jsonl) from the lists that are given, with classes.txt, base_classes.txt, novel_classes.txt and
zero_shot_1_classes.txt to zero_shot_3_classes.txt. The number of training videos is not checked, as
nobody knows how many are left; without a list, data_pipelines.folder_per_class reads them by
folder.
"""

from data_pipelines.manifests import main
from data_pipelines.recognition import (
    LabelSplit,
    Table,
    base_to_novel_splits,
    label_split,
    protocol_split,
    write_manifests_and_classes,
)

ALL = Table("kinetics_400_labels.csv", "k400")


def _zero_shot(split: int) -> LabelSplit:
    protocol, written = f"k600_zero_shot_{split}", f"zero_shot_{split}_classes.txt"
    table = Table(f"ZS_split{split}_K600.csv", protocol, written)
    return protocol_split(f"zero_shot_{split}", f"ZS_split{split}_K600_eval.txt", table, protocol)


SPLITS = (
    label_split("train", "train.txt", ALL),
    protocol_split("val", "val.txt", ALL, "k400"),
    *base_to_novel_splits("k400", "kinetics_400"),
    *map(_zero_shot, (1, 2, 3)),
)

if __name__ == "__main__":
    main(__doc__, SPLITS, write_manifests_and_classes)
