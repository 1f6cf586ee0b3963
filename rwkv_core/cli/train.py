"""`rwkv-unet train`: a data set in, a model in the list out."""

import argparse
import ctypes
import dataclasses
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_core.cli.terminal import Console, print_json
from rwkv_core.errors import InputError
from rwkv_core.packages import require_torch

if TYPE_CHECKING:
    from rwkv_core.training.recipe import Job

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of malloc.h

EXTRA_HINT = 'Install them: pip install "rwkv-unet-segment[train]".'


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its options."""
    parser = subparsers.add_parser(
        "train",
        help="train or fine-tune a model on your own data",
        description="Trains RWKV-UNet or U-RWKV on a data set, and puts the finished model into the list. Stopped "
        "runs (Ctrl-C, or a file named `stop` in RUN) go on with --resume. Several GPUs: --devices, torchrun or SLURM.",
    )
    parser.add_argument("dataset", nargs="?", metavar="DATASET", help="folder or datalist; see docs/training.md")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--preset", metavar="NAME",
        help="recipe: synapse, acdc, binary, goals, fugc, finetune, volumetric; brain (the shipped model, "
        "from SynthSeg's label maps), prompt (the model that answers to clicks, from label maps and CTs without "
        "labels); or a .yaml file of your own "
        "(default: finetune)",
    )  # fmt: skip
    parser.add_argument("--init", metavar="MODEL", help="start from a model (id or folder) or a checkpoint (.pth)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in RUN")
    parser.add_argument(
        "--set", action="append", default=[], dest="changes", metavar="KEY=VALUE",
        help="change a field of the recipe, e.g. epochs=100 or loss.dice=1; can be repeated",
    )  # fmt: skip
    parser.add_argument("--unlabelled", metavar="FOLDER", help="images without labels, for semi-supervised recipes")
    parser.add_argument("--name", help="id of the finished model (default: the name of RUN)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="GPUs (or CPU processes) on this machine")
    parser.add_argument(
        "--detach", action="store_true", help="leave the run to itself once it has begun: it outlives this terminal"
    )
    parser.add_argument("--show", action="store_true", help="print the recipe as it would be used, and end")
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Train; 0 when the run finished, 130 when it was stopped."""
    require_training()
    from rwkv_core.cli import CANCELLED, OK

    console = Console(highlight=False, soft_wrap=True, stderr=True)
    if options.preset in _GENERATED:
        _keep_freed_memory()
        return _GENERATED[options.preset](options, console)
    if options.show:
        job = new_job(options, dataset_needed=False)
        print_json(job.recipe.model_dump(mode="json"))
        return OK
    if options.detach:
        from rwkv_core.training.background import start_detached

        process = start_detached(_words(options), options.output)
        console.print(f"The run has begun (process {process}).\nFolder: {options.output}", markup=False)
        console.print(f"To stop it, make a file named stop there: {options.output / 'stop'}", markup=False)
        return OK
    _keep_freed_memory()
    from rwkv_core.training.devices import is_first_process
    from rwkv_core.training.run import train

    _log_to(console, is_first_process())
    if options.resume:
        if options.preset or options.init:
            raise InputError(
                "A run that is resumed keeps its recipe.", hint="Leave --preset and --init away; --set still works."
            )
        outcome = train(
            None, options.output, resume=True, change=lambda job: _changed(job, options), device=options.device,
            devices=options.devices,
        )  # fmt: skip
    else:
        outcome = train(new_job(options), options.output, device=options.device, devices=options.devices)
    if not outcome.finished:
        return CANCELLED
    if outcome.bundle is not None:
        console.print(f"Model:  {outcome.bundle.config.id}\nFolder: {options.output}", markup=False)
    return OK


def new_job(options: argparse.Namespace, dataset_needed: bool = True) -> "Job":
    """Make what the options ask for.

    Raises:
        InputError: when the data set is missing, or the recipe is not valid.
    """
    from rwkv_core.training.recipe import Job, load_recipe

    if options.dataset is None and dataset_needed:
        raise InputError("No data set was given.", hint="Write rwkv-unet train DATASET -o RUN, or add --resume.")
    recipe = load_recipe(options.preset or "finetune", options.changes, init=_absolute(options.init))
    name = options.name or re.sub(r"[^A-Za-z0-9._-]+", "-", options.output.absolute().name).strip("-._") or "model"
    return Job(
        str(Path(options.dataset or ".").absolute()), name, recipe,
        str(Path(options.unlabelled).absolute()) if options.unlabelled else None,
    )  # fmt: skip


