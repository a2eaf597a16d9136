"""Pages of named things: samplers, transforms, protocols, checkpoints, files of a run."""

import inspect

from docs.markdown import code, codes, prose, table, text
from vlt.checkpoints import megabytes
from vlt.configuration.checkpoints import CHECKPOINTS, MERGES, MERGES_URL
from vlt.data.text.captions import RULES
from vlt.data.video import rand_augment, transform
from vlt.data.video.sample import RANDOM_SAMPLERS, SAMPLERS
from vlt.evaluation.protocols import PROTOCOLS, Protocol
from vlt.evaluation.recognition_protocols import RECOGNITION_PROTOCOLS, RESULTS
from vlt.training.workdir import FILES

VIDEOS = """\
# Videos: samplers, transforms and texts

Choose here which frames of a video a model sees, what is done to them, and to texts: the names of
`sampler.name`, the steps of `transform`, and the rules of `clean`, in `data.train` and in each
section of `evals` ([all keys](config.md#data))."""

PROTOCOL = """\
# Protocols

Find here what a test set must hold for its number to be compared with published ones: `protocol` of
an [evaluation](config.md#evaluations). Other counts are an error; with `allow_subset` fewer are
taken, and said beside the number. A dash: any number is right."""

PUBLISHED = f"""\
# Published checkpoints

Find here what configs ask for as `checkpoints/NAME`: where it is published, under which licence,
and how to convert it. `vlt checkpoints` prints the same, and which of them are here;
`vlt checkpoints --verify FILE` compares a download with its publisher's sum.

`{MERGES}` is in <{MERGES_URL}>."""

WORKDIR = """\
# Files of a run

Find here what a run leaves in its folder, `--workdir`. A comparison has the files of its table in
this folder, and a folder of the same kind for each row, as a row has for each repeat."""


def videos() -> str:
    """The page of samplers and transforms."""
    parts = [VIDEOS, "## Samplers", "`n`: frames of the video; `frames`: those of a clip."]
    for name, rule in SAMPLERS.items():
        drawn = "Draws anew each time." if name in RANDOM_SAMPLERS else ""
        parts += [f"### `{name}`", prose(rule.__doc__), drawn]
    parts += ["## Transforms", prose(transform.__doc__)]
    parts += ["## RandAugment", prose(rand_augment.__doc__), "## Rules for texts"]
    rules = ((code(name), text(inspect.getdoc(rule) or "")) for name, rule in RULES.items() if name)
    return "\n\n".join(filter(None, [*parts, table(("`clean`", "does"), rules)]))


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def protocols() -> str:
    """The page of protocols, with their counts."""
    rows = (
        (*(code(p.name), _count(p.videos), _texts(p), _count(p.training), text(p.source)),)
        for p in PROTOCOLS.values()
    )
    header = ("protocol", "videos", "texts", "training videos", "source")
    parts = [PROTOCOL, "## Retrieval, captions and questions", table(header, rows)]
    return "\n\n".join([*parts, *_recognition()])


def _texts(protocol: Protocol) -> str:
    if protocol.asserts_nothing:
        return "-"
    joined = ", all captions of a video joined to one" if protocol.joined else ""
    count = "any number of" if protocol.queries is None else f"{protocol.queries:,}"
    return f"{count} {protocol.texts}{joined}"


def _recognition() -> list[str]:
    rows = (
        (
            *(code(p.name), _count(p.videos), _count(p.classes), _count(p.shots)),
            *(f"{p.views.clips} x {p.views.crops}, {p.views.draw}", text(p.source)),
        )
        for p in RECOGNITION_PROTOCOLS.values()
    )
    header = ("protocol", "videos", "classes", "shots", "clips x crops, drawn", "source")
    combined = ((code(name), codes(parts)) for name, (parts, _) in RESULTS.items())
    return [
        "## Action recognition",
        "Shots: training videos of each class that go with it.",
        table(header, rows),
        "## Results of several test sets",
        "Where all of a row are evaluated, the table has what papers report of them together: mean "
        "and deviation over splits, or base, novel and their harmonic mean.",
        table(("result", "of"), combined),
    ]


def checkpoints() -> str:
    """The page of published checkpoints."""
    parts = [PUBLISHED]
    rows = (
        (f"[`{c.name}`](#{c.name})", text(c.about), code(c.family), c.licence, megabytes(c.size))
        for c in CHECKPOINTS.values()
    )
    parts.append(table(("name", "what", "layout", "licence", "size"), rows))
    for each in CHECKPOINTS.values():
        parts += [f"## `{each.name}`", f"{text(each.about)}: <{each.url}>"]
        parts += [f"```sh\n{each.command}\n```"] * bool(each.command)
        parts += [f"{text(each.note)}."] * bool(each.note)
        parts += [f"SHA-256: `{each.sha256}`"] * bool(each.sha256)
    return "\n\n".join(parts)


def workdir() -> str:
    """The page of a run's files."""
    rows = ((code(name), text(words)) for name, words in FILES.items())
    return "\n\n".join([WORKDIR, table(("file", "holds"), rows)])
