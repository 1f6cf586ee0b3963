"""A volume's axes in a radiologist's words: axial, coronal, sagittal."""

import enum
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _


class SliceDirection(enum.Enum):
    """How slices lie in the patient; oblique ones count as what they are nearest to."""

    AXIAL = "SI"
    CORONAL = "AP"
    SAGITTAL = "RL"

    def label(self) -> str:
        return {
            SliceDirection.AXIAL: _("Axial"),
            SliceDirection.CORONAL: _("Coronal"),
            SliceDirection.SAGITTAL: _("Sagittal"),
        }[self]


def axisOf(volume: Any, direction: SliceDirection) -> tuple[str, int]:
    """Find the axis ("I", "J" or "K") along which slices of this direction are stacked, and how many there are.

    The volume's own axes count, without its parent transform.
    """
    from rwkv_core.volume.geometry import orientation_code  # brings SimpleITK, which nobody needs at start-up

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    code = orientation_code(slicer.util.arrayFromVTKMatrix(matrix))
    index = next(i for i, letter in enumerate(code) if letter in direction.value)
    dimensions = volume.GetImageData().GetDimensions() if volume.GetImageData() else (0, 0, 0)
    return "IJK"[index], dimensions[index]
