"""nnU-Net's raw layout: ``dataset.json``, ``imagesTr/case_0000.nii.gz`` (one file per channel), ``labelsTr/``.

Both generations of dataset.json are read: version 1 ("labels": value to name, "modality"), version 2 ("labels": name to
value, "channel_names", "file_ending"). A ``splits_final.json`` in the folder gives the folds.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from rwkv_core import files
from rwkv_core.errors import InputError
from rwkv_core.training.datasets.description import Case, Dataset, LabelClass
from rwkv_core.training.datasets.files import PICTURE_EXTENSIONS, files_in, read_pair, stem_of
from rwkv_core.volume import INPUT_EXTENSIONS

DESCRIPTION = "dataset.json"
_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
_EXTENSIONS = (*INPUT_EXTENSIONS, *PICTURE_EXTENSIONS)


def is_nnunet(path: Path) -> bool:
    """Tell whether a folder looks like this."""
    images = path / "imagesTr"
    return (path / DESCRIPTION).is_file() and images.is_dir() and bool(_channels(images))


def read_nnunet(path: Path, fold: int | None = None) -> Dataset:
    """Read the data set in a folder.

    Args:
        path: holds dataset.json.
        fold: of splits_final.json; None leaves the training cases without a split.

    Raises:
        InputError: when dataset.json is missing, or says what cannot be trained from.
    """
    content = read_json(path / DESCRIPTION)
    cases = _cases(path, "imagesTr", "labelsTr", fold)
    cases += [
        Case(case.id, case.images, case.label, case.patient, "test")
        for case in _cases(path, "imagesTs", "labelsTs", None)
    ]
    if not cases:
        raise InputError(f"{path / 'imagesTr'} holds no image named like case_0000.nii.gz.")
    shown = [case for case in cases if case.split != "test"]
    said = contradictions(DESCRIPTION, content, f"imagesTr holds {len(shown)}", len(shown), shown)
    names = content.get("channel_names") or content.get("modality") or {}
    return Dataset(
        path,
        "nnU-Net raw",
        classes_in(content, path / DESCRIPTION),
        tuple(cases),
        read_pair,
        modality=modality_of(names.values() if isinstance(names, dict) else ()),
        notes=(*said, *_lonely(path, shown)),
    )


def contradictions(name: str, content: dict[str, Any], found: str, count: int, cases: Sequence[Case]) -> Iterator[str]:
    """Check what a description says that the data do not: nothing here depends on it, but nnU-Net does.

    Args:
        name: of the file.
        content: of the file.
        found: what holds how many cases for training, such as "imagesTr holds 3".
        count: that number.
        cases: that are not for testing.
    """
    said = content.get("numTraining")
    if said is not None and said != count:
        yield f'{name} says "numTraining": {said}, and {found} cases. All of them are used.'
    ending = content.get("file_ending")
    others = [
        file.name
        for case in cases
        for file in (*case.images, *([case.label] if case.label else []))
        if isinstance(ending, str) and not file.name.endswith(ending)
    ]
    if others:
        yield (
            f'{name} says "file_ending": "{ending}", and {len(others)} files end otherwise, such as '
            f"{others[0]}. They are used."
        )


def _lonely(path: Path, cases: Sequence[Case]) -> Iterator[str]:
    """Say which labels have no image."""
    if (path / "labelsTr").is_dir():
        known = {case.id for case in cases}
        lonely = [file.name for file in files_in(path / "labelsTr", _EXTENSIONS) if stem_of(file) not in known]
        if lonely:
            yield f"labelsTr holds {len(lonely)} labels without an image, such as {lonely[0]}."


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: when the file is missing or something else.
    """
    try:
        content = files.read_json(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object.")
    return content


def classes_in(content: dict[str, Any], path: Path) -> tuple[LabelClass, ...]:
    """Give the classes that "labels" names, in either direction, ordered by value, without background.

    Raises:
        InputError: for regions (several values in one class), "ignore", and anything else that is no list of labels.
    """
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise InputError(f'{path} names no "labels".', hint='Write "labels": {"background": 0, "Liver": 1}.')
    found: dict[int, str] = {}
    for key, entry in labels.items():
        if isinstance(entry, list):
            raise InputError(
                f"{path}: the class {key!r} unites several values (region-based training), which is not supported.",
                hint="Give every value a class of its own.",
            )
        value, name = (key, entry) if str(key).lstrip("-").isdecimal() and isinstance(entry, str) else (entry, key)
        if str(name).lower() == "ignore":
            raise InputError(f'{path}: an "ignore" label is not supported.', hint="Remove the unlabelled cases.")
        try:
            found[int(value)] = str(name)
        except (TypeError, ValueError):
            raise InputError(f"{path}: the label {key!r} has no whole number as its value.") from None
    found.pop(0, None)
    if any(value < 0 for value in found):
        raise InputError(f"{path}: label values must not be negative.")
    return tuple(LabelClass(value, found[value]) for value in sorted(found))


def modality_of(names: Any) -> Literal["CT", "MR", "any"]:
    """Tell the modality from the names of the channels."""
    words = {str(name).upper() for name in names}
    if words == {"CT"}:
        return "CT"
    mr = ("MR", "T1", "T2", "FLAIR", "ADC", "DWI")
    return "MR" if words and all(any(part in word for part in mr) for word in words) else "any"


def _channels(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in files_in(folder, _EXTENSIONS):
        if match := _CHANNEL.match(stem_of(path)):
            found.setdefault(match["case"], []).append(path)
    return found


def _cases(path: Path, images: str, labels: str, fold: int | None) -> list[Case]:
    if not (path / images).is_dir():
        return []
    by_name = {}
    if (path / labels).is_dir():
        by_name = {stem_of(file): file for file in files_in(path / labels, _EXTENSIONS)}
    validation, train = _fold(path, fold) if fold is not None else (set(), set())
    return [
        Case(
            name,
            tuple(channels),
            by_name.get(name),
            name,
            "validation" if name in validation else "train" if name in train else None,
        )
        for name, channels in _channels(path / images).items()
    ]


def _fold(path: Path, fold: int) -> tuple[set[str], set[str]]:
    file = path / "splits_final.json"
    try:
        splits = files.read_json(file)
        return set(splits[fold]["val"]), set(splits[fold]["train"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        raise InputError(
            f"{file} does not give fold {fold}.",
            hint="nnU-Net writes it among its preprocessed data: copy it here, or leave fold away.",
        ) from None
