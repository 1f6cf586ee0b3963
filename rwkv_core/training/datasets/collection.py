"""Several data sets as one, or some classes of a data set: a JSON file {"collection": [FOLDER, ...], "classes": [...]}.

Paths count from the file's own folder. Classes of the parts are matched by name, whatever their values; "classes" names
those to learn, in the order of the network's channels, and what is of another class is background. Without "classes",
all are learned.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_core.errors import InputError
from rwkv_core.training.datasets.description import Case, Dataset, LabelClass, Sample
from rwkv_core.training.datasets.nnunet import read_json

_PARTS, _CLASSES = "collection", "classes"


def is_collection(path: Path) -> bool:
    """Tell whether a path is such a file."""
    return path.suffix == ".json" and path.is_file() and _PARTS in read_json(path)


def read_collection(path: Path, open_part: Callable[[Path], Dataset]) -> Dataset:
    """Read the data set that a file describes.

    Args:
        open_part: reads the description of one of the parts.

    Raises:
        InputError: when the file is no such file, a part is no data set, or a class is in none of them.
    """
    content = read_json(path)
    folders, wanted = content[_PARTS], content.get(_CLASSES)
    for name, value in ((_PARTS, folders), (_CLASSES, [] if wanted is None else wanted)):
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise InputError(f'{path}: "{name}" must be a list of texts.')
    parts = [open_part(path.parent / folder) for folder in folders]
    classes = _classes(parts, wanted, path)
    numbers = {_key(label_class.name): label_class.value for label_class in classes}
    twice = {name for name, count in Counter(case.id for part in parts for case in part.cases).items() if count > 1}
    cases: list[Case] = []
    reads: dict[str, Callable[[], Sample]] = {}
    for number, part in enumerate(parts, 1):
        tables = {label_class.value: numbers.get(_key(label_class.name), 0) for label_class in part.classes}
        for case in part.cases:
            name = f"{part.path.stem}-{case.id}" if case.id in twice else case.id
            name = f"{number}-{name}" if name in reads else name  # folders of one name
            patient = name if case.patient == case.id else case.patient
            cases.append(replace(case, id=name, patient=patient))
            reads[name] = partial(_read, part, case, tables)
    return Dataset(
        path,
        " and ".join(dict.fromkeys(part.format for part in parts)),
        classes,
        tuple(cases),
        lambda case: reads[case.id](),
        modality=_common([part.modality for part in parts], "any"),
        orientations=_common([part.orientations for part in parts], ()),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _classes(parts: Sequence[Dataset], wanted: list[str] | None, path: Path) -> tuple[LabelClass, ...]:
    known: dict[str, LabelClass] = {}
    for part in parts:
        for label_class in part.classes:
            known.setdefault(_key(label_class.name), label_class)
    if wanted is None:
        chosen = list(known.values())
    elif missing := [name for name in wanted if _key(name) not in known]:
        raise InputError(
            f"{path}: no part has the class {missing[0]}.",
            hint=f"There are: {', '.join(label_class.name for label_class in known.values())}.",
        )
    else:
        chosen = [known[key] for key in dict.fromkeys(map(_key, wanted))]
    return tuple(replace(label_class, value=value) for value, label_class in enumerate(chosen, 1))


def _read(part: Dataset, case: Case, table: dict[int, int]) -> Sample:
    """Give a case of a part, its label in the collection's values."""
    sample = part.read(case)
    if sample.label is None:
        return sample
    values, places = np.unique(sample.label, return_inverse=True)
    strangers = [str(value) for value in values.tolist() if value != 0 and value not in table]
    if strangers:
        raise InputError(
            f"Its label holds values that are no class: {', '.join(strangers[:8])}.",
            hint="Name them among the classes, or remove them from the label.",
        )
    mapped = np.array([table.get(value, 0) for value in values.tolist()], np.uint16)
    return replace(sample, label=mapped[places].reshape(sample.label.shape))


def _key(name: str) -> str:
    return " ".join(name.split()).casefold()


def _common(values: Sequence[Any], otherwise: Any) -> Any:
    """Say what all of them are."""
    return values[0] if values and all(value == values[0] for value in values) else otherwise
