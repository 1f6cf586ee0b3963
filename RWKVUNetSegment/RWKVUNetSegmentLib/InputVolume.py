"""A volume node as the worker takes it: array, geometry, modality; and why one cannot be taken."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class InputVolume:
    """A volume node's content.

    Attributes:
        array: (K, J, I), a view of the node's voxels.
        ijkToRAS: 4 x 4, the volume's own geometry, without its parent transform.
        ijkToWorld: 4 x 4, with its parent transform: where the patient lies.
        name: the node's.
        modality: "CT", "MR" and so on as in DICOM; empty when it is not known.
    """

    array: np.ndarray
    ijkToRAS: np.ndarray
    ijkToWorld: np.ndarray
    name: str
    modality: str

    @classmethod
    def fromNode(cls, node: Any) -> "InputVolume":
        """Read a node.

        Raises:
            InputError: with the reason of `isValid`.
        """
        raise NotImplementedError


def isValid(node: Any) -> tuple[bool, str]:
    """Whether a node can be segmented, and else a sentence that says why not. Takes no time."""
    raise NotImplementedError


def modalityOf(node: Any) -> str:
    """The DICOM modality of a volume node: of its series, else by its unit (HU is CT); empty when it is not known."""
    raise NotImplementedError
