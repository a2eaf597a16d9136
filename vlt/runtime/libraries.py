"""Sets up libraries as a command that trains needs them."""

import os

from absl import flags

from vlt.runtime.compilation import keep_programs
from vlt.runtime.heap import keep_freed_memory


def prepare_libraries() -> None:
    """Keeps freed memory, and compiled programs from run to run; silences TensorFlow, which comes
    with clu's writers; marks flags as parsed, which grain's workers read whoever parsed them."""
    keep_freed_memory()
    keep_programs()
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
