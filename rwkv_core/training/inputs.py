"""From a job to the slices that its network sees: data set, classes, preparation, and the cache that holds them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rwkv_core.bundle.config import Patches, Preprocessing, Stretch
from rwkv_core.errors import CancelledError, InputError, Remedy, TrainingError
from rwkv_core.models.architectures import STRIDE
from rwkv_core.training.datasets import SPLITS, Dataset, open_dataset, open_unlabelled
from rwkv_core.training.datasets.splitting import divided, with_patients
from rwkv_core.training.recipe import Job, Recipe, find_bundle
from rwkv_core.training.run_folder import LOG, RunFolder
from rwkv_core.training.run_status import ACTIVE_STATES, Status, read_status
from rwkv_core.training.slice_cache import Preparation, SliceCache, build_cache, open_cache
from rwkv_core.vocabulary import SegmentClass

LARGEST_PATCH = 320
"""Pixels; side of training slices where the recipe leaves the patch open and the data set's slices are larger."""

MOST_CLASSES = 255
"""Channel numbers of the slice cache are bytes."""

_POLL_SECONDS = 0.5


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a run learns from.

    Attributes:
        dataset: divided into splits.
        unlabelled: images for the consistency loss, or None.
        classes: in the order of the network's channels, background left out.
        channels: of the images, 1 or 3.
    """

    dataset: Dataset
    unlabelled: Dataset | None
    classes: tuple[SegmentClass, ...]
    preprocessing: Preprocessing
    channels: int


def read_inputs(job: Job) -> Inputs:
    """Read the descriptions, and decide how slices are prepared; no volume is read but perhaps the first.

    Raises:
        InputError: when they cannot be read, or do not fit the recipe.
    """
    recipe = job.recipe
    dataset = with_patients(open_dataset(job.dataset, recipe.fold), recipe.patient_pattern)
    dataset = divided(dataset, recipe.division.validation, recipe.division.test, recipe.division.seed)
    classes = dataset.segment_classes()
    if not 0 < len(classes) <= MOST_CLASSES:
        raise InputError(
            f"{dataset.path} has {len(classes)} classes; 1 to {MOST_CLASSES} can be trained.",
            hint="Check that its labels are labels.",
            remedy=Remedy("check data set"),
        )
    splits = ", ".join(f"{len(dataset.split(split))} {split}" for split in SPLITS)
    LOG.info(
        "%s: %s, %d cases (%s), %d classes.", dataset.path, dataset.format, len(dataset.cases), splits, len(classes)
    )
    return Inputs(
        dataset, _unlabelled(job), classes, preprocessing_of(recipe, dataset), channels_of(recipe, dataset)
    )  # fmt: skip


def preprocessing_of(recipe: Recipe, dataset: Dataset) -> Preprocessing:
    """Give the recipe's, or that of the bundle that it starts from; in the order that the data set's arrays have.

    Raises:
        InputError: when neither has one.
    """
    found = recipe.preprocessing
    if found is None:
        bundle = find_bundle(recipe.init)
        found = bundle.config.preprocessing if bundle else None
    if found is None:
        raise InputError(
            f"{recipe.init} does not say how slices are prepared, and neither does the recipe.",
            hint="Choose a preset that does, such as synapse, or start from a segmentation model.",
            remedy=Remedy("choose preset"),
        )
    if not any(dataset.orientations) or found.orientations == dataset.orientations:
        return found
    return found.model_copy(update={"orientations": dataset.orientations})


def channels_of(recipe: Recipe, dataset: Dataset) -> int:
    """Tell what the network takes: as the recipe says, else RGB where the first image is; a volumetric one grey."""
    if recipe.in_channels is not None:
        return recipe.in_channels
    if recipe.channel is not None or (recipe.preprocessing and isinstance(recipe.preprocessing.resampling, Patches)):
        return 1
    if recipe.preprocessing is None and (bundle := find_bundle(recipe.init)):
        return bundle.config.in_channels
    first = next((case for case in dataset.cases if case.label is not None), None)
    if first is None:
        raise InputError(f"{dataset.path} holds no labelled case.", hint="Training needs images with labels.")
    return 3 if len(dataset.read(first).image) == 3 else 1


def slices_of(
    inputs: Inputs, recipe: Recipe, folder: RunFolder, status: Status, stop: Callable[[], bool]
) -> tuple[SliceCache, str]:
    """Give the run's slice cache and its key; made by the run's first process where it is not there, awaited by others.

    Raises:
        InputError: when the data set has errors.
        StorageError: when the cache cannot be written.
        TrainingError: when the first process has ended without it.
        CancelledError: when `stop` said so.
    """
    preparation = Preparation(
        inputs.dataset, inputs.unlabelled, inputs.preprocessing, recipe.pipeline == "paper", recipe.channel,
        inputs.channels,
    )  # fmt: skip
    key = preparation.key
    cache = open_cache(folder / "cache", key)
    if cache is None and folder.writes:
        cache, report = build_cache(
            folder / "cache", preparation,
            lambda done, total: status.update(message=f"Preparing slices: case {done} of {total}"), stop,
        )  # fmt: skip
        for finding in report.findings:
            LOG.warning("%s%s", f"{finding.case}: " if finding.case else "", finding.text)
    while cache is None:  # longer, perhaps, than processes wait for each other otherwise
        state = read_status(folder.path).get("state")
        if stop() or state == "stopped":
            raise CancelledError
        if state not in ACTIVE_STATES:
            raise TrainingError("The run's first process has ended.", hint="Its own message says why.")
        time.sleep(_POLL_SECONDS)
        cache = open_cache(folder / "cache", key)
    unlabelled = f", {len(cache.of_split('unlabelled'))} without labels" if inputs.unlabelled else ""
    train, validation = (len(cache.of_split(split)) for split in ("train", "validation"))
    LOG.info("%d slices for training, %d for validation%s.", train, validation, unlabelled)
    return cache, key


def patch_size(recipe: Recipe, preprocessing: Preprocessing, cache: SliceCache) -> tuple[int, int]:
    """Give height and width of training slices."""
    if recipe.patch is not None:
        return recipe.patch
    if isinstance(preprocessing.resampling, Stretch):
        return preprocessing.resampling.height, preprocessing.resampling.width
    sides = [max(cache.slices[n].shape[axis] for n in range(len(cache))) for axis in (1, 2)]
    height, width = (min(-(-side // STRIDE) * STRIDE, LARGEST_PATCH) for side in sides)
    return height, width


def _unlabelled(job: Job) -> Dataset | None:
    """Give the images for the consistency loss, or None where the recipe has no such term.

    Raises:
        InputError: when the recipe has, and there are none.
    """
    if job.recipe.consistency is None:
        return None
    path = job.unlabelled or job.recipe.consistency.folder
    if path is None:
        raise InputError(
            "This recipe learns from unlabelled images too, and none are named.",
            hint="Name their folder, or train on the labelled ones alone, without the consistency loss.",
            remedy=Remedy("train alone"),
        )
    return open_unlabelled(Path(path))
