"""How much memory is free."""

from pathlib import Path

import jax

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def free_on_host() -> int | None:
    """Bytes that a process can take without anything being swapped or killed; None if unknown."""
    try:
        fields = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    allowed = _allowed()
    return free if allowed is None else min(free, allowed)


def _allowed() -> int | None:
    """Bytes that a container's limit leaves, with inactive file pages, which can be dropped."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        taken = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        files = int(dict(line.split() for line in lines)["inactive_file"])
    except (OSError, KeyError, ValueError):
        return None  # no limit, or none that can be read
    return max(limit - taken + files, 0)


def free_on_device() -> int | None:
    """Free bytes of this process's first accelerator; None on a CPU, whose memory is the host's."""
    stats = jax.local_devices()[0].memory_stats()
    if jax.local_devices()[0].platform == "cpu" or not stats or "bytes_limit" not in stats:
        return None
    return int(stats["bytes_limit"]) - int(stats["bytes_in_use"])
