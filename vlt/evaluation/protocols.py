"""Named protocols: what a test set must contain for its results to be comparable.

Results on one data set differ tenfold with the choice of queries (one of 20 captions, all 20, or a
paragraph), and a caption's scores differ with the references, so a protocol asserts its counts, and
its name is printed beside the metric.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlt.data.manifests.manifest import Record
from vlt.data.manifests.resources import is_made

OWN_DATA = "own_data"
ADVICE = "for a part of the test set take allow_subset=True, for your own videos protocol=own_data"


class ProtocolError(ValueError):
    """A test set that is not the protocol's."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One test set, and which of its texts are asked or compared with.

    Attributes:
      name: printed beside the metric.
      videos: size of the gallery, or None where any size is accepted.
      queries: number of texts, or None where any number is accepted.
      joined: whether all captions of a video, in order and separated by spaces, are one query
        (paragraph-to-video retrieval); otherwise each caption is a query.
      source: who states the counts.
      training: number of training videos that go with it (for LSMDC, of clips with a sentence), or
        None where any is accepted. data_pipelines asserts it when writing the training manifest;
        a model that was trained elsewhere may be tested, too.
      texts: what the texts are: 'queries' of retrieval, 'references' of captioning, or 'questions';
        a protocol without counts is returned by `named_protocol` for whichever is asked for.
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
        """The label to print beside the metric: the name, and how much of the set is present.

        Args:
          pairs: what `pairs` returned.
          allow_subset: whether fewer videos and texts are accepted, and labelled as a subset.

        Raises:
          ProtocolError: the counts differ from the protocol's, or, for a subset, exceed them.
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
    """How much of a protocol's test set is present: ' [subset: ...]', or '' for all of it.

    expected: right value of each count, or None where any is accepted. advice: ends the message.

    Raises:
      ProtocolError: the counts differ, or, for a subset, exceed the expected ones.
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
        # Its paper does not say how many questions are asked about them.
        Protocol("videochatgpt", 500, None, False, "Maaz et al., Section 5", None, "questions"),
    )
}


def named_protocol(name: str, texts: str = "") -> Protocol:
    """The named protocol.

    texts: what its texts must be; any kind by default.

    Raises:
      ProtocolError: no such name, or a protocol for another kind of texts.
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

    `moving_shapes` asserts nothing that could tell its generated videos from others; for any other
    manifest that name would be wrong, so the protocol is `own_data`.
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
      ProtocolError: no such protocol, or one for another kind of texts; a test set that is not the
        protocol's, or that holds no such texts.
    """
    protocol = protocol_of(section, texts)
    pairs = protocol.pairs(records)
    if not pairs:
        raise ProtocolError(f"{protocol.name}: no row of the manifest has any {texts}")
    return pairs, protocol.check(pairs, section["allow_subset"])
