"""The benchmark of conversion memory, on a model of one narrow layer."""

import re
import subprocess
import sys

import pytest
from helpers import environment


@pytest.mark.slow
def test_a_narrow_llama(shared):
    tokenizer = shared / "golden/chat/tokenizer/tokenizer.model"
    command = [sys.executable, "-m", "vlt.bench.conversion", str(tokenizer)]
    done = subprocess.run(
        [*command, "--layers=1", "--width=256"],
        env=environment(1), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.match(r"[\d,]{10,} parameters: \d\.\d\d GB at most", done.stdout)
