"""Many volumes: which files, and one after the other from file to file."""

import csv
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_core.errors import Cancel, CancelledError, ErrorReport, InputError, Remedy, RWKVUNetError, as_question
from rwkv_core.files import replacing
from rwkv_core.inference.provenance import weights_sha256, write_provenance
from rwkv_core.vocabulary import FileOutcome, Region, SegmentOptions
from rwkv_core.volume import (
    INPUT_EXTENSIONS,
    OUTPUT_EXTENSIONS,
    check_output,
    find_volumes,
    is_dicom_folder,
    output_extension,
    read_volume,
    series_address,
    split_address,
    write_segmentation,
    write_volume,
)
from rwkv_core.volume.dicom import series_listed
from rwkv_core.volume.dicom_seg import EXTENSION as DICOM_SEG
from rwkv_core.volume.dicom_seg import Algorithm, check_dicom_seg, write_dicom_seg

if TYPE_CHECKING:
    from rwkv_core.inference.model_chain import ModelChain
    from rwkv_core.inference.segmenter import Segmenter


_NOT_WRITTEN = (
    ".mgz", ".mgh", ".img", ".hdr", ".nhdr", ".mhd", ".gz", ".bz2", ".zip", ".tif", ".tiff", ".png", ".stl",
    ".obj", ".vtk", ".gipl", ".h5", ".npy", ".npz", ".nifti", ".raw", ".minc", ".mnc", ".seg", ".json", ".csv",
)  # fmt: skip
"""Ends of a name that mean a file, and not a folder, though no segmentation is written as such."""


@dataclass(frozen=True)
class BatchOptions:
    """How every volume of a batch is segmented, and what is written.

    Attributes:
        segment: model, device and what is done with the answers.
        region: None for whole volumes.
        probabilities: also write NAME_probabilities.nii.gz.
        provenance: also write NAME.json, which says what made the result.
        overwrite: segment again what is already there.
    """

    segment: SegmentOptions = field(default_factory=SegmentOptions)
    region: Region | None = None
    probabilities: bool = False
    provenance: bool = True
    overwrite: bool = False


def plan(
    inputs: Sequence[Path],
    output: Path,
    series: str | None = None,
    also: Sequence[Path] = (),
    extension: str = OUTPUT_EXTENSIONS[0],
) -> list[tuple[Path, Path]]:
    """Pair inputs with outputs.

    Args:
        inputs: volumes, DICOM folders, or folders of these, which are searched to the bottom.
        output: a file for one input, else a folder; in it, names end in `extension`. Where inputs have one name, their
            folders' names, or the kinds of the files, tell the results apart.
        series: number or UID of the series to take from DICOM folders that hold several.
        also: what else the run writes.
        extension: of results in a folder.

    Raises:
        InputError: when a folder holds no volume, the output is of a kind that is not written, or it is an input.
    """
    sources: list[Path] = []
    for path in inputs:
        if not path.is_dir():
            sources.append(path)
        elif series is not None:
            sources.append(series_address(path, series))
        else:
            found = find_volumes(path) or ([path] if is_dicom_folder(path) else [])
            if not found:
                raise InputError(
                    f"{path} holds no volume.", hint=f"Give a folder of DICOM or of {', '.join(INPUT_EXTENSIONS)}."
                )
            sources += found
    sources = list(dict.fromkeys(sources))
    names_a_file = output.name.lower().endswith((*OUTPUT_EXTENSIONS, DICOM_SEG))
    if names_a_file and not output.is_dir():
        if len(sources) > 1:
            of_series = len(inputs) == 1 and all(split_address(s)[1] or s.is_dir() for s in sources)
            hint = "Give a folder for the results; or, for one of several DICOM series, its number."
            raise InputError(
                f"{len(sources)} volumes cannot go into one file.",
                hint=f"{hint[:-1]}: {series_listed(inputs[0])}." if of_series else hint,
                remedy=Remedy("choose output"),
            )
        jobs = [(sources[0], output)]
    else:
        if output.suffix.lower() in _NOT_WRITTEN and not output.is_dir():
            output_extension(output)  # raises
        jobs = [(source, output / f"{name}{extension}") for source, name in zip(sources, _names(sources), strict=True)]
    for target in (*(target for _, target in jobs), *also):
        for source in sources:
            if _same_file(source, target):
                raise InputError(
                    f"The result {target} would overwrite the input {source}.", hint="Give the result another name."
                )
    return jobs


