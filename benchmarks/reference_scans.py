"""The scans with references that several benchmarks read from DATA, under the names that the model cards give.

None of the references was drawn for this project, and most are automatic themselves (FreeSurfer, AAL, brain extraction,
registered masks, TotalSegmentator): what is measured with them is agreement.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from rwkv_core import Volume, read_volume
from rwkv_core.inference.confidence import LOW

Mask = NDArray[np.bool_]

POOR = 0.6
"""Dice below which a structure should have been warned of."""
FEWEST = 60
"""Voxels of a structure, in the reference or in the answer, that count where confidence is set beside Dice."""


def dice(a: Mask, b: Mask) -> float:
    return float(2 * np.count_nonzero(a & b) / max(np.count_nonzero(a) + np.count_nonzero(b), 1))


def freesurfer_scan(data: Path) -> tuple[Volume, NDArray[np.int64]]:
    """Voxelmorph's test scan, and FreeSurfer's ids (K, J, I)."""
    scan = np.load(data / "validation" / "voxelmorph_test_scan.npz")
    ijk_to_ras = np.eye(4)  # the array runs toward Left, Inferior, Anterior; its voxels are 1 mm
    ijk_to_ras[:3, :3] = [[-1, 0, 0], [0, 0, 1], [0, -1, 0]]
    return Volume(np.ascontiguousarray(scan["vol"].T, np.float32), ijk_to_ras), scan["seg"].T.astype(int)


def patient_files(data: Path) -> Iterator[tuple[str, Path, Path]]:
    """Name, scan and brain mask of each patient of open_ms_data."""
    for mask in sorted((data / "validation").glob("patient*_study1_*_mask.nii.gz")):
        image = mask.with_name(mask.name.replace("_mask", ""))
        yield image.name.removesuffix(".nii.gz").replace("_study1", ""), image, mask


def colin27(data: Path) -> Volume:
    return read_volume(data / "sample" / "ch2.nii.gz")


def colin27_brain(data: Path) -> NDArray[np.float32]:
    """Colin27's intensities in the extracted brain, 0 elsewhere."""
    return read_volume(data / "sample" / "ch2bet.nii.gz").array


def colin27_regions(data: Path) -> NDArray[np.integer]:
    """Numbers of AAL's regions."""
    return read_volume(data / "sample" / "aal.nii.gz").array


def torso_ct(data: Path) -> tuple[Volume, NDArray[np.integer]]:
    """A torso, and TotalSegmentator's labels."""
    folder = data / "prompt" / "validation"
    return read_volume(folder / "ct_torso.nii.gz"), read_volume(folder / "ct_torso_labels.nii.gz").array


def model_arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what the benchmarks of a brain model on these scans take."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scans", default="", help="scans to take, the first letters of each, with commas")
    return parser


def confidence_in_words(pairs: list[tuple[float, float]]) -> str:
    """How confidence (expected Dice) orders Dice, and what share of the poor structures a warning finds."""
    sure, reached = np.array(pairs).T
    poor = reached < POOR
    return (
        f"Confidence and Dice of {len(pairs)} structures: means {sure.mean():.3f} and {reached.mean():.3f}, "
        f"Pearson {pearsonr(sure, reached).statistic:.3f}, Spearman {spearmanr(sure, reached).statistic:.3f}; "
        f"confidence below {LOW}: {np.mean(sure < LOW):.1%} of all, "
        f"{np.mean(sure[poor] < LOW) if poor.any() else float('nan'):.1%} of those with a Dice below {POOR}."
    )
