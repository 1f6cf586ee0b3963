"""Agreement of a brain model with given segmentations: python benchmarks/brain_agreement.py DATA [--model default]

DATA holds `validation/` (open_ms_data scans with brain masks, voxelmorph's test scan with FreeSurfer labels) and
`sample/` (Colin27 with its extracted brain), under the names that the model card gives. None of these scans was trained
on. The truths are automatic themselves (FreeSurfer, brain extraction, registered masks).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rwkv_core import Segmenter, Volume, read_volume

FLUID = {"Cerebrospinal fluid"}
"""Not counted as brain."""


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / max(np.count_nonzero(a) + np.count_nonzero(b), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    segmenter = Segmenter(options.model, options.device)
    classes = segmenter.bundle.config.classes
    figures: dict[str, dict[str, float]] = {}

    def segment(name: str, volume: Volume) -> np.ndarray:
        result = segmenter.segment(volume)
        figures[name] = {"seconds": result.timings["total"]}
        return result.labelmap

    def brain(labelmap: np.ndarray) -> np.ndarray:
        return np.isin(labelmap, [c.value for c in classes if c.name not in FLUID])

    for image in sorted((options.data / "validation").glob("patient*_study1_*.nii.gz")):
        if "_mask" not in image.name:
            mask = read_volume(image.with_name(image.name.replace(".nii.gz", "_mask.nii.gz"))).array > 0
            name = image.name.removesuffix(".nii.gz").replace("_study1", "")
            labelmap = segment(name, read_volume(image))
            figures[name]["Brain"] = dice(brain(labelmap), mask)
            figures[name]["Brain and fluid"] = dice(labelmap > 0, mask)
    head = options.data / "sample" / "ch2.nii.gz"
    labelmap = segment("Colin27", read_volume(head))
    mask = read_volume(head.with_name("ch2bet.nii.gz")).array > 0
    figures["Colin27"]["Brain"] = dice(brain(labelmap), mask)
    figures["Colin27"]["Brain and fluid"] = dice(labelmap > 0, mask)

    scan = np.load(options.data / "validation" / "voxelmorph_test_scan.npz")
    # The array runs toward Left, Inferior, Anterior; its voxels are 1 mm.
    toward = np.array([[-1, 0, 0], [0, 0, 1], [0, -1, 0]], float)
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = toward
    labelmap = segment("voxelmorph", Volume(np.ascontiguousarray(scan["vol"].T, np.float32), ijk_to_ras))
    truth = scan["seg"].T.astype(int)
    for c in classes:
        if np.isin(truth, c.freesurfer).any():
            figures["voxelmorph"][c.name] = dice(labelmap == c.value, np.isin(truth, c.freesurfer))

    rows = ["seconds", "Brain", "Brain and fluid", *(c.name for c in classes)]
    table = Table("", *figures, title=f"Dice with the given segmentations: {segmenter.bundle.config.title}")
    for row in rows:
        if any(row in found for found in figures.values()):
            table.add_row(row, *(f"{found[row]:.3f}" if row in found else "" for found in figures.values()))
    Console(width=200).print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
