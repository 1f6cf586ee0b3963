"""Pictures of a segmentation, for a look without a viewer."""

from rwkv_core.rendering.figure import save_figure

__all__ = ["save_figure"]
