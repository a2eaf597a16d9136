"""vlt bench --config=NAME[:variant] [--against=NAME[:variant]] [--peer=torch] [--json]

Measures speed on this machine: of the vision tower, also as a share of the matmul rate measured in
the same run, and of a training step; everything compared is timed in turn. Further benchmarks are
separate programs, `python -m vlt.bench.NAME`, listed in vlt/bench/__init__.py.
"""

from absl import flags

from vlt.configuration import define_config, parse_flags

ROUNDS = 7


def parse(argv: list[str]) -> list[str]:
    """Defines the flags of `vlt.bench` and parses them with `parse_flags`."""
    define_config()
    flags.DEFINE_multi_string("against", [], "NAME[:variant] to measure turn by turn; repeatable.")
    flags.DEFINE_integer("batch", 1, "Videos at a time.", lower_bound=1)
    flags.DEFINE_integer("rounds", ROUNDS, "Times that all are measured in turn.", lower_bound=1)
    flags.DEFINE_enum("peer", "", ["", "torch"], "Whom to measure turn by turn.")
    flags.DEFINE_bool("forward", True, "Time the vision tower.")
    flags.DEFINE_bool("step", True, "Time a training step.")
    flags.DEFINE_bool("memory", False, "What a training step needs; compiled, not executed.")
    flags.DEFINE_bool("cls_only", None, "Whether the last block computes only what is read.")
    flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.")
    return parse_flags(argv, __doc__)