def _words(options: argparse.Namespace) -> list[str]:
    """Give the options as arguments of another such command, which does not detach itself."""
    words = [options.dataset] if options.dataset else []
    words += ["-o", str(options.output), *(["--resume"] if options.resume else [])]
    for name in ("preset", "init", "unlabelled", "name", "device", "devices"):
        if (value := getattr(options, name)) is not None:
            words.append(f"--{name}={value}")
    return words + [f"--set={change}" for change in options.changes]


def require_training(computes: bool = True) -> None:
    """Raise an InputError where the packages for training are not installed, or a MissingPackageError as to PyTorch.

    Args:
        computes: whether PyTorch is used, which takes seconds to import; a data set is read without it.
    """
    from importlib.util import find_spec

    missing = [name for name in ("lightning", "monai", "h5py", "filelock", "yaml", "PIL") if find_spec(name) is None]
    if missing:
        raise InputError(f"Training needs packages that are not installed: {', '.join(missing)}.", hint=EXTRA_HINT)
    if computes:
        require_torch("Training")


def _keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc; elsewhere nothing is done.

    Every step frees hundreds of megabytes and asks for them again; given back to the system in between, each page of
    them is cleared anew, which takes half of a step's time on a CPU. For a process that does nothing but train.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((_M_TRIM_THRESHOLD, 2**31 - 1), (_M_MMAP_MAX, 0), (_M_TOP_PAD, 2**26)):
        mallopt(parameter, value)


def _changed(job: "Job", options: argparse.Namespace) -> "Job":
    """Give the stored job with the options that may change when a run goes on."""
    from rwkv_core.training.recipe import changed_recipe

    if options.dataset and str(Path(options.dataset).absolute()) != job.dataset:
        raise InputError(
            f"The run was trained on {job.dataset}, not on {options.dataset}.",
            hint="Start a new run with --init RUN/bundle.",
        )
    return dataclasses.replace(job, recipe=changed_recipe(job.recipe, options.changes), name=options.name or job.name)


def _absolute(init: str | None) -> str | None:
    """Give a path that still holds when the run is resumed from another folder; an id stays what it is."""
    return str(Path(init).absolute()) if init is not None and Path(init).exists() else init


def _log_to(console: Console, first: bool) -> None:
    """Log to the terminal what goes to log.txt; of several processes, one speaks."""
    logger = logging.getLogger("rwkv_core.training")
    logger.setLevel(logging.INFO if first else logging.ERROR)
    logger.propagate = False
    for handler in [h for h in logger.handlers if isinstance(h, _ConsoleHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(_ConsoleHandler(console))
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console):
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:  # errors are told once, at the end
            style = "yellow" if record.levelno >= logging.WARNING else None
            self._console.print(record.getMessage(), style=style, markup=False)


def _train_promptable(options: argparse.Namespace, console: Console) -> int:
    """Make the weights of the promptable model again."""
    from rwkv_core.training.prompt.training import PromptRecipe, train_promptable
    from rwkv_core.training.recipe import changed_recipe

    if options.dataset is None:
        raise InputError(
            "The folder of the training data is missing.",
            hint="It must hold training_label_maps and prompt/training_images.",
        )
    if options.resume and options.changes:
        raise InputError("A run of this preset that is resumed keeps its recipe.", hint="Leave --set away.")

    def tell(line: str) -> None:
        console.print(line, markup=False)

    recipe = changed_recipe(PromptRecipe(), options.changes)
    folder = train_promptable(
        Path(options.dataset), options.output, recipe, options.device, options.resume, tell, init=options.init
    )
    console.print(f"Model: {folder}", markup=False)
    return 0


def _train_brain(options: argparse.Namespace, console: Console) -> int:
    """Make the weights of the shipped brain model again, or those of another one for brains."""
    from rwkv_core.training.brain import BrainRecipe, train_brain
    from rwkv_core.training.recipe import changed_recipe

    if options.dataset is None:
        raise InputError("The folder of the label maps is missing.", hint="Name SynthSeg's training_label_maps.")
    folder = train_brain(
        Path(options.dataset),
        options.output,
        changed_recipe(BrainRecipe(), options.changes),
        init=options.init,
        device=options.device,
        devices=options.devices,
        resume=options.resume,
    )
    if folder is not None:
        console.print(f"Model: {folder}", markup=False)
    return 0


_GENERATED = {"brain": _train_brain, "prompt": _train_promptable}
"""Presets that learn from generated images, each with a loop of its own."""
