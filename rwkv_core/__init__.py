"""Segmentation of CT and MR volumes with RWKV-UNet: network, weights, whole volumes. Knows neither Slicer nor Qt.

    import rwkv_core

    segmenter = rwkv_core.Segmenter("default")
    result = segmenter.segment(rwkv_core.read_volume("head.nii.gz"))
    rwkv_core.write_segmentation("head.seg.nrrd", result.labelmap, result.ijk_to_ras, result.classes)

Names are imported when they are first used, so that `import rwkv_core` itself takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rwkv_core.bundle.bundle import Bundle
    from rwkv_core.bundle.config import BundleConfig
    from rwkv_core.bundle.store import load_bundle
    from rwkv_core.engines import make_engine
    from rwkv_core.errors import RWKVUNetError
    from rwkv_core.inference.prompter import Prompter
    from rwkv_core.inference.segmenter import Segmentation, Segmenter
    from rwkv_core.models import build_network
    from rwkv_core.models.published import load_published
    from rwkv_core.spreading.spreading import Spread, spread
    from rwkv_core.vocabulary import Region
    from rwkv_core.volume import Volume, read_volume, write_segmentation, write_volume

__version__ = "0.1.0"

_HOMES = {
    "rwkv_core.bundle.bundle": ("Bundle",),
    "rwkv_core.bundle.config": ("BundleConfig",),
    "rwkv_core.engines": ("make_engine",),
    "rwkv_core.errors": ("RWKVUNetError",),
    "rwkv_core.models": ("build_network",),
    "rwkv_core.models.published": ("load_published",),
    "rwkv_core.inference.prompter": ("Prompter",),
    "rwkv_core.inference.segmenter": ("Segmentation", "Segmenter"),
    "rwkv_core.bundle.store": ("load_bundle",),
    "rwkv_core.spreading.spreading": ("Spread", "spread"),
    "rwkv_core.vocabulary": ("Region",),
    "rwkv_core.volume": ("Volume", "read_volume", "write_segmentation", "write_volume"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Bundle",
    "BundleConfig",
    "Prompter",
    "RWKVUNetError",
    "Region",
    "Segmentation",
    "Segmenter",
    "Spread",
    "Volume",
    "build_network",
    "load_bundle",
    "load_published",
    "make_engine",
    "read_volume",
    "spread",
    "write_segmentation",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
