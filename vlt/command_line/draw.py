"""vlt draw --config=NAME[:variant] VIDEO ... --out=DIR

Draws which patches become one token: writes DIR/VIDEO.png for every video file, with the frames
that the config's first evaluation samples, then a row for each model. Patches of one token are
filled with their mean colour over all frames and outlined in one colour (TempMe, Figures 4 and 7).
The models are those of `config.compare` that merge; without `config.compare`, the config's own,
after its variant VARIANT_tome if the file has one.
"""

from absl import flags

from vlt.configuration import define_config, misused, parse_flags_and_arguments


def parse(argv: list[str]) -> list[str]:
    """Defines the flags of `vlt.draw` and parses them; ends the process if one is missing."""
    define_config()
    flags.DEFINE_multi_string(
        "against", [], "Another config to draw first, with the same overrides."
    )
    flags.DEFINE_multi_string(
        "workdir", [], "A trained run, or a folder of runs, instead of configs."
    )
    flags.DEFINE_multi_integer("layer", [], "Block to draw after, from 0, instead of the last.")
    flags.DEFINE_bool("random", False, "Random weights: tokens merge by colour and position alone.")
    flags.DEFINE_string("out", None, "Folder of the pictures.")
    arguments, options = parse_flags_and_arguments(argv, __doc__), flags.FLAGS
    if not arguments[1:] or not options.out or not (options["config"].present or options.workdir):
        misused(
            "a video, --out and --config or --workdir are needed: "
            "vlt draw --config=tempme VIDEO --out=DIR"
        )
    return arguments
