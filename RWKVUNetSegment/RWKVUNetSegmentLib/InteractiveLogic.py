"""What the section Interactive does, for the panel and for the Python console.

interactive = slicer.util.getModuleLogic("RWKVUNetSegment").interactive
"""

from typing import Any

from RWKVUNetSegmentLib.PreviewLogic import PreviewLogic
from RWKVUNetSegmentLib.VolumeOfWorker import VolumeOfWorker


class InteractiveLogic:
    """The interactive logics, over one worker.

    Args:
        segmentation: `SegmentationLogic`.
        models: `ModelsLogic`.

    Attributes:
        preview: `PreviewLogic`.
    """

    def __init__(self, segmentation: Any, models: Any):
        self.volume = VolumeOfWorker(segmentation.client)
        self.preview = PreviewLogic(segmentation, self.volume)

    def cleanup(self) -> None:
        """Module reload or quit. Before the worker is ended."""
        self.preview.cleanup()
