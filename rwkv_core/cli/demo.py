"""`rwkv-unet demo`: the shipped model on the shipped head scan, and a picture of the result."""

import argparse
from pathlib import Path

from rich.table import Table

from rwkv_core.cli.terminal import Console

SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "ch2.nii.gz"
"""Colin27: T1-weighted MR of a head, 181 x 217 x 181 voxels of 1 mm; licence beside it."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its options."""
    parser = subparsers.add_parser(
        "demo",
        help="segment the sample head scan and draw the result",
        description="Segments the sample head scan (Colin27, T1 MR) and writes head.seg.nrrd and head.png.",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("rwkv-unet-demo"), help="folder (%(default)s)")
    parser.add_argument("--model", default="default", help="id or folder of a model (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Segment, write, draw, and say where to look."""
    from rwkv_core.inference.segmenter import Segmenter
    from rwkv_core.rendering import save_figure
    from rwkv_core.volume import read_volume, write_segmentation

    console = Console(highlight=False, soft_wrap=True)
    volume = read_volume(SAMPLE)
    segmenter = Segmenter(options.model, options.device)
    with console.status("") as status:
        result = segmenter.segment(
            volume, progress=lambda done, total: status.update(f"Segmenting: {done} of {total} slices")
        )
        status.update("Writing and drawing")
        labels, picture = options.output / "head.seg.nrrd", options.output / "head.png"
        write_segmentation(labels, result.labelmap, result.ijk_to_ras, result.classes)
        title = f"{segmenter.bundle.config.title}: sample head scan (Colin27)"
        save_figure(picture, volume, result, title)
    table = Table("Structure", "Volume (ml)", title=segmenter.bundle.config.title)
    table.columns[1].justify = "right"
    for name, millilitres in result.volumes_ml().items():
        table.add_row(name, f"{millilitres:.1f}")
    console.print(table)
    seconds = result.timings["total"]
    console.print(
        f"{result.slices} slices in {seconds:.1f} s on {segmenter.engine.device}. For research, not for diagnosis."
    )
    console.print(f"Picture:      {picture}\nSegmentation: {labels}  (opens in 3D Slicer)", markup=False)
    return 0
