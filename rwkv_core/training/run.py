"""A training run from a data set's path to a model in the list: `train(...)`."""

import errno
import os
import platform
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from rwkv_core import __version__
from rwkv_core.bundle.bundle import Bundle
from rwkv_core.bundle.config import Patches
from rwkv_core.bundle.store import user_store
from rwkv_core.errors import CancelledError, Remedy, RWKVUNetError, StorageError, TrainingError
from rwkv_core.files import STORAGE_HINT
from rwkv_core.models.architectures import TITLES
from rwkv_core.training.checkpoint import Progress
from rwkv_core.training.devices import (
    MEMORY_HINT,
    Processes,
    find_processes,
    is_first_process,
    loader_workers,
    make_fabric,
    out_of_memory,
)
from rwkv_core.training.finished_model import add_to_store, require_free_name, write_model
from rwkv_core.training.inputs import patch_size, read_inputs, slices_of
from rwkv_core.training.loop import Loop
from rwkv_core.training.recipe import Job, require_fitting
from rwkv_core.training.run_folder import LOG, RunFolder
from rwkv_core.training.run_status import Status, stop_requested
from rwkv_core.training.starting_point import starting_point

_PACKAGES = ("torch", "lightning", "monai", "numpy", "SimpleITK", "h5py", "pillow", "tensorboard")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


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
    store = store or user_store()
    with ExitStack() as stack:
        stack.callback(folder.close)
        if resume:
            content = folder.open_old() if first else folder.read_config()
            job = change(Job.from_json(content, str(folder / "config.json")))
        assert job is not None
        if first:
            require_free_name(job.name, output, store)
            require_fitting(job.recipe)
            if not resume:
                folder.open_new()
            folder.log_to_file()
            folder.write_json("config.json", job.as_json())
        status = Status(folder.path, first, state="preparing", name=job.name, epoch=0, step=0, message="")
        stack.enter_context(status)
        stop = stack.enter_context(_stopping(folder, cancel))
        try:
            outcome = _run(job, folder, status, processes, device, stop, store, resume)
        except CancelledError:  # while slices were prepared
            outcome = Outcome(False, None, Progress())
        except BaseException as error:
            told = _for_people(error, folder)
            _tell(status, told)
            if told is error:
                raise
            raise told from error
        if outcome.finished:
            status.update(state="finished", seconds_left=0, message="", bundle=str(folder / "bundle"))
        else:
            LOG.info("Stopped; it can be resumed.")
            status.update(state="stopped", message="Stopped; it can be resumed.")
        return outcome


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
    inputs = read_inputs(job)
    cache, key = slices_of(inputs, recipe, folder, status, stop)
    torch.manual_seed(recipe.seed)
    start = starting_point(recipe.init, recipe.variant, inputs.classes, inputs.channels, recipe.architecture)
    if fabric.is_global_zero and not resume:
        title = f"{TITLES[start.network.architecture]}-{start.network.variant}"
        LOG.info("Starts from %s (%s).", start.record, title)
    blocks = inputs.preprocessing.resampling
    size = blocks if isinstance(blocks, Patches) else patch_size(recipe, inputs.preprocessing, cache)
    loop = Loop(
        fabric, folder, status, recipe, cache, start.network, inputs.classes, size, stop,
        loader_workers(recipe.workers, processes, fabric.device),
    )  # fmt: skip
    if resume and folder.last_checkpoint.exists():
        loop.resume(key)
        if fabric.is_global_zero:
            folder.write_metrics(loop.progress.rows)  # rows after the checkpoint come again
    finished = loop.run(key)
    bundle = None
    if fabric.is_global_zero:
        bundle = write_model(folder, job, inputs, loop.progress, start.network, start.record, cache.typical_ml)
        if finished:
            assert bundle is not None
            bundle = add_to_store(bundle, folder, store)
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


@contextmanager
def _stopping(folder: RunFolder, cancel: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Make a question whether to stop: by `cancel`, the file `stop`, Ctrl-C or SIGTERM; a second Ctrl-C interrupts."""
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
        yield lambda: asked.is_set() or cancel() or stop_requested(folder.path)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _for_people(error: BaseException, folder: RunFolder) -> BaseException:
    """Word what a library raised as an error that says what to do, where a person can cure it."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return StorageError(f"{error.filename or folder.path} cannot be written: {error.strerror}.", STORAGE_HINT)
    if out_of_memory(error):
        return TrainingError(
            "The device has too little memory for this network.", hint=MEMORY_HINT, remedy=Remedy("choose batch")
        )
    return error


def _tell(status: Status, error: BaseException) -> None:
    """Write what ended the run to status.json and the log."""
    if isinstance(error, KeyboardInterrupt):
        status.update(state="stopped", message="Interrupted; it can be resumed.")
    elif isinstance(error, RWKVUNetError):
        LOG.error("%s", error)
        status.update(state="failed", message=error.message, hint=error.hint)
    else:
        LOG.exception("Unexpected error")
        status.update(state="failed", message=f"{type(error).__name__}: {error}", hint="log.txt has the details.")


def environment(device: str, processes: int) -> dict[str, Any]:
    """Tell what a run is made with, for environment.json: versions, machine, device and command line."""
    found: dict[str, Any] = {
        "rwkv-unet-segment": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "device": device,
        "processes": processes,
        "command": sys.argv,
    }
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if device.startswith("cuda"):
        found |= {"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name()}
    return found
