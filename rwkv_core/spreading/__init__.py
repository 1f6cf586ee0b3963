"""From a few corrected slices to the whole structure, in seconds, without a network.

- ``spreading``: `spread`, which puts it all together.
- ``features``: what voxels look like.
- ``shapes``: signed distances interpolated between the slices.
- ``classifier``: a small network that learns in a tenth of a second.
- ``standing``: the answer that stood before the corrections.
"""

from rwkv_core.spreading.features import VolumeFeatures, volume_features
from rwkv_core.spreading.spreading import Spread, spread

__all__ = ["Spread", "VolumeFeatures", "spread", "volume_features"]
