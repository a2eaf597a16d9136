"""vlt inspect --config=NAME[:variant] [--leaves] [--topology=v5e:4x4] [--json]

Describes a config: parameters, multiply-accumulates and tokens, from shapes alone, without data,
weights or a device. With --leaves, each leaf, its rule and what reads it; with a topology, what a
training step needs on such a TPU slice, with --traffic what it moves there, and with --policies
which rematerialisation is best.
"""

from absl import flags

from vlt.configuration import define_config, parse_flags


def parse(argv: list[str]) -> list[str]:
    """Defines the flags of `vlt.inspect` and parses them with `parse_flags`."""
    define_config()
    flags.DEFINE_string("topology", "", "TPU slice to compile the training step for: v5e:4x4.")
    flags.DEFINE_integer(
        "batch", 0, "Videos of a step there; the config's by default.", lower_bound=0
    )
    flags.DEFINE_bool("traffic", False, "List what the step moves there, by kind of instruction.")
    flags.DEFINE_bool(
        "policies", False, "Compile it with every policy of model.remat, and name the best."
    )
    flags.DEFINE_bool("leaves", False, "List each leaf: shape, rule, learning rate, what reads it.")
    flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
    return parse_flags(argv, __doc__)
