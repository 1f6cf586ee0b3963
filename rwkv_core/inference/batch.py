"""Many volumes: which files, and one after the other from file to file."""

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rwkv_core.cancellation import Cancel, as_question
from rwkv_core.errors import CancelledError, InputError, RWKVUNetError
from rwkv_core.files import replacing
from rwkv_core.vocabulary import Region, SegmentOptions, StructureVolume
from rwkv_core.volume import (
    INPUT_EXTENSIONS,
    OUTPUT_EXTENSIONS,
    check_output,
    find_volumes,
    is_dicom_folder,
    read_volume,
    write_segmentation,
    write_volume,
)

if TYPE_CHECKING:
    from rwkv_core.inference.segmenter import Segmenter


@dataclass(frozen=True)
class BatchOptions:
    """How every volume of a batch is segmented, and what is written.

    Attributes:
        segment: model, device and what is done with the answers.
        region: None for whole volumes.
        probabilities: also write NAME_probabilities.nii.gz.
        overwrite: segment again what is already there.
    """

    segment: SegmentOptions = field(default_factory=SegmentOptions)
    region: Region | None = None
    probabilities: bool = False
    overwrite: bool = False


@dataclass
class Outcome:
    """What became of one input.

    Attributes:
        error: "kind", "message" and "hint" of a failed one.
    """

    input: str
    output: str
    status: Literal["waiting", "done", "skipped", "failed"] = "waiting"
    seconds: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    slices: int = 0
    volumes_ml: dict[str, float] = field(default_factory=dict)
    volumes: tuple[StructureVolume, ...] = ()
    warnings: list[str] = field(default_factory=list)
    error: dict[str, str] | None = None

    def fail(self, kind: str, message: str, hint: str = "") -> None:
        """Note why it failed."""
        self.status, self.error = "failed", {"kind": kind, "message": message, "hint": hint}


def plan(inputs: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """Pairs of input and output.

    Args:
        inputs: volumes, DICOM folders, or folders of these.
        output: a file for one input, else a folder; in it, names end in .seg.nrrd.

    Raises:
        InputError: when a folder holds no volume, or two inputs would be written to one file.
    """
    sources = []
    for path in inputs:
        if path.is_dir() and not is_dicom_folder(path):
            found = find_volumes(path)
            if not found:
                raise InputError(
                    f"{path} holds no volume.", hint=f"Give a folder of DICOM or of {', '.join(INPUT_EXTENSIONS)}."
                )
            sources += found
        else:
            sources.append(path)
    extension = next((e for e in OUTPUT_EXTENSIONS if output.name.lower().endswith(e)), None)
    if extension and not output.is_dir():
        if len(sources) > 1:
            raise InputError(f"{len(sources)} volumes cannot go into one file.", hint="Give a folder with -o.")
        return [(sources[0], output)]
    jobs = [(source, output / f"{stem(source)}.seg.nrrd") for source in sources]
    targets = [target for _, target in jobs]
    twice = sorted({str(s) for s, t in jobs if targets.count(t) > 1})
    if twice:
        raise InputError(
            f"These inputs have one name and would overwrite each other's result: {', '.join(twice)}.",
            hint="Segment them in separate runs, with different output folders.",
        )
    return jobs


def segment_file(
    segmenter: "Segmenter | None",
    source: Path,
    target: Path,
    options: BatchOptions,
    progress: Callable[[str, int, int], None] | None = None,
    cancel: Cancel | None = None,
) -> Outcome:
    """Read, segment, write. What goes wrong with the volume is part of the outcome, so that a batch goes on.

    Args:
        segmenter: None where the source does not exist, which needs none to be told.
        progress: called with a stage ("reading", "segmenting", "writing"), slices done and slices in all.
        cancel: asked between batches of slices, or an event that may be set.

    Raises:
        CancelledError: when `cancel` said so; nothing was written.
    """
    tell = progress or (lambda stage, done, total: None)
    asked = as_question(cancel)
    outcome = Outcome(str(source), str(target))
    start = time.perf_counter()
    try:
        tell("reading", 0, 0)
        volume = read_volume(source)
        check_output(target, volume.ijk_to_ras)
        if asked():
            raise CancelledError
        assert segmenter is not None
        result = segmenter.segment(
            volume,
            options.region,
            options.probabilities,
            lambda done, total: tell("segmenting", done, total),
            cancel,
            options.segment,
        )
        if asked():
            raise CancelledError
        tell("writing", 0, 0)
        if result.probabilities is not None:
            soft = target.with_name(f"{stem(target)}_probabilities.nii.gz")
            write_volume(soft, result.probabilities, result.ijk_to_ras)
        write_segmentation(target, result.labelmap, result.ijk_to_ras, result.classes)  # last: its presence means done
        outcome.status = "done"
        outcome.timings, outcome.slices = result.timings, result.slices
        outcome.volumes_ml, outcome.volumes, outcome.warnings = result.volumes_ml(), result.volumes, result.warnings
    except CancelledError:
        raise
    except RWKVUNetError as error:
        outcome.fail(error.kind, error.message, error.hint)
    outcome.seconds = time.perf_counter() - start
    return outcome


def write_volumes(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the table of volumes as CSV: a row for each structure of each input that was segmented.

    Raises:
        StorageError: when it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["input", "structure", "label", "volume_ml", "confidence"])
        for outcome in outcomes:
            for row in outcome.volumes:
                sure = "" if row.confidence is None else f"{row.confidence:.3f}"
                table.writerow([outcome.input, row.name, row.value or "", f"{row.volume_ml:.3f}", sure])


def stem(path: Path) -> str:
    """The file's name without its extension, or the folder's name."""
    lower = path.name.lower()
    for extension in sorted((*INPUT_EXTENSIONS, *OUTPUT_EXTENSIONS), key=len, reverse=True):
        if lower.endswith(extension) and not path.is_dir():
            return path.name[: -len(extension)]
    return path.name
