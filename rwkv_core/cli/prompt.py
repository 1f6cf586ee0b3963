"""`rwkv-unet prompt`: point at a structure, get its segmentation."""

import argparse
from pathlib import Path

import numpy as np

from rwkv_core.cli.terminal import Console, print_json
from rwkv_core.errors import InputError
from rwkv_core.inference.prompter import PLANES, STOP, Prompter
from rwkv_core.vocabulary import SegmentClass
from rwkv_core.volume import check_output, read_volume, write_segmentation

_COLOR = (128, 174, 128)  # Slicer's for tissue


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its options."""
    parser = subparsers.add_parser(
        "prompt",
        help="segment what a point or a box shows",
        description="Segments the structure at a point in one slice, and with --propagate through the slices beside. "
        "Positions are in mm, R,A,S, as the DataProbe of 3D Slicer shows them.",
    )
    parser.add_argument("input", type=Path, metavar="IN", help="volume or DICOM folder")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="segmentation, e.g. out.seg.nrrd"
    )
    parser.add_argument(
        "--at", type=_place, action="append", default=[], metavar="R,A,S", help="belongs; may be repeated"
    )
    parser.add_argument(
        "--not", type=_place, action="append", default=[], dest="outside", metavar="R,A,S", help="does not belong"
    )
    parser.add_argument("--box", type=_corners, metavar="R,A,S,R,A,S", help="two opposite corners, in one slice")
    parser.add_argument("--plane", choices=tuple(PLANES), default="axial", help="of the slice (default: %(default)s)")
    parser.add_argument("--propagate", action="store_true", help="follow the structure into the other slices")
    parser.add_argument(
        "--stop", type=float, default=STOP, metavar="DICE",
        help="propagation ends where neighbouring slices agree by less (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--name", default="Structure", help="of the segment (default: %(default)s)")
    parser.add_argument("--model", default="prompt", help="id or folder of a model (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON on standard output")
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Segment what was pointed at."""
    if options.box is None and not options.at:
        raise InputError("No prompt says what belongs.", hint="Give --at R,A,S or --box.")
    volume = read_volume(options.input)
    check_output(options.output, volume.ijk_to_ras)
    prompter = Prompter(options.model, options.device)
    prompter.set_volume(volume)
    corners = [] if options.box is None else [options.box[:3], options.box[3:]]
    places = [*options.at, *options.outside, *corners]
    index, points = prompter.locate(options.plane, places)
    clicks = len(options.at) + len(options.outside)
    box = None
    if corners:
        low, high = points[clicks:].min(0), points[clicks:].max(0)
        box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    labels = [1] * len(options.at) + [0] * len(options.outside)
    mask = prompter.predict(options.plane, index, points[:clicks], labels, box) > 0.5
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not mask.any():
        raise InputError(
            "Nothing was found there.", hint="Point at another place of the structure, or draw a box around it."
        )
    summary = {"plane": options.plane, "slice": index, "pixels": int(mask.sum())}
    if options.propagate:
        found = prompter.propagate(mask, index, options.plane, stop=options.stop)
        labelmap = found.labelmap
        summary |= {"first": found.first, "last": found.last, "reasons": found.reasons}
        for end, reason in zip((found.first, found.last), found.reasons, strict=True):
            console.print(f"  to slice {end}: {reason}", markup=False)
    else:
        labelmap = np.zeros(volume.array.shape, np.uint8)
        prompter.stack(options.plane).to_stack(labelmap)[index] = mask
    write_segmentation(
        options.output, labelmap, volume.ijk_to_ras, [SegmentClass(value=1, name=options.name, color=_COLOR)]
    )
    voxel = abs(float(np.linalg.det(volume.ijk_to_ras[:3, :3]))) / 1000
    summary["ml"] = float(np.count_nonzero(labelmap)) * voxel
    if options.json:
        print_json({"output": str(options.output), **summary})
    console.print(f"{options.output}  ({options.name}: {summary['ml']:.2f} ml)", markup=False)
    return 0


def _place(text: str) -> tuple[float, ...]:
    return _numbers(text, 3)


def _corners(text: str) -> tuple[float, ...]:
    return _numbers(text, 6)


def _numbers(text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise argparse.ArgumentTypeError(f"{count} numbers with commas in between are needed, not {text!r}")
    return numbers
