"""Sets up libraries as a command that trains needs them."""

import os

from absl import flags

from vlt.runtime.compilation import keep_programs


def prepare_libraries() -> None:
    """Keeps compiled programs from run to run, silences TensorFlow, which comes with clu's writers,
    and marks flags as parsed: grain's workers read them, whoever parsed the command line."""
    keep_programs()
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
