"""`rwkv-unet segment`: volumes in, segmentations out."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rwkv_core.cli.remedies import advice
from rwkv_core.cli.terminal import Console, print_json, printable
from rwkv_core.inference.batch import BatchOptions, plan, segment_file, write_volumes
from rwkv_core.vocabulary import FileOutcome, Region, SegmentOptions
from rwkv_core.volume import OUTPUT_EXTENSIONS, split_address

Job = tuple[Path, Path]

FORMATS = {extension.removeprefix("."): extension for extension in OUTPUT_EXTENSIONS} | {"dicom-seg": ".dcm"}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its options."""
    parser = subparsers.add_parser(
        "segment",
        help="segment volumes",
        description="Segments NIfTI, NRRD and MetaImage files and DICOM folders. Several inputs, or a folder that "
        "holds volumes, make a batch: finished files are skipped when it is run again.",
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="volume, DICOM folder, or folder of these")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT",
        help="for one input, a file; else a folder. Written as .seg.nrrd, unless OUT ends in another of "
        + ", ".join(OUTPUT_EXTENSIONS) + ", .dcm (DICOM SEG, of DICOM input)",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=FORMATS, default="seg.nrrd", help="of the files in a folder (default: %(default)s)"
    )
    add_options(parser)
    parser.add_argument("--series", metavar="UID|N", help="which series of a DICOM folder that holds several")
    parser.add_argument("--region", type=str, metavar="I,J,K", help='voxels to segment, e.g. "10:200,:,30:60"')
    parser.add_argument("--probabilities", action="store_true", help="also write NAME_probabilities.nii.gz (4-D)")
    parser.add_argument(
        "--provenance", action=argparse.BooleanOptionalAction, default=True,
        help="write NAME.json beside each result: model, options, input, warnings, seconds (default: on)",
    )  # fmt: skip
    parser.add_argument(
        "--volumes", type=Path, metavar="CSV", help="also write every structure's milliliters, voxels and confidence"
    )
    parser.add_argument("--overwrite", action="store_true", help="segment again what is already there")
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="spread the volumes over a Dask cluster (tcp://HOST:PORT, or its .json file)"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON on standard output")
    parser.set_defaults(func=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Make a flag of every field of `SegmentOptions`."""
    hints = get_type_hints(SegmentOptions)
    for option in fields(SegmentOptions):
        kind, details = hints[option.name], dict(option.metadata)
        if kind is bool:
            details["action"] = "store_true"
        elif bool in get_args(kind):
            details["action"] = argparse.BooleanOptionalAction
        elif get_origin(kind) is tuple:
            details["action"] = "append"
        else:
            details["help"] += " (default: %(default)s)"
            if get_origin(kind) is Literal:
                details["choices"] = get_args(kind)
            else:
                details["type"] = kind
        default = list(option.default) if isinstance(option.default, tuple) else option.default
        parser.add_argument(f"--{option.name.replace('_', '-')}", default=default, **details)


def options_of(arguments: argparse.Namespace) -> SegmentOptions:
    """Read what was given for the flags of `add_options`.

    Raises:
        FieldError: when a number is out of its range.
    """
    given: dict[str, Any] = {option.name: getattr(arguments, option.name) for option in fields(SegmentOptions)}
    return SegmentOptions(**given | {"then": tuple(given["then"])})


def run(options: argparse.Namespace) -> int:
    """Segment every input; 0 when all are there in the end, 1 when one failed."""
    batch = BatchOptions(
        segment=options_of(options),
        region=Region.parse(options.region) if options.region else None,
        probabilities=options.probabilities,
        provenance=options.provenance,
        overwrite=options.overwrite,
    )
    jobs = plan(
        options.inputs,
        options.output,
        options.series,
        [options.volumes] if options.volumes else [],
        FORMATS[options.format],
    )
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    waiting = [job for job in jobs if options.overwrite or not job[1].exists() or not _exists(job[0])]
    done: dict[Job, FileOutcome] = {}
    if waiting:
        with _progress(console) as progress:
            if options.dask:
                done = _on_cluster(options.dask, waiting, batch, progress)
            else:
                done = _one_by_one(waiting, batch, progress)
    outcomes = [
        done.get((source, target)) or FileOutcome(input=str(source), output=str(target), status="skipped")
        for source, target in jobs
    ]
    if options.volumes:
        write_volumes(options.volumes, outcomes)
    _report(outcomes, options, console)
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _exists(source: Path) -> bool:
    return split_address(source)[0].exists()


def _one_by_one(jobs: Sequence[Job], batch: BatchOptions, progress: Progress) -> dict[Job, FileOutcome]:
    """Segment on this machine."""
    segmenter = None
    if any(_exists(source) for source, _ in jobs):
        from rwkv_core.inference.model_chain import ModelChain

        segmenter = ModelChain.from_options(batch.segment)
    whole = progress.add_task("volumes", total=len(jobs), visible=len(jobs) > 1)
    outcomes = {}
    for source, target in jobs:
        name = printable(source.name)
        task = progress.add_task(name, total=None)

        def tell(stage: str, done: int, total: int, name: str = name, task: Any = task) -> None:
            description = name if stage == "segmenting" else f"{name}: {stage}"
            progress.update(task, description=description, completed=done, total=total or None)

        outcomes[source, target] = segment_file(segmenter, source, target, batch, tell)
        progress.remove_task(task)
        progress.advance(whole)
    return outcomes


def _on_cluster(address: str, jobs: Sequence[Job], batch: BatchOptions, progress: Progress) -> dict[Job, FileOutcome]:
    from rwkv_core.inference.cluster import segment_on_cluster

    whole = progress.add_task("connecting", total=len(jobs))

    def tell(done: int, total: int, workers: int) -> None:
        description = f"volumes, {workers} worker{'s' * (workers != 1)}" if workers else "waiting for workers"
        progress.update(whole, description=description, completed=done, total=total)

    return dict(zip(jobs, segment_on_cluster(address, jobs, batch, tell), strict=True))


def _report(outcomes: Sequence[FileOutcome], options: argparse.Namespace, console: Console) -> None:
    """Say what happened: failures last, where they are seen."""
    if options.json:
        models = {"model": options.model, **({"then": options.then} if options.then else {})}
        document: dict[str, Any] = {**models, "results": [asdict(outcome) for outcome in outcomes]}
        print_json(document)
    for outcome in outcomes:
        if outcome.status == "done":
            figures = ""
            if outcome.slices:
                per_slice = 1000 * outcome.timings["total"] / outcome.slices
                figures = f"  ({outcome.seconds:.1f} s, {outcome.slices} slices, {per_slice:.0f} ms each)"
            console.print(f"{outcome.output}{figures}", markup=False)
        for warning in outcome.warnings:
            console.print(f"  Note: {warning}", style="yellow", markup=False)
    skipped = sum(outcome.status == "skipped" for outcome in outcomes)
    if skipped:
        console.print(f"{skipped} skipped: already there (--overwrite segments them again).")
    failed = [(outcome.input, outcome.error) for outcome in outcomes if outcome.error]
    if failed:
        heading = "Error:" if len(outcomes) == 1 else f"{len(failed)} of {len(outcomes)} failed:"
        console.print(heading, style="bold red", end=" " if len(outcomes) == 1 else "\n")
    for source, error in failed:
        named = error.message if source in error.message else f"{source}: {error.message}"
        console.print(f"{named}\n{advice(error.hint, error.remedy)}".rstrip(), markup=False)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
