"""The memory of compiled programs."""

from typing import Any


def memory(compiled: Any) -> dict[str, int]:
    """Bytes of memory a compiled program takes; it need not have run.

    peak_bytes: arguments + outputs + temporaries - outputs that reuse the memory of arguments.
    """
    found = compiled.memory_analysis()
    parts = {
        "argument_bytes": found.argument_size_in_bytes,
        "output_bytes": found.output_size_in_bytes,
        "temporary_bytes": found.temp_size_in_bytes,
        "aliased_bytes": found.alias_size_in_bytes,
    }
    peak = sum(parts.values()) - 2 * parts["aliased_bytes"]
    return parts | {"peak_bytes": peak}
