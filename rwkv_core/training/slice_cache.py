"""Prepared slices on disk, memory-mapped: made once, then read by the loader as fast as the disk gives them.

cache/images.bin   float32, slice after slice
cache/labels.bin   uint8, likewise: channel numbers
cache/index.json   what each slice is; written last, so that a cache with an index is whole
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.config import Preprocessing
from rwkv_core.errors import Cancel, CancelledError, InputError, StorageError, as_question
from rwkv_core.files import STORAGE_HINT, read_json, replacing
from rwkv_core.training.datasets.checking import Report, check_whole, read_checked
from rwkv_core.training.datasets.description import Case, Dataset
from rwkv_core.training.slices import one_or_three_channels, prepared_slices

_IMAGES, _LABELS, _INDEX = "images.bin", "labels.bin", "index.json"
_FORMAT = 2


@dataclass(frozen=True)
class CachedSlice:
    """One slice.

    Attributes:
        case, number: where it comes from; slices of a case are numbered in their order.
        split: "train", "validation" or "test"; "unlabelled" for those of the consistency loss.
        shape: (C, H, W).
        image, label: first element in images.bin and labels.bin; label is -1 where there is none.
        classes: channel numbers that the label shows, background left out.
        padding: value of the image beyond its border.
    """

    case: str
    number: int
    split: str
    shape: tuple[int, int, int]
    image: int
    label: int
    classes: tuple[int, ...]
    padding: float = 0.0


class SliceCache:
    """The slices of one folder. Can be sent to another process: the files are mapped where they are first read.

    Attributes:
        typical_ml: median volume of each class in the cases that show it, by label value.
    """

    def __init__(self, folder: Path, slices: tuple[CachedSlice, ...], typical_ml: dict[int, float] | None = None):
        self.folder, self.slices, self.typical_ml = folder, slices, typical_ml or {}
        self._images: NDArray[np.float32] | None = None
        self._labels: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.slices)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None, "_labels": None}

    def image(self, index: int) -> NDArray[np.float32]:
        """Map a slice's image (C, H, W), read-only."""
        if self._images is None:
            self._images = np.memmap(self.folder / _IMAGES, np.float32, "r")
        entry = self.slices[index]
        return self._images[entry.image : entry.image + int(np.prod(entry.shape))].reshape(entry.shape)

    def label(self, index: int) -> NDArray[np.uint8]:
        """Map a slice's label (H, W), read-only."""
        if self._labels is None:
            self._labels = np.memmap(self.folder / _LABELS, np.uint8, "r")
        entry = self.slices[index]
        return self._labels[entry.label : entry.label + entry.shape[1] * entry.shape[2]].reshape(entry.shape[1:])

    def of_split(self, split: str) -> list[int]:
        """List the slices of one split by their indices."""
        return [n for n, entry in enumerate(self.slices) if entry.split == split]

    def volumes(self, split: str) -> list[list[int]]:
        """List the indices of the slices of each case of one split, in order; they are all of one size."""
        found: dict[str, list[int]] = {}
        for n in self.of_split(split):
            found.setdefault(self.slices[n].case, []).append(n)
        return list(found.values())

    def close(self) -> None:
        """Give the files back, so that they can be deleted on Windows as well."""
        self._images = self._labels = None


