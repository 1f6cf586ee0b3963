"""A training run from a data set's path to a model in the list: `train(...)`."""

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rwkv_core.architectures import STRIDE
from rwkv_core.bundle import Bundle, write_bundle
from rwkv_core.bundle_config import BundleConfig, Preprocessing, Stretch
from rwkv_core.catalogue import load_catalogue
from rwkv_core.errors import BundleError, CancelledError, InputError, RWKVUNetError
from rwkv_core.store import SHIPPED, Origin, install, read_origin, record_origin, staging, user_store
from rwkv_core.training.checkpoint import Progress, load_checkpoint
from rwkv_core.training.datasets import SPLITS, Dataset, open_dataset
from rwkv_core.training.datasets.splitting import divided, with_patients
from rwkv_core.training.devices import (
    Processes,
    find_processes,
    is_first_process,
    loader_workers,
    make_fabric,
)
from rwkv_core.training.loop import Loop
from rwkv_core.training.recipe import Recipe, checked_recipe
from rwkv_core.training.run_folder import LOG, RunFolder, Status, environment
from rwkv_core.training.slice_cache import SliceCache, build_cache, cache_key, open_cache
from rwkv_core.training.starting_point import find_bundle, starting_point

LARGEST_PATCH = 320
"""Pixels; side of training slices where the recipe leaves the patch open and the data set's slices are larger."""

MOST_CLASSES = 255
"""Channel numbers of the slice cache are bytes."""

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        finished: False when it was stopped; it can go on with `resume`.
        bundle: the model: in the run's folder and, of a finished run, in the store under its id. None for a run that
            was stopped before its first epoch ended, and on all processes but the first.
    """

    finished: bool
    bundle: Bundle | None
    progress: Progress


@dataclass(frozen=True)
class Job:
    """What config.json holds.

    Attributes:
        name: id of the model.
        unlabelled: path of the images for the consistency loss.
    """

    dataset: str
    name: str
    recipe: Recipe
    unlabelled: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "name": self.name,
            "dataset": self.dataset,
            "unlabelled": self.unlabelled,
            "recipe": self.recipe.model_dump(mode="json"),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any], source: str) -> "Job":
        """Raises InputError when it is not such a description."""
        try:
            recipe = checked_recipe(content["recipe"], source)
            return cls(content["dataset"], content["name"], recipe, content.get("unlabelled"))
        except KeyError as error:
            raise InputError(f"{source} lacks {error}.") from None


def train(
    job: Job | None,
    output: Path,
    *,
    resume: bool = False,
    change: Callable[[Job], Job] = lambda job: job,
    device: str = "auto",
    devices: int = 1,
    store: Path | None = None,
    cancel: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train, and put the finished model into the store.

    Under torchrun or SLURM, every process calls this; the first one writes.

    Args:
        job: what to do; None with `resume`.
        output: the run's folder.
        resume: go on with the run in `output`.
        change: applied to the stored job when resuming.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        devices: processes on this machine, each with a GPU of its own, where no launcher decides.
        store: None for the user's.
        cancel: asked after every step, as are the file `stop`, Ctrl-C and SIGTERM.

    Raises:
        InputError: when data set, recipe or folder do not allow a run, before it starts.
        RWKVUNetError: whatever else ends it; status.json and log.txt say it too.
    """
    first = is_first_process()
    folder = RunFolder(output, writes=first)
    processes = find_processes(devices)
    if resume:
        content = folder.open_old() if first else folder.read_config()
        job = change(Job.from_json(content, str(folder / "config.json")))
    assert job is not None
    store = store or user_store()
    with ExitStack() as stack:
        stack.callback(folder.close)
        if first:
            require_free_name(job.name, output, store)
            find_bundle(job.recipe.init)
            if not resume:
                folder.open_new()
            folder.log_to_file()
            folder.write_json("config.json", job.as_json())
        status = stack.enter_context(Status(folder, state="preparing", name=job.name, epoch=0, step=0, message=""))
        stop = stack.enter_context(_stopping(folder, cancel))
        try:
            outcome = _run(job, folder, status, processes, device, stop, store, resume)
        except CancelledError:  # while slices were prepared
            outcome = Outcome(False, None, Progress())
        except BaseException as error:
            _tell(status, error)
            raise
        if outcome.finished:
            status.update(state="finished", seconds_left=0, message="", bundle=str(folder / "bundle"))
        else:
            LOG.info("Stopped; --resume goes on.")
            status.update(state="stopped", message="Stopped; it can be resumed.")
        return outcome


