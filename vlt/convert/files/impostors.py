"""Says what a file in place of a checkpoint is: a pointer, a web page, an archive."""

import re
from pathlib import Path

_HEAD = 4096
_LFS = re.compile(rb"version https://(?:git-lfs|hawser)\.github\.com/spec/")
_XET = re.compile(rb"# xet version ")
_PAGE = re.compile(rb"(?:<!--.*?-->\s*)*<(?:!doctype html|html|head|body)\b", re.I | re.S)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.I | re.S)
_GZIP = b"\x1f\x8b"
_MAGIC = {
    _GZIP: "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
}
_OTHER_FORMATS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (of Keras?)",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a numpy array (.npy)",
    b"%PDF-": "a PDF document",
}


def impostor_or(path: Path, error: object, gzipped: bool = False) -> str:
    """What a file that could not be read is, as `describe_impostor` says, or else the error."""
    try:
        return describe_impostor(path, gzipped) or str(error)
    except OSError:
        return str(error)


def describe_pointer(path: Path) -> str | None:
    """What a file that points to another is, as `describe_impostor` says; None for any other.

    Raises: OSError.
    """
    with path.open("rb") as file:
        return _pointer(file.read(_HEAD))


def describe_impostor(path: Path, gzipped: bool = False) -> str | None:
    """What a file that is not a checkpoint is, by its first bytes, and what to do; else None.

    A noun phrase for messages: '{path}: {description}'. Bytes that may be a checkpoint's give None,
    with one exception: a pickle of protocol 0 is text, so call this only after reading has failed.
    gzipped: whether a file compressed with gzip is what it should be.

    Raises: OSError.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "an empty file: a download that never began? Download it again"
    if gzipped and head.startswith(_GZIP):
        return None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return _pointer(text) or _archive(head) or _page(text) or _text(head)


def _pointer(text: bytes) -> str | None:
    if _LFS.match(text):
        size = re.search(rb"^size (\d+)\s*$", text, re.M)
        return f"a git-lfs pointer to {_bytes(size)}, not the file itself: run `git lfs pull`"
    if _XET.match(text):
        size = re.search(rb"^filesize\s*=\s*(\d+)", text, re.M)
        return f"a Xet pointer to {_bytes(size)}, not the file itself: run `git xet checkout`"
    return None


def _bytes(size: re.Match[bytes] | None) -> str:
    # 18 digits are up to 1 exabyte; a longer number is not a file size.
    return f"a file of {int(size[1]):,} bytes" if size and len(size[1]) <= 18 else "a file"


def _archive(head: bytes) -> str | None:
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return f"a file compressed with {name}: unpack it first"
    if head[257:262] == b"ustar":
        return (
            "a tar archive: unpack it first, or, if it is in the tar format of torch before "
            "0.1.10, save it again with a recent torch"
        )
    for magic, name in _OTHER_FORMATS.items():
        if head.startswith(magic):
            return f"{name}, not a checkpoint"
    if len(head) >= 64 and not head.strip(b"\0"):
        return "zeros at its start: a download that was never finished? Download it again"
    return None


def _page(text: bytes) -> str | None:
    if _PAGE.match(text):
        title = _TITLE.search(text.decode("utf-8", "replace"))
        named = f" with the title {_quoted(title[1])}" if title else ""
        return f"a web page{named}, which a server sent in place of the file: download it again"
    if text.startswith(b"<?xml"):
        return f"an XML text in place of the file: {_quoted(text.decode('utf-8', 'replace'))}"
    if text[:1] in (b"{", b"["):
        return f"a JSON text in place of the file: {_quoted(text.decode('utf-8', 'replace'))}"
    return None


def _text(head: bytes) -> str | None:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3 or len(head) < _HEAD:
            return None
        text = head[: error.start].decode("utf-8")
    if all(character.isprintable() or character.isspace() for character in text):
        return f"a text in place of the file: {_quoted(text)}"
    return None


def _quoted(text: str) -> str:
    """The text in one quoted line of at most 100 characters, control characters escaped."""
    line = " ".join(text.split())
    return repr(line if len(line) <= 100 else f"{line[:97]}...")
