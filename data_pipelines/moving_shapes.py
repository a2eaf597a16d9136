"""Command line: `python -m data_pipelines.moving_shapes --out DIR --count 1000 --split train`."""

import argparse

from vlt.command_line import why
from vlt.data.moving_shapes.knobs import Knobs
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
    knobs = parser.add_argument_group("knobs that make clips harder")
    knobs.add_argument("--distractors", type=int, default=0, help="still shapes behind, 0 to 4")
    knobs.add_argument("--noise", type=float, default=0.0, help="grey levels, 0 to 128")
    knobs.add_argument("--motion", type=float, default=1.0, help="share of each motion, 0 to 1")
    options = vars(parser.parse_args())
    turned = {name: options.pop(name) for name in ("distractors", "noise", "motion")}
    try:
        manifest = generate(**options, knobs=Knobs(**turned))
    except (ValueError, OSError) as error:
        parser.error(why(error))
    print(manifest)


if __name__ == "__main__":
    main()
