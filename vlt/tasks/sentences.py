"""Sentences that describe classes, the same number of each kind, read one by one by a method."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlt.data.manifests.resources import resolve
from vlt.tasks.descriptions import DescriptionError, read_descriptions

NAME = "{class}"


def read_sentences(section: Mapping[str, Any], names: Sequence[str], where: str = "") -> list[str]:
    """The sentences of the files `sentences`, one file per kind, each put into its kind's template:
    class after class, and within a class kind after kind.

    section: has `sentences` and `sentence_templates`, in which {} stands for a sentence and {class}
    for the name of its class. where: the section's name in messages, with its dot.

    Raises:
        DescriptionError: as `read_descriptions`, or classes with different numbers of sentences.
        ValueError: not as many templates as files, or a template without exactly one {}.
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
    return [
        template.replace("{}", sentence).replace(NAME, name)
        for name, *own in zip(names, *kinds, strict=True)
        for template, sentences in zip(templates, own, strict=True)
        for sentence in sentences
    ]
