"""Sentences that describe classes, equally many of each kind, which a method reads one by one."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vlt.data.resources import resolve
from vlt.models.vit import normalize
from vlt.tasks.descriptions import DescriptionError, read_descriptions

NAME = "{class}"


@dataclasses.dataclass(frozen=True, eq=False)
class Sentences:
    """texts: of each class, after each other, those of every kind, n each."""

    texts: Sequence[str]
    classes: int
    kinds: int

    def grouped(self, parts: Mapping[str, Any], classes: int) -> dict[str, Any]:
        """What a model's scores read of so many classes, of what they read of all their sentences.

        `features` [c, e], the mean of unit vectors, and `sentences` [c, kinds, n, e].
        """
        features = parts["features"]
        sentences = features.reshape(classes, self.kinds, -1, features.shape[-1])
        return {"features": normalize(sentences).mean((1, 2)), "sentences": sentences}


def read_sentences(section: Mapping[str, Any], names: Sequence[str], where: str = "") -> Sentences:
    """Those of the files `sentences`, one for each kind, each put into the kind's template.

    section: has `sentences` and `sentence_templates`, in which {} stands for a sentence and {class}
    for the name of its class. where: the section's name in messages, with its dot.

    Raises:
        DescriptionError: as `read_descriptions`, or classes with different numbers of sentences.
        ValueError: not as many templates as files, or one without exactly one {}.
    """
    files, templates = section["sentences"], section["sentence_templates"]
    if len(templates) != len(files):
        raise ValueError(
            f"{where}sentence_templates are {len(templates)} for {len(files)} files of "
            f"{where}sentences; each kind has one"
        )
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(
                f"{where}sentence_templates: {template!r} must have one {{}}, where the sentence "
                "stands"
            )
    kinds = [read_descriptions(resolve(file), names) for file in files]
    count = len(kinds[0][0])
    for file, kind in zip(files, kinds, strict=True):
        for name, own in zip(names, kind, strict=True):
            if len(own) != count:
                raise DescriptionError(
                    f"{resolve(file)}, class {name}: {len(own)} sentences, where "
                    f"{names[0]} has {count} in {resolve(files[0])}; every class needs as many"
                )
    texts = [
        template.replace("{}", sentence).replace(NAME, name)
        for name, *own in zip(names, *kinds, strict=True)
        for template, sentences in zip(templates, own, strict=True)
        for sentence in sentences
    ]
    return Sentences(texts, len(names), len(files))
