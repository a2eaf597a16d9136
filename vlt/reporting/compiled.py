"""Text on a program compiled for an absent TPU slice: memory, roofline, traffic."""

from collections.abc import Mapping
from typing import Any

TOLD = 20  # kinds of instructions in a table of traffic


def format_compiled(report: Mapping[str, Any]) -> str:
    """What `vlt.training.ahead.compile_ahead` found, as readable text."""
    mesh = ", ".join(f"{axis}={size}" for axis, size in report["mesh"].items())
    batch = f"{report['batch']} videos"
    if report["batch"] != report["batch_asked"]:
        batch += f" (rounded up from {report['batch_asked']} to a multiple of the parts)"
    lines = [
        f"{report['program']} on {report['topology']}: {report['chips']} chips, mesh {mesh}",
        _line("batch", batch),
        _line("compiled in", f"{report['compile_s']:.0f} s"),
        _line("operations, each chip", f"{report['flops'] / 1e12:.3f} T"),
        "memory of each chip:",
        *(_line(f"  {kind}", gigabytes(size)) for kind, size in report["bytes"].items()),
    ]
    lines += _of_fitting(report) if report["fits"] else _of_misfit(report)
    return "\n".join(lines + _of_policies(report))


def _of_policies(report: Mapping[str, Any]) -> list[str]:
    """The lines on what `vlt.training.ahead.compile_policies` found."""
    lines = []
    for policy, found in report.get("remat", {}).items():
        said = "does not fit"
        if found["fits"]:
            held = gigabytes(found["hbm_bytes_per_device"])
            best = ", the best" if policy == report["best_remat"] else ""
            said = f"{1e3 * found['step_s']:.2f} ms at the least, {held}{best}"
        lines.append(_line(f"model.remat={policy}", said))
    return lines


def _of_fitting(report: Mapping[str, Any]) -> list[str]:
    estimate = report["roofline"]
    shares = ", ".join(
        f"{name.removesuffix('_s')} {1e3 * value:.2f}"
        for name, value in estimate.items()
        if name in ("compute_s", "memory_s", "network_s")
    )
    moved = [
        _line(f"  {kind}", f"{gigabytes(entry['bytes'])} in {entry['count']} calls")
        for kind, entry in report["collectives"].items()
    ]
    step_ms, used = 1e3 * estimate["step_s"], estimate["utilisation"]
    return [
        _line("fits", f"in {gigabytes(report['hbm_bytes_of_chip'])}"),
        "collectives of each chip:",
        *moved,
        _line("kernels", _counted(report["kernels"])),
        _line("at the chip's peaks", f"{shares} ms"),
        _line("step, at the least", f"{step_ms:.2f} ms, by {estimate['bound_by']}"),
        _line("utilisation, at the most", f"{used:.0%}"),
    ]


def _counted(kernels: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count} times" for name, count in kernels.items()) or "none"


def format_traffic(report: Mapping[str, Any]) -> str:
    """A table of the compiled step's main-memory traffic by kind of instruction."""
    moved = report["traffic"]
    total = sum(each["bytes"] for each in moved)
    lines = [f"{'instructions':36}{'times':>8}{'GB':>10}{'share':>8}"]
    for each in moved[:TOLD]:
        share = each["bytes"] / total
        lines.append(f"{each['kind']:36}{each['count']:8,d}{each['bytes'] / 1e9:10.3f}{share:8.1%}")
    rest = sum(each["bytes"] for each in moved[TOLD:])
    return "\n".join([*lines, f"{'others':44}{rest / 1e9:10.3f}{rest / total:8.1%}"])


def _of_misfit(report: Mapping[str, Any]) -> list[str]:
    knobs = [f"  {knob}" for knob in report["knobs"]]
    return [f"does not fit: {report['compiler']}", "what would help, the cheapest first:", *knobs]


def _line(name: str, value: str) -> str:
    return f"{name:28}{value}"


def gigabytes(size: float) -> str:
    """A number of bytes, as text."""
    return f"{size / 1e9:.3f} GB"
