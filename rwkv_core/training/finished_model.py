"""From a run's weights to a model in the list: its name, its description, its place in the store."""

import shutil
from pathlib import Path

from rwkv_core.bundle.bundle import Bundle, write_bundle
from rwkv_core.bundle.catalogue import load_catalogue
from rwkv_core.bundle.config import BundleConfig
from rwkv_core.bundle.store import SHIPPED, Origin, install, read_origin, record_origin, staging
from rwkv_core.errors import BundleError, Remedy
from rwkv_core.models import Network
from rwkv_core.training.checkpoint import Progress, load_checkpoint
from rwkv_core.training.inputs import Inputs
from rwkv_core.training.recipe import Job
from rwkv_core.training.run_folder import RunFolder
from rwkv_core.vocabulary import is_model_id


def require_free_name(name: str, output: Path, store: Path) -> None:
    """Check that a finished run may have this id.

    Args:
        output: the run's folder: it may replace its own model.

    Raises:
        BundleError: when it is no id, or another model has it.
    """
    if not is_model_id(name):
        raise BundleError(
            f"{name!r} cannot be the name of a model.",
            hint="Use letters, digits, dots, dashes and underscores, at most 64.",
            remedy=Remedy("choose name"),
        )
    taken = load_catalogue().find(name) is not None or (SHIPPED / name).exists()
    installed = store / name
    if installed.exists():
        origin = read_origin(installed)
        taken = taken or origin.how != "trained" or origin.file != _run_id(output)
    if taken:
        raise BundleError(
            f"There is already a model named {name}.",
            hint="Give the new one another name.",
            remedy=Remedy("choose name"),
        )


def describe(
    job: Job,
    inputs: Inputs,
    progress: Progress,
    network: Network,
    started_from: str,
    typical_ml: dict[int, float] | None = None,
) -> BundleConfig:
    """Give the config.json of the model."""
    recipe, dataset = job.recipe, inputs.dataset
    kept = progress.best_epoch if recipe.keep == "best" and progress.best_epoch else progress.epoch
    training = {
        "by": "rwkv-unet train",
        "data set": f"{dataset.path.name} ({dataset.format})",
        "cases": {split: len(dataset.split(split)) for split in ("train", "validation")},
        "started from": started_from,
        "epochs": progress.epoch,
        "weights of epoch": kept,
        "seconds": round(progress.seconds),
        "recipe": recipe.model_dump(mode="json", exclude={"preprocessing", "description", "licence", "citation"}),
    }
    if progress.best_epoch:
        dice = progress.best if recipe.keep == "best" else progress.rows[-1]["validation_dice"]
        training["validation Dice"] = round(dice, 4)
    return BundleConfig(
        id=job.name,
        title=job.name.replace("-", " ").replace("_", " "),
        description=recipe.description or f"Trained on {dataset.path.name}.",
        architecture=network.architecture,
        variant=network.variant,
        in_channels=3 if inputs.channels == 3 else 1,
        modality=recipe.modality or dataset.modality,
        classes=inputs.classes,
        preprocessing=inputs.preprocessing,
        typical_ml=typical_ml or {},
        training=training,
        licence=recipe.licence,
        citation=recipe.citation,
    )


def write_model(
    folder: RunFolder,
    job: Job,
    inputs: Inputs,
    progress: Progress,
    network: Network,
    started_from: str,
    typical_ml: dict[int, float],
) -> Bundle | None:
    """Write RUN/bundle: the best weights, or the last ones; of a stopped run, what there is so far, if anything.

    Raises:
        StorageError: when it cannot be written.
    """
    if not progress.epoch:
        return None
    if job.recipe.keep == "best" and progress.best_epoch and folder.best_checkpoint.exists():
        network.load_state_dict(load_checkpoint(folder.best_checkpoint)["network"])
    config = describe(job, inputs, progress, network, started_from, typical_ml)
    bundle = write_bundle(folder / "bundle", config, network)
    record_origin(bundle.folder, Origin("trained", file=_run_id(folder.path)))
    return bundle


def add_to_store(bundle: Bundle, folder: RunFolder, store: Path) -> Bundle:
    """Make a copy of the run's bundle in the store.

    Raises:
        StorageError: when it cannot be written.
    """
    bundle_id = bundle.config.id
    with staging(bundle_id, store) as temporary:
        new = temporary / "new"
        shutil.copytree(bundle.folder, new)
        return install(new, bundle_id, Origin("trained", file=_run_id(folder.path)), store)


def _run_id(path: Path) -> str:
    """Tell what the store remembers of a run: its folder."""
    return str(path.absolute())
