"""A labelmap into a segmentation node, with respect for what is there.

- Segments of the same class (terminology, else name) are updated in place and keep their ids, names and colours if the
  user changed them; all others stay as they are.
- The masking of every segment editor that has the node open is obeyed: editable area and intensity range.
- A segment whose status is "Completed" is locked: it neither gains nor loses a voxel. (Slicer has no other lock.)
- Other segments lose voxels only if the overwrite mode of this module's own editor node says so; it starts as "none".
- The state before is saved for undo, in the history of the editors that have the node open, else in one of our own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rwkv_core.worker.protocol import Box, ClassEntry, Slices


@dataclass(frozen=True, eq=False)
class LabelledPart:
    """Labels for a volume or a part of it, as the worker sends them.

    Attributes:
        labelmap: (K, J, I) of the box, or only `slices` of it, one after another.
        box: where in the volume; every end filled in.
        slices: None when the labelmap fills the box.
        classes: what the values mean.
    """

    labelmap: np.ndarray
    box: Box
    classes: Sequence[ClassEntry]
    slices: Slices | None = None


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        segmentIDs: by label value.
        warnings: sentences about what was left as it was, and why.
    """

    segmentIDs: dict[int, str]
    warnings: tuple[str, ...] = ()


class SegmentationWriter:
    """Writes results into segmentation nodes of `slicer.mrmlScene`."""

    def addEditor(self, editorWidget: Any) -> None:
        """Save undo states in this qMRMLSegmentEditorWidget, too, when it has the node open that is written to."""
        raise NotImplementedError

    def editorNode(self) -> Any:
        """This module's vtkMRMLSegmentEditorNode, for an embedded editor; made when there is none, overwrite mode none."""
        raise NotImplementedError

    def newNode(self, volume: Any) -> Any:
        """A segmentation node named "<volume> segmentation", in the volume's transform and subject hierarchy folder."""
        raise NotImplementedError

    def write(self, node: Any, volume: Any, part: LabelledPart) -> Written:
        """Write labels; voxels outside the part keep theirs. One undo step.

        Raises:
            InputError: when the node cannot take them, with the reason; it is then unchanged.
        """
        raise NotImplementedError

    def writeSlice(self, node: Any, volume: Any, part: LabelledPart) -> Written:
        """As `write` for a few slices of a node that was written to before, in place and in milliseconds: a preview.

        No undo state is saved (`saveStateForUndo` before the first one), and what lies around is not looked at.
        """
        raise NotImplementedError

    def saveStateForUndo(self, node: Any) -> None:
        raise NotImplementedError

    def canUndo(self, node: Any) -> bool:
        """Whether `undo` has a state of this node; false when an open editor has it: then undo there."""
        raise NotImplementedError

    def undo(self, node: Any) -> None:
        """Bring back the state before the last write."""
        raise NotImplementedError

    def show3D(self, node: Any, shown: bool = True) -> None:
        """Show or hide the segments' surfaces in 3-D views."""
        raise NotImplementedError