def require_free_name(name: str, output: Path, store: Path) -> None:
    """Check that a finished run may have this id.

    Raises:
        BundleError: when it is no id, or another model has it.
    """
    try:
        BundleConfig(id=name, title=name, kind="encoder", architecture="rwkv-unet", variant="T", modality="any",
                     licence="x")  # fmt: skip
    except ValueError:
        raise BundleError(
            f"{name!r} cannot be the name of a model.",
            hint="Use letters, digits, dots, dashes and underscores, at most 64: --name my-model.",
        ) from None
    taken = load_catalogue().find(name) is not None or (SHIPPED / name).exists()
    installed = store / name
    if installed.exists():
        origin = read_origin(installed)
        taken = taken or origin.how != "trained" or origin.file != _run_id(output)
    if taken:
        raise BundleError(f"There is already a model named {name}.", hint="Give the new one another name: --name ...")


def prepared_dataset(job: Job) -> Dataset:
    """The job's data set, divided into splits.

    Raises:
        InputError: when it cannot be read or divided.
    """
    recipe = job.recipe
    dataset = with_patients(open_dataset(job.dataset, recipe.fold), recipe.patient_pattern)
    division = recipe.division
    return divided(dataset, division.validation, division.test, division.seed)


def preprocessing_of(recipe: Recipe, dataset: Dataset) -> Preprocessing:
    """The recipe's, or that of the bundle that it starts from; in the order that the data set's arrays have.

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
            hint="Choose a preset that does (--preset synapse), or start from a segmentation model.",
        )
    if not any(dataset.orientations) or found.orientations == dataset.orientations:
        return found
    return found.model_copy(update={"orientations": dataset.orientations})


def _run(
    job: Job,
    folder: RunFolder,
    status: Status,
    processes: Processes,
    device: str,
    stop: Callable[[], bool],
    store: Path,
    resume: bool,
) -> Outcome:
    recipe = job.recipe
    fabric = make_fabric(device, processes, recipe.precision, recipe.batch, _loggers(folder))
    fabric.launch()
    if fabric.is_global_zero:
        folder.write_json("environment.json", environment(str(fabric.device), fabric.world_size))
    dataset = prepared_dataset(job)
    classes = dataset.segment_classes()
    if not 0 < len(classes) <= MOST_CLASSES:
        raise InputError(
            f"{dataset.path} has {len(classes)} classes; 1 to {MOST_CLASSES} can be trained.",
            hint="Check that its labels are labels: `rwkv-unet dataset check`.",
        )
    preprocessing = preprocessing_of(recipe, dataset)
    channels = _channels(recipe, dataset)
    unlabelled = _unlabelled(job)
    paper = recipe.pipeline == "paper"
    key = cache_key(dataset, unlabelled, preprocessing, paper, recipe.channel, channels)
    splits = ", ".join(f"{len(dataset.split(split))} {split}" for split in SPLITS)
    LOG.info(
        "%s: %s, %d cases (%s), %d classes.", dataset.path, dataset.format, len(dataset.cases), splits, len(classes)
    )

    def make() -> SliceCache:
        cache, report = build_cache(
            folder / "cache", key, dataset, unlabelled, preprocessing, paper, recipe.channel, channels,
            lambda done, total: status.update(message=f"Preparing slices: case {done} of {total}"), stop,
        )  # fmt: skip
        for finding in report.findings:
            LOG.warning("%s%s", f"{finding.case}: " if finding.case else "", finding.text)
        return cache

    cache = open_cache(folder / "cache", key) or (
        make() if fabric.is_global_zero else _wait_for_cache(folder, key, stop)
    )
    LOG.info("%d slices for training, %d for validation%s.", len(cache.of_split("train")),
             len(cache.of_split("validation")),
             f", {len(cache.of_split('unlabelled'))} without labels" if unlabelled else "")  # fmt: skip
    torch.manual_seed(recipe.seed)
    start = starting_point(recipe.init, recipe.variant, classes, channels)
    if fabric.is_global_zero and not resume:
        LOG.info("Starts from %s (RWKV-UNet-%s).", start.record, start.network.variant)
    loop = Loop(
        fabric, folder, status, recipe, cache, start.network, [c.name for c in classes], [c.color for c in classes],
        _patch(recipe, preprocessing, cache), stop, loader_workers(recipe.workers, processes, fabric.device),
    )  # fmt: skip
    if resume and folder.last_checkpoint.exists():
        loop.resume(key)
        if fabric.is_global_zero:
            folder.write_metrics(loop.progress.rows)  # rows after the checkpoint come again
    finished = loop.run(key)
    bundle = None
    if fabric.is_global_zero:
        config = _describe(job, dataset, classes, preprocessing, channels, start.record, start.network.variant, loop)
        bundle = _keep(folder, config, start.network, recipe, loop.progress, finished)
        if finished:
            assert bundle is not None
            bundle = _register(bundle, folder, store)
            cache.close()
            shutil.rmtree(folder / "cache", ignore_errors=True)
            LOG.info("Finished: %s is in the list of models.", bundle.config.id)
    fabric.barrier()
    return Outcome(finished, bundle, loop.progress)


def _loggers(folder: RunFolder) -> list[Any]:
    if not folder.writes:
        return []
    try:
        from lightning.fabric.loggers.tensorboard import TensorBoardLogger

        return [TensorBoardLogger(folder.path, name="tensorboard", version="")]
    except ModuleNotFoundError:
        LOG.info("TensorBoard is not installed; metrics.csv and curve.png have the figures.")
        return []


def _channels(recipe: Recipe, dataset: Dataset) -> int:
    """What the network takes: as the recipe says, else RGB where the first image is."""
    if recipe.in_channels is not None:
        return recipe.in_channels
    if recipe.channel is not None:
        return 1
    if recipe.preprocessing is None and (bundle := find_bundle(recipe.init)):
        return bundle.config.in_channels
    first = next((case for case in dataset.cases if case.label is not None), None)
    if first is None:
        raise InputError(f"{dataset.path} holds no labelled case.", hint="Training needs images with labels.")
    return 3 if len(dataset.read(first).image) == 3 else 1


def _unlabelled(job: Job) -> Dataset | None:
    """The images for the consistency loss, or None where the recipe has no such term.

    Raises:
        InputError: when the recipe has, and there are none.
    """
    if job.recipe.consistency is None:
        return None
    path = job.unlabelled or job.recipe.consistency.folder
    if path is None:
        raise InputError(
            "This recipe learns from unlabelled images too, and none are named.",
            hint="Add --unlabelled FOLDER, or train on the labelled ones alone with --set consistency=null.",
        )
    from rwkv_core.training.datasets.unlabelled import open_unlabelled

    return open_unlabelled(Path(path))


def _patch(recipe: Recipe, preprocessing: Preprocessing, cache: SliceCache) -> tuple[int, int]:
    """Height and width of training slices."""
    if recipe.patch is not None:
        return recipe.patch
    if isinstance(preprocessing.resampling, Stretch):
        return preprocessing.resampling.height, preprocessing.resampling.width
    sides = [max(cache.slices[n].shape[axis] for n in range(len(cache))) for axis in (1, 2)]
    height, width = (min(-(-side // STRIDE) * STRIDE, LARGEST_PATCH) for side in sides)
    return height, width


def _wait_for_cache(folder: RunFolder, key: str, stop: Callable[[], bool]) -> SliceCache:
    """What the first process makes, which can take longer than processes wait for each other otherwise."""
    while (cache := open_cache(folder / "cache", key)) is None:
        if stop():
            raise CancelledError
        time.sleep(_POLL_SECONDS)
    return cache


def _describe(
    job: Job, dataset: Dataset, classes: Any, preprocessing: Preprocessing, channels: int, record: str, variant: str,
    loop: Loop,
) -> BundleConfig:  # fmt: skip
    recipe, at = job.recipe, loop.progress
    kept = at.best_epoch if recipe.keep == "best" and at.best_epoch else at.epoch
    training = {
        "by": "rwkv-unet train",
        "data set": f"{dataset.path.name} ({dataset.format})",
        "cases": {split: len(dataset.split(split)) for split in ("train", "validation")},
        "started from": record,
        "epochs": at.epoch,
        "weights of epoch": kept,
        "seconds": round(at.seconds),
        "recipe": recipe.model_dump(mode="json", exclude={"preprocessing", "description", "licence", "citation"}),
    }
    if at.best_epoch:
        training["validation Dice"] = round(at.best if recipe.keep == "best" else at.rows[-1]["validation_dice"], 4)
    return BundleConfig(
        id=job.name,
        title=job.name.replace("-", " ").replace("_", " "),
        description=recipe.description or f"Trained on {dataset.path.name}.",
        architecture="rwkv-unet",
        variant=variant,
        in_channels=3 if channels == 3 else 1,
        modality=recipe.modality or dataset.modality,
        classes=classes,
        preprocessing=preprocessing,
        training=training,
        licence=recipe.licence,
        citation=recipe.citation,
    )


def _keep(
    folder: RunFolder, config: BundleConfig, network: Any, recipe: Recipe, progress: Progress, finished: bool
) -> Bundle | None:
    """Write RUN/bundle: the best weights, or the last ones; of a stopped run, what there is so far."""
    if not progress.epoch:
        return None
    if recipe.keep == "best" and progress.best_epoch and folder.best_checkpoint.exists():
        network.load_state_dict(load_checkpoint(folder.best_checkpoint)["network"])
    bundle = write_bundle(folder / "bundle", config, network)
    record_origin(bundle.folder, Origin("trained", file=_run_id(folder.path)))
    return bundle


def _register(bundle: Bundle, folder: RunFolder, store: Path) -> Bundle:
    """A copy of the bundle in the store."""
    bundle_id = bundle.config.id
    with staging(bundle_id, store) as temporary:
        new = temporary / "new"
        shutil.copytree(bundle.folder, new)
        return install(new, bundle_id, Origin("trained", file=_run_id(folder.path)), store)


def _run_id(path: Path) -> str:
    """What the store remembers of a run: its folder."""
    return str(path.absolute())


@contextmanager
def _stopping(folder: RunFolder, cancel: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """A question whether to stop: by `cancel`, the file `stop`, Ctrl-C or SIGTERM; a second Ctrl-C interrupts."""
    asked = threading.Event()
    old: dict[int, Any] = {}

    def ask(number: int, frame: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            if (number := getattr(signal, name, None)) is not None:
                old[number] = signal.signal(number, ask)
    try:
        yield lambda: asked.is_set() or cancel() or folder.stop_requested()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _tell(status: Status, error: BaseException) -> None:
    """What ended the run, in status.json and the log."""
    if isinstance(error, KeyboardInterrupt):
        status.update(state="stopped", message="Interrupted; it can be resumed.")
    elif isinstance(error, RWKVUNetError):
        LOG.error("%s", error)
        status.update(state="failed", message=error.message, hint=error.hint)
    else:
        LOG.exception("Unexpected error")
        status.update(state="failed", message=f"{type(error).__name__}: {error}", hint="log.txt has the details.")
