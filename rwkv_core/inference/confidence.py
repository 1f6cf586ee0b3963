"""How sure a model was of each structure: the Dice with the truth that its own probabilities let expect.

Were the truth drawn from the probabilities p, a structure labeled in the voxels L would overlap with it in the sum of p
over L, and the truth would hold the sum of p over all voxels. Their Dice follows, without any truth. It is no
calibrated figure, but it orders results: `benchmarks/brain_confidence.py` prints how well.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.config import BundleConfig
from rwkv_core.vocabulary import SegmentClass, StructureVolume

LOW = 0.7
"""Below this, a structure should be looked at."""

_FLUID_ID = 24
"""FreeSurfer's, of the fluid outside the ventricles."""

_NAMED = 4
"""Structures that a warning names."""

_NEXT_TO_NOTHING = 0.01
"""Share of the usual volume."""


class Confidence:
    """Sums over voxels as they are labeled.

    Args:
        channels: how many, background included.
    """

    def __init__(self, channels: int):
        self._sums = np.zeros((3, channels))

    def add(self, probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
        """Count voxels: their probabilities (channels, ...), and the channel that each was given (...)."""
        channels = self._sums.shape[1]
        flat, given = probabilities.reshape(channels, -1), labels.reshape(-1)
        own = np.take_along_axis(flat, given[None].astype(np.intp), 0)[0]
        self._sums[0] += np.bincount(given, weights=own, minlength=channels)
        self._sums[1] += flat.sum(1, dtype=np.float64)
        self._sums[2] += np.bincount(given, minlength=channels)

    def values(self) -> NDArray[np.float64]:
        """Give the expected Dice of each channel, 0 to 1; not a number for what was labeled nowhere."""
        inside, expected, labeled = self._sums
        dice = np.where(labeled > 0, 2 * inside / np.maximum(expected + labeled, 1e-9), np.nan)
        return np.minimum(dice, 1.0)


def low_confidence(volumes: Sequence[StructureVolume]) -> list[str]:
    """Give a sentence about the structures that deserve a look; none where all are sure."""
    unsure = sorted(
        (v for v in volumes if v.confidence is not None and v.confidence < LOW), key=lambda v: v.confidence or 0.0
    )
    if not unsure:
        return []
    named = ", ".join(f"{v.name} ({v.confidence:.2f})" for v in unsure[:_NAMED])
    more = f" and {len(unsure) - _NAMED} more" if len(unsure) > _NAMED else ""
    return [f"The model is unsure of {named}{more}: look at them before using their volumes."]


def too_little(
    volumes: Sequence[StructureVolume], config: BundleConfig, spacing: tuple[float, float, float]
) -> list[str]:
    """Give a sentence about a result that is empty, or next to it, with likely reasons; none where it is not.

    Next to nothing is under a hundredth of what the model's training labels held, of all classes or of single ones.

    Args:
        volumes: of a whole volume's result.
        spacing: of the volume, mm.
    """
    found = {v.value: v.volume_ml for v in volumes if v.value}
    expected = config.typical_ml
    all_found, all_expected = sum(found.values()), sum(expected.values())
    reasons = (
        f"Likely reasons: the volume does not show what this model segments (field of view), it is not "
        f"{'CT in Hounsfield units' if config.modality == 'CT' else config.modality}, its spacing "
        f"({' x '.join(f'{mm:.3g}' for mm in spacing)} mm) is wrong, or extreme values beside the body (padding) "
        f"leave no contrast in it."
    ).replace("it is not any, ", "")
    if not all_found:
        return [f"The result is empty: no voxel was labeled. {reasons}"]
    if all_found < _NEXT_TO_NOTHING * all_expected:
        return [
            f"The result holds next to nothing: {all_found:.2g} ml in all, where about {all_expected:.3g} ml are "
            f"usual. {reasons}"
        ]
    names = {c.value: c.name for c in config.classes}
    missing = [names[value] for value, ml in expected.items() if found.get(value, 0.0) < _NEXT_TO_NOTHING * ml]
    if not missing:
        return []
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return [
        f"Next to nothing was found of {', '.join(missing[:_NAMED])}{more}. Check that they lie in the field of view."
    ]


def structure_volumes(
    counts: NDArray[np.integer],
    voxel_ml: float,
    classes: Sequence[SegmentClass],
    surroundings: Sequence[SegmentClass],
    confidence: NDArray[np.float64],
) -> tuple[StructureVolume, ...]:
    """Give the table of a result: a row for each class, and the intracranial volume where fluid is labeled.

    Args:
        counts: voxels of each label value.
        voxel_ml: volume of a voxel, ml.
        confidence: of each channel, as `Confidence.values`.
    """
    rows = [
        StructureVolume(
            name=c.name,
            value=c.value,
            volume_ml=float(counts[c.value]) * voxel_ml,
            confidence=None if np.isnan(confidence[channel]) else round(float(confidence[channel]), 4),
            voxels=int(counts[c.value]),
        )
        for channel, c in enumerate(classes, 1)
    ]
    if surroundings or any(_FLUID_ID in c.freesurfer for c in classes):
        whole = sum(int(counts[c.value]) for c in (*classes, *surroundings))
        rows.append(
            StructureVolume(name="Intracranial", value=0, volume_ml=whole * voxel_ml, confidence=None, voxels=whole)
        )
    return tuple(rows)
