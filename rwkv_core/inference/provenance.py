"""What made a result: a JSON file beside it, with all that is needed to make it again, and nothing personal."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkv_core import __version__
from rwkv_core.files import replacing, sha256_of
from rwkv_core.vocabulary import Region, SegmentOptions
from rwkv_core.volume import Volume, orientation_code
from rwkv_core.volume.dicom import frames_of

if TYPE_CHECKING:
    from rwkv_core.bundle.bundle import Bundle
    from rwkv_core.inference.model_chain import ModelChain
    from rwkv_core.inference.segmenter import Segmentation, Segmenter


def provenance_path(target: Path) -> Path:
    """Say where the record of a result lies: its own name and .json."""
    return target.with_name(f"{target.name}.json")


def write_provenance(
    target: Path,
    source: Path,
    volume: Volume,
    segmenter: "Segmenter | ModelChain",
    result: "Segmentation",
    options: SegmentOptions,
    region: Region | None,
) -> Path:
    """Write the record of a result; returns its path.

    Raises:
        StorageError: when it cannot be written.
    """
    models = [
        {"id": each.bundle.config.id, "title": each.bundle.config.title, "sha256": weights_sha256(each.bundle)}
        for each in segmenter.segmenters
    ]
    record: dict[str, Any] = {
        "program": f"RWKV-UNet Segment {__version__}",
        "note": "For research, not for diagnosis.",
        "model": models[0],
        "then": models[1:],
        "options": asdict(options)
        | {"model": models[0]["id"], "then": [each["id"] for each in models[1:]]}
        | {"region": None if region is None else asdict(region)},
        "device": str(segmenter.engine.device),
        "engine": segmenter.engine.name,
        "input": {
            "name": source.name,
            "sha256": _input_sha256(source),
            "modality": volume.modality,
            "size": list(volume.array.shape[::-1]),
            "spacing_mm": list(volume.spacing),
            "orientation": orientation_code(volume.ijk_to_ras),
            "ijk_to_ras": volume.ijk_to_ras.tolist(),
        },
        "slices": result.slices,
        "slice_orientation": result.orientation,
        "classes": {str(segment_class.value): segment_class.name for segment_class in result.classes},
        "volumes": [asdict(row) for row in result.volumes],
        "warnings": list(result.warnings),
        "seconds": {stage: round(seconds, 3) for stage, seconds in result.timings.items()},
    }
    path = provenance_path(target)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def weights_sha256(bundle: "Bundle") -> str:
    """Give the SHA-256 of the model's weights, in hexadecimal; empty for a model that lies on no disk."""
    path = bundle.weights_file
    return _known_sha256(path, path.stat().st_mtime_ns) if path.is_file() else ""


@lru_cache(maxsize=8)
def _known_sha256(path: Path, changed: int) -> str:
    return sha256_of(path)


def _input_sha256(source: Path) -> str:
    """Give that of a file, or of all files of a DICOM series in the order of their slices."""
    if source.is_file():
        return sha256_of(source)
    return _joint_sha256(dict.fromkeys(frame.path for frame in frames_of(source)))


def _joint_sha256(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
