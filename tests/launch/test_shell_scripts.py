"""shellcheck finds nothing in the shell scripts."""

import pathlib
import subprocess
import sys

from helpers import ROOT

SHELLCHECK = pathlib.Path(sys.executable).with_name("shellcheck")


def complaints(*files: pathlib.Path) -> str:
    return subprocess.run(
        [SHELLCHECK, "--norc", "--severity=style", *files], capture_output=True, text=True
    ).stdout


def test_shellcheck(tmp_path):
    files = sorted((ROOT / "launch").glob("*.sh"))
    assert [file.name for file in files] == ["setup_worker.sh", "slurm_job.sh"]
    assert not complaints(*files)

    (tmp_path / "wrong.sh").write_text("#!/bin/bash\ncd $1\n")
    assert "SC2086" in complaints(tmp_path / "wrong.sh")
