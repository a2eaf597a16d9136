"""Named protocols: what a test set must hold for its number to be comparable.

Numbers of one data set differ tenfold with the captions that are queries (one of 20, all 20, or a
paragraph), and a caption's scores with the references, so a protocol asserts its counts, and its
name stands beside the metric.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlt.data.manifest import Record
from vlt.data.resources import is_made

OWN_DATA = "own_data"
ADVICE = "for a part of the test set take allow_subset=True, for your own videos protocol=own_data"


class ProtocolError(ValueError):
    """A test set that is not the protocol's."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One test set, and what of its rows is asked or compared with.

    Attributes:
      name: printed beside the metric.
      videos: size of the gallery, or None where any is right.
      queries: number of texts, or None where any is right.
      joined: all captions of a video, in order and with a space between, are one query
        (paragraph-to-video retrieval); otherwise each caption is a query.
      source: who states the counts.
      training: number of training videos that go with it (of LSMDC: of clips with a sentence), or
        None where any is right. data_pipelines asserts it where the training manifest is written;
        a model may also be tested that was trained elsewhere.
      texts: what the texts are: 'queries' of retrieval, 'references' of captioning, or 'questions';
        where any numbers are right, `named_protocol` gives the protocol for either.
    """

    name: str
    videos: int | None
    queries: int | None
    joined: bool
    source: str
    training: int | None = None
    texts: str = "queries"

    def pairs(self, records: Iterable[Record]) -> list[tuple[str, str]]:
        """(video, text) pairs of a manifest's records, which may share a video."""
        if self.texts == "questions":
            return [(r.video, r.question) for r in records if r.question is not None]
        captions: dict[str, list[str]] = {}
        for record in records:
            captions.setdefault(record.video, []).extend(record.captions)
        if self.joined:
            captions = {video: [" ".join(texts)] for video, texts in captions.items() if texts}
        return [(video, text) for video, texts in captions.items() for text in texts]

    def check(self, pairs: list[tuple[str, str]], allow_subset: bool = False) -> str:
        """The label to print beside the metric: the name, and how much of the set is there.

        Args:
          pairs: what `pairs` returned.
          allow_subset: fewer videos and texts than the protocol's are accepted, and labelled.

        Raises:
          ProtocolError: other counts than the protocol's, or more where a subset is allowed.
        """
        found = {"videos": len({video for video, _ in pairs}), self.texts: len(pairs)}
        expected = {"videos": self.videos, self.texts: self.queries}
        name = f"{self.name} ({self.source})"
        return self.name + checked_counts(name, found, expected, allow_subset, self._advice())

    def _advice(self) -> str:
        taken = "a query a caption"
        if self.joined:
            taken = "one query a video, its captions joined"
        elif self.texts == "references":
            taken = "all captions of a video as its references"
        elif self.texts == "questions":
            taken = "one question a row"
        return f"the protocol takes {taken}; {ADVICE}"

    @property
    def asserts_nothing(self) -> bool:
        """Whether any test set fits."""
        return self.videos is None and self.queries is None


def checked_counts(
    name: str,
    found: Mapping[str, int],
    expected: Mapping[str, int | None],
    allow_subset: bool,
    advice: str,
) -> str:
    """How much of a protocol's test set is there: ' [subset: ...]', or '' if all of it.

    expected: of each count found, or None where any is right. advice: ends the message.

    Raises:
      ProtocolError: other counts, or more where a subset is allowed.
    """
    wrong = [
        f"{count} {kind} instead of {right}"
        for kind, count in found.items()
        if (right := expected[kind]) not in (None, count) and not (allow_subset and count < right)
    ]
    if wrong:
        raise ProtocolError(f"{name}: {', '.join(wrong)}; {advice}")
    parts = [
        f"{count} of {expected[kind]} {kind}"
        for kind, count in found.items()
        if expected[kind] not in (None, count)
    ]
    return f" [subset: {', '.join(parts)}]" if parts else ""


PROTOCOLS: dict[str, Protocol] = {
    entry.name: entry
    for entry in (
        Protocol("msrvtt_1ka", 1000, 1000, False, "JSFusion's 1k-A test split"),
        Protocol("msrvtt_1ka_9k", 1000, 1000, False, "TempMe, Appendix B", training=9000),
        Protocol(
            "msrvtt_1ka_7k", 1000, 1000, False, "Miech et al.'s training split", training=7010
        ),
        Protocol("didemo", 1004, 1004, True, "TempMe, Appendix B", training=8395),
        Protocol("lsmdc", 1000, 1000, False, "TempMe, Appendix B", training=101_079),
        Protocol("activitynet_val1", 4917, 4917, True, "TempMe, Appendix B", training=10_009),
        # Every caption of the test videos is a query.
        Protocol("msvd", 670, 27_763, False, "the captions' own count", training=1200),
        Protocol("moving_shapes", None, None, False, "generated, of any size"),
        Protocol(OWN_DATA, None, None, False, "of any size"),
        Protocol("msrvtt_captions", 2990, 59_800, False, "MSR-VTT's own split", 6513, "references"),
        # MSVD's own text file and the lists people share may differ by a few captions.
        Protocol("msvd_captions", 670, None, False, "the usual split", 1200, "references"),
        Protocol(
            "vatex_captions", 6000, 60_000, False, "VATEX's public test", 25_991, "references"
        ),
        Protocol("msrvtt_qa", None, 72_821, False, "MSRVTT-QA", None, "questions"),
        Protocol("msvd_qa", None, 13_157, False, "MSVD-QA", None, "questions"),
        Protocol("activitynet_qa", 800, 8000, False, "ActivityNet-QA", None, "questions"),
        # How many questions it asks of them, its paper does not say.
        Protocol("videochatgpt", 500, None, False, "Maaz et al., Section 5", None, "questions"),
    )
}


def named_protocol(name: str, texts: str = "") -> Protocol:
    """The named protocol.

    texts: what they must be; any by default.

    Raises:
      ProtocolError: no such name, or a protocol of other texts.
    """
    if name not in PROTOCOLS:
        raise ProtocolError(f"protocol {name!r} is not one of {sorted(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if protocol.asserts_nothing and texts:
        return dataclasses.replace(protocol, texts=texts)
    if texts not in ("", protocol.texts):
        fit = [p.name for p in PROTOCOLS.values() if p.asserts_nothing or p.texts == texts]
        raise ProtocolError(
            f"protocol {name!r} has {protocol.texts}, not {texts}; take one of {fit}"
        )
    return protocol


def protocol_of(section: Mapping[str, Any], texts: str) -> Protocol:
    """The protocol of an evaluation's section.

    `moving_shapes` asserts nothing that could tell its generated videos from others; of any other
    manifest the name would be wrong, and it is `own_data`.
    """
    name = section["protocol"]
    if name == "moving_shapes" and not is_made(section["manifest"]):
        name = OWN_DATA
    return named_protocol(name, texts)


def checked_pairs(
    section: Mapping[str, Any], records: Sequence[Record], texts: str
) -> tuple[list[tuple[str, str]], str]:
    """(video, text) pairs of an evaluation, and the label to print beside its metrics.

    Raises:
      ProtocolError: no such protocol, one of other texts, a test set that is not its, or one that
        holds no texts.
    """
    protocol = protocol_of(section, texts)
    pairs = protocol.pairs(records)
    if not pairs:
        raise ProtocolError(f"{protocol.name}: no row of the manifest has any {texts}")
    return pairs, protocol.check(pairs, section["allow_subset"])
