"""Cloud Storage as folders: gs://BUCKET/PATH is /gcs/BUCKET/PATH where a run executes.

gcsfuse mounts the buckets there, so that any code that reads or writes files works on them.
"""

import pathlib
import re
from collections.abc import Iterable

ROOT = pathlib.Path("/gcs")
# A host sees at once what another has written: by default gcsfuse caches metadata, on TPU hosts
# forever. Folders that were uploaded into a flat bucket are visible, too.
OPTIONS = (
    "implicit-dirs",
    "metadata-cache-ttl-secs=0",
    "metadata-cache-negative-ttl-secs=0",
)
_ADDRESS = re.compile(r"gs://([a-z0-9][-_.a-z0-9]*)")


def buckets(arguments: Iterable[str]) -> list[str]:
    """Sorted names of the buckets in a command line, each once."""
    return sorted({name for text in arguments for name in _ADDRESS.findall(text)})


def as_folders(arguments: Iterable[str]) -> list[str]:
    """The command line with folders in place of the addresses."""
    return [_ADDRESS.sub(lambda match: str(ROOT / match[1]), text) for text in arguments]
