"""The bounds within which the numbers of a config must lie, whatever they are used for.

One table for every command and every way a number gets into a config. What depends on other
settings or the data (a batch that the mesh splits, layers that a tower has) is checked where that
is known.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

MOST = 10**9  # for what nothing else limits
BELOW_ONE = 1 - 1e-9
SIDE = 2**14  # pixels
FRAMES = 10**4
LAYERS = 1000

# Regex of a dotted key, whole numbers or any, the least and the greatest, and a note. The first
# that matches counts. Elements of tuples are keyed by their index. Where the last part of the regex
# is any key, or an option of a method, strings, booleans and None pass.
BOUNDS: tuple[tuple[str, type, float, float, str], ...] = (
    ("seed", int, 0, 2**32 - 1, ""),
    (r"train\.(steps|eval_every)", int, 0, MOST, "0 means none"),
    (r"train\.(log_every|checkpoint_every)", int, 1, MOST, "more than train.steps means never"),
    (r"train\.keep_last", int, 1, MOST, "at least one checkpoint must be kept"),
    (r"train\.watchdog", float, 0, MOST, "seconds, 0 means never"),
    (r"optimizer\.(lr|clip)", float, 0, 1e6, ""),
    (r"optimizer\.b[12]", float, 0, BELOW_ONE, ""),
    (r"optimizer\.eps", float, 0, 1, ""),
    (r"optimizer\.accumulate", int, 1, 2**20, ""),
    (r"optimizer\.schedule\.epochs", float, 1e-6, MOST, ""),
    (r"optimizer\.schedule\..*", float, 0, MOST, ""),
    (r"optimizer\.\w+\..*", float, -MOST, MOST, ""),
    (r"rules\..*\.(lr|weight_decay)", float, 0, 1e6, ""),
    (r"mesh\.\w+", int, -1, MOST, "-1 means all devices that are left"),
    (r"sharding\.min_elements", int, 0, 2**62, ""),
    (r"model\.frames|.*\.sampler\.frames", int, 1, FRAMES, ""),
    (r".*\.sampler\.clips", int, 1, FRAMES, ""),
    (r"model\.context", int, 2, 10**5, "start and end token alone need 2"),
    (r"model\.(\w+\.)?(drop_path|dropout|mask_rate)", float, 0, BELOW_ONE, ""),
    (r"model\.\w+\.keep_\w+", float, 0, 100, "percent"),
    (r"model\.\w+\.(rate|keep)", float, 0, 1, "a share"),
    (r"model\.\w+\.(rank|bottleneck|width|tokens|reduction|granularity)", int, 1, 10**6, ""),
    (r"model\.\w+\.(kernel|join)\.\d+", int, 1, 10**6, ""),
    (r"model\.\w+\.max_frames", int, 1, FRAMES, ""),
    (r"model\.\w+\.(classes|heads)", int, 0, 10**6, ""),
    (r"model\.\w+\.(r|frame_r|(kept|merged)\.\d+)", int, 0, 10**6, ""),
    (r"model\.\w+\.(depth|layers)", int, 1, LAYERS, ""),
    (r"model\.\w+\.(text_)?layers\.\d+", int, 0, LAYERS, ""),
    (r"model\.\w+\.(\w*scale\w*|\w*factor)", float, -1e6, 1e6, ""),
    (r"model\..*", float, 0, 10**6, ""),
    (r"data\.workers", int, 0, 4096, "0 means none, videos are read in turn"),
    (r"data\.decode_timeout", float, 1e-3, 10**6, "seconds"),
    (r".*\.batch_size", int, 1, 10**7, ""),
    (r".*\.max_words", int, 0, MOST, "0 means all"),
    (r".*\.max_error_rate", float, 0, 1, "a share of the videos"),
    (r".*\.transform\.(flip|grayscale|jitter\.(probability|hue))", float, 0, 1, ""),
    (r".*\.transform\.(.*\.)?(area|aspect)\.\d", float, 1e-6, 1e6, ""),
    (r".*\.transform\.(jitter|rand_augment|blip_augment)\..*", float, 0, MOST, ""),
    (r".*\.transform\.(resize|\w*crops?)(\.size|\.\d)?", int, 1, SIDE, "pixels"),
    (r".*\.search\.beams", int, 1, 1024, ""),
    (r".*\.search\.max_length", int, 1, 10**5, "tokens"),
    (r".*\.search\.(top_k|min_length)", int, 0, 10**5, ""),
    (r".*\.search\..*", float, -1e6, 1e6, ""),
    (r".*\.(rank|rerank|min_pairs)", int, 1, MOST, ""),
    (r".*\.label_smoothing", float, 0, BELOW_ONE, ""),
    (r"task\.queue", int, 1, MOST, ""),
    (r"task\.(ramp|class_count)", int, 0, MOST, ""),
    (r"task\.(momentum|alpha|interpolation\..*)", float, 0, 1, ""),
    (r"evals\.\w+\.scale", float, 0, math.inf, "0 means the model's own"),
    (r"task\.scale", float, 0, math.inf, "0 means the model's own"),
    (r"task\..*", float, 0, 1e6, ""),
)
# Keys that hold other configs' values, or none.
NOT_CHECKED = ("compare", "repeats", "table", "more_tables")


def out_of_bounds(config: Mapping[str, Any]) -> str:
    """A sentence on the first number of a config that is out of its bounds; '' if none is."""
    for key, value in leaves({k: v for k, v in config.items() if k not in NOT_CHECKED}):
        if wrong := _misfit(key, value):
            return f"config.{key}={value!r}: must be {wrong}"
    return ""


@functools.lru_cache(maxsize=4096)
def bound_of(key: str) -> tuple[str, type, float, float, str] | None:
    """The entry of `BOUNDS` for a dotted key, or None."""
    return next((bound for bound in BOUNDS if re.fullmatch(bound[0], key)), None)


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted keys, and the value at the end of each."""
    inner: Any
    if hasattr(value, "items"):
        inner = value.items()
    elif isinstance(value, (list, tuple)):
        inner = enumerate(value)
    else:
        yield key, value
        return
    for name, each in inner:
        yield from leaves(each, f"{key}.{name}" if key else str(name))


def _misfit(key: str, value: Any) -> str:
    """What the value of a key must be, if it is wrong; else ''."""
    bound = bound_of(key)
    if bound is None:
        return "a number" if isinstance(value, float) and math.isnan(value) else ""
    pattern, kind, least, most, note = bound
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number and (pattern.endswith(".*") or re.match(r"model\.\w+\.", key)):
        return ""
    if number and (kind is float or isinstance(value, int)) and least <= value <= most:
        return ""
    wanted = "a whole number" if kind is int else "a number"
    return f"{wanted} from {_plain(least)} to {_plain(most)}" + (f" ({note})" if note else "")


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.10g}"