def _same_file(source: Path, target: Path) -> bool:
    """Through links, and whatever a file system makes of upper and lower case."""
    try:
        return target.samefile(source)
    except OSError:  # one of them does not exist
        return False


def _names(sources: Sequence[Path]) -> list[str]:
    """Give a name for the result of every source: its own; else with the names of folders above it, or its kind."""
    names = [stem(source) for source in sources]
    for depth in (*range(1, 1 + max((len(source.parts) for source in sources), default=0)), 0):
        count = Counter(name.lower() for name in names)
        if max(count.values(), default=1) == 1:
            break
        for n, source in enumerate(sources):
            if count[names[n].lower()] > 1:
                above = [part for part in source.absolute().parent.parts[-depth:] if part != source.anchor]
                kind = source.name[len(stem(source)) :].replace(".", "_")
                names[n] = "_".join([*above, stem(source)]) if depth else f"{stem(source)}{kind}_{n + 1}"
    return names


def segment_file(
    segmenter: "Segmenter | ModelChain | None",
    source: Path,
    target: Path,
    options: BatchOptions,
    progress: Callable[[str, int, int], None] | None = None,
    cancel: Cancel | None = None,
) -> FileOutcome:
    """Read, segment, write. What goes wrong with the volume is part of the outcome, so that a batch goes on.

    Args:
        segmenter: one model or several in a row; None where the source does not exist, which needs none to be told.
        progress: called with a stage ("reading", "segmenting", "writing"), slices done and slices in all.
        cancel: asked between batches of slices, or an event that may be set.

    Raises:
        CancelledError: when `cancel` said so; nothing was written.
    """
    tell = progress or (lambda stage, done, total: None)
    asked = as_question(cancel)
    outcome = FileOutcome(input=str(source), output=str(target))
    start = time.perf_counter()
    record: Path | None = None
    try:
        probabilities_file = target.with_name(f"{stem(target)}_probabilities.nii.gz")
        if options.probabilities and _same_file(source, probabilities_file):
            raise InputError(
                f"The probabilities {probabilities_file} would overwrite the input.",
                hint="Give the result another name.",
            )
        tell("reading", 0, 0)
        frames = check_dicom_seg(source) if target.name.lower().endswith(DICOM_SEG) else ()
        volume = read_volume(source)
        if not frames:
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
            write_volume(probabilities_file, result.probabilities, result.ijk_to_ras)
        if options.provenance:
            record = write_provenance(target, source, volume, segmenter, result, options.segment, options.region)
        try:  # last: its presence means done
            if frames:
                models = [each.bundle for each in segmenter.segmenters]
                made_by = Algorithm(
                    name=", ".join(model.config.title for model in models),
                    model=", ".join(model.config.id for model in models),
                    sha256=", ".join(weights_sha256(model) for model in models),
                )
                write_dicom_seg(target, result.labelmap, frames, result.classes, made_by)
            else:
                write_segmentation(target, result.labelmap, result.ijk_to_ras, result.classes)
        except RWKVUNetError:
            if record is not None:
                record.unlink(missing_ok=True)
            raise
    except CancelledError:
        raise
    except RWKVUNetError as error:
        return outcome.failed(ErrorReport.of(error), time.perf_counter() - start)
    return replace(
        outcome,
        status="done",
        seconds=time.perf_counter() - start,
        timings=result.timings,
        slices=result.slices,
        volumes_ml=result.volumes_ml(),
        volumes=result.volumes,
        warnings=tuple(result.warnings),
    )


def write_volumes(path: Path, outcomes: Sequence[FileOutcome]) -> None:
    """Write the table of volumes as CSV: a row for each structure of each input that was segmented.

    Raises:
        StorageError: when it cannot be written.
    """
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        table = csv.writer(file)
        table.writerow(["input", "structure", "label", "volume_ml", "voxels", "confidence"])
        for outcome in outcomes:
            for row in outcome.volumes:
                sure = "" if row.confidence is None else f"{row.confidence:.3f}"
                table.writerow([outcome.input, row.name, row.value or "", f"{row.volume_ml:.3f}", row.voxels, sure])


def stem(path: Path) -> str:
    """Give the file's name without its extension, or the folder's name."""
    folder, series = split_address(path)
    if series is not None:
        return f"{folder.name}_series_{series}"
    lower = path.name.lower()
    for extension in sorted((*INPUT_EXTENSIONS, *OUTPUT_EXTENSIONS, DICOM_SEG), key=len, reverse=True):
        if lower.endswith(extension) and not path.is_dir():
            return path.name[: -len(extension)]
    return path.name
