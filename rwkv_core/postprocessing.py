"""Cleaning a labelmap after the network: what slices that do not know of each other get wrong."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def remove_islands(labelmap: NDArray[np.unsignedinteger]) -> int:
    """Keep the largest connected part of all labels together, and set the rest to background, in place.

    For structures that belong together, like those of one brain: a part away from them all is a false finding. Voxels
    are connected through their faces.

    Args:
        labelmap: (K, J, I), 0 is background.

    Returns:
        The number of voxels removed.
    """
    parts, count = ndimage.label(labelmap)
    if count < 2:
        return 0
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    islands = (parts > 0) & (parts != sizes.argmax())
    labelmap[islands] = 0
    return int(np.count_nonzero(islands))
