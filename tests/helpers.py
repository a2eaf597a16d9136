"""Shared by tests: runs code that needs a process of its own."""

import os
import pathlib
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[1]
NO_TORCH = "torch is not installed: the version that tests pin has no wheel for this Python"
# Where a child process finds the package and the modules that tests share.
PATHS = [ROOT, ROOT / "tests", *sorted(path for path in ROOT.glob("tests/*") if path.is_dir())]


def environment(devices: int) -> dict[str, str]:
    """The environment of a process that sees `devices` CPU devices and this checkout."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if "host_platform_device_count" not in flag]
    flags.append(f"--xla_force_host_platform_device_count={devices}")
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(flags),
        "PYTHONPATH": os.pathsep.join([*map(str, PATHS), os.environ.get("PYTHONPATH", "")]),
    }


def environment_with_vlt(folder: pathlib.Path) -> dict[str, str]:
    """The same for one device, with this `python`, and with this checkout's `vlt` in the folder."""
    env, command = environment(1), folder / "vlt"
    if not command.exists():
        folder.mkdir()
        command.write_text(f"#!{sys.executable}\nimport sys\nfrom vlt.__main__ import main\n")
        command.open("a").write("sys.exit(main())\n")
        command.chmod(0o755)
    first = [folder, pathlib.Path(sys.executable).parent]
    return env | {"PATH": os.pathsep.join([*map(str, first), env["PATH"]])}


def run_python(code: str, *arguments: object, devices: int = 1, timeout: float = 120) -> str:
    """Runs indented source in a new process on `devices` CPU devices and returns its stdout.

    Raises:
      AssertionError: the process failed; the message holds its stderr.
    """
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(
        command, env=environment(devices), capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr[-6000:]}"
    return done.stdout
