"""Command line: `python -m data_pipelines.moving_shapes --out DIR --pairs 1000 --split train`."""

import argparse

from data_pipelines.moving_shapes.scene import FAMILIES, SPLITS
from data_pipelines.moving_shapes.writer import generate


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the moving shapes data set.")
    parser.add_argument("--out", required=True, help="folder to make")
    parser.add_argument(
        "--pairs", type=int, required=True, help="pairs of twins; twice as many clips"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    options = parser.parse_args()
    try:
        manifest = generate(**vars(options))
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    print(f"{manifest}: {2 * options.pairs} clips")


if __name__ == "__main__":
    main()
