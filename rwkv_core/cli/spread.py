"""`rwkv-unet spread`: from a few corrected slices to the whole structure."""

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.table import Table

from rwkv_core.cli.terminal import Console, print_json
from rwkv_core.errors import FieldError, InputError
from rwkv_core.vocabulary import SegmentClass, SliceIndex, size_in_words

_SAME_PLACE = 1e-3
_METHODS = {
    "interpolation": "shapes between the slices",
    "classifier": "what the image shows",
    "mixture": "shapes and image",
    "standing": "as it was",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its options."""
    parser = subparsers.add_parser(
        "spread",
        help="carry structures on from a few corrected slices",
        description="Takes a scan and a segmentation of it that is right in some slices, and makes the rest of the "
        "structures follow. The given slices stay as they are. No model is needed.",
    )
    parser.add_argument("scan", type=Path, help="volume file or DICOM folder")
    parser.add_argument("labels", type=Path, help="segmentation on the scan's grid, as .seg.nrrd or another volume")
    parser.add_argument(
        "--slices", required=True, metavar="K:10,K:40",
        help="slices in which the segmentation is right: axis (I, J or K) and index, counted from 0",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="file to write")
    parser.add_argument(
        "--structures", metavar="NAME,...", help="names or label values to carry on; without it, what was corrected, "
        "or all that is in the slices",
    )  # fmt: skip
    parser.add_argument(
        "--before",
        type=Path,
        metavar="FILE",
        help="the segmentation before it was corrected: an answer to fall back on",
    )
    parser.add_argument("--overwrite", action="store_true", help="write over an output that is there")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON on standard output")
    parser.set_defaults(func=run)


def parse_slices(text: str) -> list[SliceIndex]:
    """Read "K:10,K:40".

    Raises:
        InputError: when it has another form.
    """
    found = []
    for part in text.split(","):
        axis, _, index = part.strip().partition(":")
        try:
            found.append(SliceIndex(axis.upper(), int(index)))  # type: ignore[arg-type]  # it checks itself
        except (ValueError, FieldError):
            raise InputError(
                f"The slice {part.strip()!r} is not understood.", hint='Write slices like "K:10,K:40": axis, index.'
            ) from None
    return found


def run(options: argparse.Namespace) -> int:
    """Read, spread, write."""
    from rwkv_core.spreading.spreading import spread
    from rwkv_core.volume import check_output, read_labelmap, read_volume, write_segmentation

    slices = parse_slices(options.slices)
    if options.output.exists() and not options.overwrite:
        raise InputError(f"{options.output} is there.", hint="Name another file, or add --overwrite.")
    volume = read_volume(options.scan)
    check_output(options.output, volume.ijk_to_ras)
    labels, classes = read_labelmap(options.labels)
    before = read_labelmap(options.before)[0] if options.before else None
    for path, other in ((options.labels, labels), (options.before, before)):
        if other is None:
            continue
        if other.array.shape != volume.array.shape or not np.allclose(
            other.ijk_to_ras, volume.ijk_to_ras, rtol=0, atol=_SAME_PLACE
        ):
            raise InputError(
                f"{path} ({size_in_words(other.array.shape)} voxels) does not lie on the voxels of {options.scan} "
                f"({size_in_words(volume.array.shape)}).",
                hint="Save the segmentation with the scan as its reference volume.",
            )
    values = None if options.structures is None else _values(options.structures, classes)
    answer = spread(volume, labels.array, slices, values, before=None if before is None else before.array)
    write_segmentation(options.output, answer.labelmap, volume.ijk_to_ras, classes)
    names = {segment_class.value: segment_class.name for segment_class in classes}
    if options.json:
        document = {
            "output": str(options.output),
            "structures": [
                {"name": names.get(structure.value, ""), **asdict(structure)} for structure in answer.structures
            ],
            "next_slice": answer.next_slice and f"{answer.next_slice.axis}:{answer.next_slice.index}",
            "seconds": answer.seconds,
        }
        print_json(document)
    console = Console(stderr=True, highlight=False)
    table = Table("structure", "made of", "Dice, slices left out", "of shapes alone", "voxels changed")
    for structure in answer.structures:
        scores = ("" if score is None else f"{score:.3f}" for score in (structure.score, structure.interpolation))
        table.add_row(
            names.get(structure.value, str(structure.value)), _METHODS[structure.method], *scores, str(structure.voxels)
        )
    console.print(table)
    if answer.next_slice is not None:
        console.print(f"Least sure in slice {answer.next_slice.axis}:{answer.next_slice.index}: correct that one next.")
    console.print(f"{options.output}  ({answer.seconds['total']:.1f} s)", markup=False, soft_wrap=True)
    return 0


def _values(text: str, classes: list[SegmentClass]) -> list[int]:
    """Label values of structures that are named, or given by value."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        value = next(
            (
                segment_class.value
                for segment_class in classes
                if part.casefold() in (segment_class.name.casefold(), str(segment_class.value))
            ),
            None,
        )
        if value is None:
            known = ", ".join(segment_class.name for segment_class in classes) or "none"
            raise InputError(f"There is no structure {part!r} in the segmentation.", hint=f"It has: {known}.")
        found.append(value)
    return found
