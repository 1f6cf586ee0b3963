"""vtkMatrix4x4 to numpy and back."""

from typing import Any

import numpy as np
import vtk


def toNumpy(matrix: Any) -> np.ndarray:
    """4 x 4 float64 of a vtkMatrix4x4."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def toVTK(array: np.ndarray) -> Any:
    """vtkMatrix4x4 of a 4 x 4 array."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, dtype=np.float64).ravel().tolist())
    return matrix
