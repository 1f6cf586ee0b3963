"""`rwkv-unet segment`: volumes in, segmentations out."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rwkv_core.batch import plan, stem
from rwkv_core.errors import RWKVUNetError
from rwkv_core.volume import OUTPUT_EXTENSIONS, Region, check_output, read_volume, write_segmentation, write_volume

if TYPE_CHECKING:
    from rwkv_core.segmenter import Segmenter


@dataclass
class Outcome:
    """What became of one input; the entries of `--json`."""

    input: str
    output: str
    status: str = "waiting"  # "done", "skipped", "failed"
    seconds: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    slices: int = 0
    volumes_ml: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: dict[str, str] | None = None


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
        + ", ".join(OUTPUT_EXTENSIONS),
    )  # fmt: skip
    parser.add_argument("--model", default="default", help="id or folder of a model (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    parser.add_argument(
        "--engine", choices=("auto", "openvino", "torch"), default="auto", help="what computes on a CPU (default: auto)"
    )
    parser.add_argument("--mode", choices=("best", "paper"), default="best", help="paper: the published pipeline")
    parser.add_argument("--region", type=str, metavar="I,J,K", help='voxels to segment, e.g. "10:200,:,30:60"')
    parser.add_argument("--probabilities", action="store_true", help="also write NAME_probabilities.nii.gz (4-D)")
    parser.add_argument("--any-modality", action="store_true", help="segment even if the modality does not fit")
    parser.add_argument("--overwrite", action="store_true", help="segment again what is already there")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON on standard output")
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Segment every input; 0 when all are there in the end, 1 when one failed."""
    region = Region.parse(options.region) if options.region else None
    jobs = plan(options.inputs, options.output)
    outcomes = [Outcome(str(source), str(target)) for source, target in jobs]
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    waiting = []
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job[1].exists() and not options.overwrite:
            outcome.status = "skipped"
        else:
            waiting.append((job, outcome))
    if waiting:
        from rwkv_core.segmenter import Segmenter  # torch takes a second: not needed when all is done

        segmenter = Segmenter(options.model, options.device, options.mode, options.engine)
        with _progress(console) as progress:
            whole = progress.add_task("volumes", total=len(waiting), visible=len(waiting) > 1)
            for (source, target), outcome in waiting:
                task = progress.add_task(source.name, total=None)
                _segment_one(segmenter, source, target, region, options, outcome, progress, task)
                progress.remove_task(task)
                progress.advance(whole)
    _report(outcomes, options, console)
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _segment_one(
    segmenter: "Segmenter",
    source: Path,
    target: Path,
    region: Region | None,
    options: argparse.Namespace,
    outcome: Outcome,
    progress: Progress,
    task: TaskID,
) -> None:
    """Read, segment, write; errors end up in `outcome`, so that a batch goes on."""
    start = time.perf_counter()
    try:
        progress.update(task, description=f"{source.name}: reading")
        volume = read_volume(source)
        check_output(target, volume.ijk_to_ras)
        progress.update(task, description=source.name)
        result = segmenter.segment(
            volume,
            region,
            probabilities=options.probabilities,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            any_modality=options.any_modality,
        )
        progress.update(task, description=f"{source.name}: writing")
        if result.probabilities is not None:
            soft = target.with_name(f"{stem(target)}_probabilities.nii.gz")
            write_volume(soft, result.probabilities, result.ijk_to_ras)
        write_segmentation(target, result.labelmap, result.ijk_to_ras, result.classes)  # last: its presence means done
        outcome.status = "done"
        outcome.timings, outcome.slices = result.timings, result.slices
        outcome.volumes_ml, outcome.warnings = result.volumes_ml(), result.warnings
    except RWKVUNetError as error:
        outcome.status = "failed"
        outcome.error = {"kind": error.kind, "message": error.message, "hint": error.hint}
    outcome.seconds = time.perf_counter() - start


def _report(outcomes: Sequence[Outcome], options: argparse.Namespace, console: Console) -> None:
    """Say what happened: failures last, where they are seen."""
    if options.json:
        document: dict[str, Any] = {"model": options.model, "results": [asdict(outcome) for outcome in outcomes]}
        print(json.dumps(document, indent=2, ensure_ascii=False), file=sys.stdout)
    for outcome in outcomes:
        if outcome.status == "done":
            per_slice = 1000 * outcome.timings["total"] / max(outcome.slices, 1)
            console.print(
                f"{outcome.output}  ({outcome.seconds:.1f} s, {outcome.slices} slices, {per_slice:.0f} ms each)",
                markup=False,
            )
        for warning in outcome.warnings:
            console.print(f"  Note: {warning}", style="yellow", markup=False)
    skipped = sum(outcome.status == "skipped" for outcome in outcomes)
    if skipped:
        console.print(f"{skipped} skipped: already there (--overwrite segments them again).")
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        console.print(f"{len(failed)} of {len(outcomes)} failed:", style="bold red")
    for outcome in failed:
        error = outcome.error or {}
        console.print(f"  {outcome.input}: {error['message']} {error['hint']}".rstrip(), markup=False)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