def open_cache(folder: Path, key: str) -> SliceCache | None:
    """Give the cache in a folder, if it is whole and was made for this key."""
    try:
        content = read_json(folder / _INDEX)
        if content["key"] != key:
            return None
        slices = tuple(
            CachedSlice(**{**entry, "shape": tuple(entry["shape"]), "classes": tuple(entry["classes"])})
            for entry in content["slices"]
        )
        return SliceCache(folder, slices, {int(value): float(ml) for value, ml in content["typical_ml"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@dataclass(frozen=True)
class Preparation:
    """Everything that the prepared slices follow from.

    Attributes:
        dataset: its cases for training and validation.
        unlabelled: images for the consistency loss, if any; their labels are not looked at.
        preprocessing: of the slices.
        paper: whether they are prepared as for the paper's tables.
        channel: of images with several, the one that is used; None for all.
        channels: that the network takes.
    """

    dataset: Dataset
    unlabelled: Dataset | None
    preprocessing: Preprocessing
    paper: bool
    channel: int | None
    channels: int

    @property
    def values(self) -> tuple[int, ...]:
        """Label values of the classes, in the channels' order."""
        return tuple(label_class.value for label_class in self.dataset.classes)

    @property
    def key(self) -> str:
        """Make a key that changes whenever the slices would: files (size and time), splits, classes, preparation."""
        files: list[Any] = []
        for dataset in (self.dataset, self.unlabelled):
            for case in dataset.cases if dataset else ():
                paths = [*case.images, *([case.label] if case.label else [])]
                stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths if p.exists()]
                files.append([case.id, case.split, stats])
        preprocessing = self.preprocessing.model_dump(mode="json")
        content = [_FORMAT, files, self.values, preprocessing, self.paper, self.channel, self.channels]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def build_cache(
    folder: Path,
    preparation: Preparation,
    progress: Callable[[int, int], None] | None = None,
    cancel: Cancel | None = None,
) -> tuple[SliceCache, Report]:
    """Check and prepare every case of training and validation, reading each once; an older cache is replaced.

    Args:
        folder: of the cache.
        preparation: of what, and how.
        progress: called with (cases done, cases in all).
        cancel: asked between cases, or an event that may be set.

    Raises:
        InputError: when the data set has errors, with all of them.
        StorageError: when the disk is full, or the folder not writable.
        CancelledError: when `cancel` said so.
    """
    dataset, unlabelled, key = preparation.dataset, preparation.unlabelled, preparation.key
    cancelled = as_question(cancel)
    report = Report()
    jobs: list[tuple[Dataset, Case, str]] = [
        (dataset, case, case.split) for case in dataset.cases if case.split in ("train", "validation")
    ]
    if unlabelled:
        jobs += [(unlabelled, case, "unlabelled") for case in unlabelled.cases]
    slices: list[CachedSlice] = []
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _IMAGES).open("wb") as images, (folder / _LABELS).open("wb") as labels:
            for n, (source, case, split) in enumerate(jobs):
                if cancelled():
                    raise CancelledError
                if progress:
                    progress(n, len(jobs))
                _add_case(preparation, source, case, split, report, slices, images, labels)
        check_whole(dataset, report)
        report.raise_errors()
        if not slices:
            raise InputError("There is no slice to train with.", hint="Check the data set's splits.")
        content = {
            "key": key,
            "typical_ml": report.typical_ml(),
            "slices": [asdict(entry) for entry in slices],
        }
        with replacing(folder / _INDEX) as path:
            path.write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = error.strerror or str(error)
        raise StorageError(f"The slice cache {folder} cannot be written: {reason}.", hint=STORAGE_HINT) from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if progress:
        progress(len(jobs), len(jobs))
    return SliceCache(folder, tuple(slices), report.typical_ml()), report


def _add_case(
    preparation: Preparation,
    dataset: Dataset,
    case: Case,
    split: str,
    report: Report,
    slices: list[CachedSlice],
    images: BinaryIO,
    labels: BinaryIO,
) -> None:
    """Append the slices of one case to the open files, and what is wrong with it to `report`."""
    labelled = split != "unlabelled"
    sample = read_checked(dataset, case, report) if labelled else dataset.read(case)
    if sample is None or report.errors:  # go on reading, to list all errors at once
        return
    try:
        image = one_or_three_channels(sample, preparation.channel, preparation.channels)
        label, values = sample.label if labelled else None, preparation.values
        made = prepared_slices(image, label, sample, preparation.preprocessing, values, preparation.paper)
        for number, prepared in enumerate(made):
            first_label = -1
            classes: tuple[int, ...] = ()
            first_image = images.tell() // 4
            prepared.image.tofile(images)
            if prepared.label is not None:
                first_label = labels.tell()
                prepared.label.tofile(labels)
                classes = tuple(int(v) for v in np.unique(prepared.label) if 0 < v <= len(values))
            channels_, height, width = prepared.image.shape
            slices.append(
                CachedSlice(
                    case.id,
                    number,
                    split,
                    (channels_, height, width),
                    first_image,
                    first_label,
                    classes,
                    prepared.padding,
                )
            )
    except InputError as error:
        report.add("error", case.id, error.message, error.hint)
