"""MONAI's datalist: a JSON file with lists "training", "validation", "test" of {"image": ..., "label": ...}.

Paths count from the file's own folder. "fold" in an entry is used with the recipe's fold; "patient" (or "subject") says
whose image it is. "labels" (value to name, or name to value) and "modality" are read as in nnU-Net's dataset.json,
whose first version is such a file as well (Medical Segmentation Decathlon).
"""

from pathlib import Path
from typing import Any

from rwkv_core.errors import InputError
from rwkv_core.training.datasets.description import SPLIT_OF_FOLDER, Case, Dataset, Split
from rwkv_core.training.datasets.files import found_classes, read_pair, stem_of
from rwkv_core.training.datasets.nnunet import DESCRIPTION, classes_in, contradictions, modality_of, read_json


def is_datalist(path: Path) -> bool:
    """Tell whether a path is a JSON file, or a folder whose dataset.json lists images."""
    if path.is_dir():
        path = path / DESCRIPTION
    return path.suffix == ".json" and path.is_file() and bool(_lists(read_json(path)))


def read_datalist(path: Path, fold: int | None = None) -> Dataset:
    """Read the data set of a JSON file, or of the dataset.json in a folder.

    Args:
        path: the file or folder.
        fold: entries of "training" with this "fold" are for validation.

    Raises:
        InputError: when an entry is no such entry, or two have one name.
    """
    file = path / DESCRIPTION if path.is_dir() else path
    content = read_json(file)
    cases: dict[str, Case] = {}
    for split, entries in _lists(content):
        for n, entry in enumerate(entries):
            case = _case(file, f'entry {n} of "{split}"', entry, split, fold)
            if case.id in cases:
                case = _renamed(case)
            if case.id in cases:
                raise InputError(f"{file} lists {case.images[0]} twice.")
            cases[case.id] = case
    if not cases:
        raise InputError(f'{file} lists no images under "training", "validation" or "test".')
    found = list(cases.values())
    if {case.split for case in found} <= {"train", "test"} and fold is None:
        # A list of training images alone still has to be divided.
        found = [Case(c.id, c.images, c.label, c.patient, None if c.split == "train" else c.split) for c in found]
    training = sum(len(entries) for split, entries in _lists(content) if split == "train")
    shown = [case for case in found if case.split != "test"]
    names = content.get("modality") or content.get("channel_names") or {}
    names = names.values() if isinstance(names, dict) else [names]
    return Dataset(
        file,
        "MONAI datalist",
        classes_in(content, file) if "labels" in content else found_classes(found),
        tuple(found),
        read_pair,
        modality=modality_of(names),
        notes=tuple(contradictions(file.name, content, f"lists {training}", training, shown)),
    )


def _lists(content: dict[str, Any]) -> list[tuple[Split, list[Any]]]:
    return [
        (SPLIT_OF_FOLDER[key], value) for key, value in content.items() if key in SPLIT_OF_FOLDER and _listed(value)
    ]


def _listed(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict | str) for entry in value) and bool(value)


def _case(file: Path, where: str, entry: Any, split: Split, fold: int | None) -> Case:
    if isinstance(entry, str):
        entry = {"image": entry}
    images = entry.get("image")
    images = images if isinstance(images, list) else [images]
    if not images or not all(isinstance(image, str) for image in images):
        raise InputError(f'{file}: {where} names no "image".')
    paths = tuple((file.parent / image).resolve() for image in images)
    label = entry.get("label")
    if label is not None and not isinstance(label, str):
        raise InputError(f'{file}: the "label" of {where} is no path.')
    name = stem_of(paths[0])
    patient = str(entry.get("patient") or entry.get("subject") or name)
    if fold is not None and "fold" in entry and split == "train":
        split = "validation" if entry["fold"] == fold else "train"
    return Case(name, paths, (file.parent / label).resolve() if label else None, patient, split)


def _renamed(case: Case) -> Case:
    """Files of one name in different folders are told apart by their folder."""
    name = f"{case.images[0].parent.name}-{case.id}"
    patient = name if case.patient == case.id else case.patient
    return Case(name, case.images, case.label, patient, case.split)
