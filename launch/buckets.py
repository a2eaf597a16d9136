"""Cloud Storage as folders: gs://BUCKET/PATH is /gcs/BUCKET/PATH where a run takes place.

gcsfuse mounts the buckets there, so that whatever reads or writes files works on them.
"""

import pathlib
import re
from collections.abc import Iterable

ROOT = pathlib.Path("/gcs")
# A host sees at once what another one wrote: gcsfuse caches metadata otherwise, on TPU hosts for
# ever. Folders that were uploaded into a flat bucket are seen, too.
OPTIONS = (
    "implicit-dirs",
    "metadata-cache-ttl-secs=0",
    "metadata-cache-negative-ttl-secs=0",
)
_ADDRESS = re.compile(r"gs://([a-z0-9][-_.a-z0-9]*)")


def buckets(arguments: Iterable[str]) -> list[str]:
    """Names of the buckets in a command line, each once."""
    return sorted({name for text in arguments for name in _ADDRESS.findall(text)})


def as_folders(arguments: Iterable[str]) -> list[str]:
    """The command line with folders in place of the addresses."""
    return [_ADDRESS.sub(lambda match: str(ROOT / match[1]), text) for text in arguments]
