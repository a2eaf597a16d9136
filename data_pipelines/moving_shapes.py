"""Command line: `python -m data_pipelines.moving_shapes --out DIR --count 1000 --split train`."""

import argparse

from vlt.data.moving_shapes.scene import FAMILIES, SPLITS
from vlt.data.moving_shapes.writer import CONTENTS, generate


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the moving shapes data set.")
    parser.add_argument("--out", required=True, help="folder to make")
    parser.add_argument("--count", type=int, required=True, help="pairs of twins; frames; stills")
    parser.add_argument("--content", choices=CONTENTS, default="clips")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    options = parser.parse_args()
    try:
        manifest = generate(**vars(options))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(manifest)


if __name__ == "__main__":
    main()
