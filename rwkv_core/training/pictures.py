"""Pictures of a run: curve.png and preview.png, and samples.png of the promptable model's."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rwkv_core.files import replacing

if TYPE_CHECKING:
    from rwkv_core.training.prompt.samples import Sample

_HEIGHT = 320
_OPACITY = 0.45
_COLUMNS = 4


def draw_curve(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Draw losses on the left, validation Dice on the right, over epochs.

    Args:
        path: of the .png.
        rows: as in metrics.csv.
        title: of the figure.

    Raises:
        StorageError: when the file cannot be written.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    for name, label in (("loss", "training"), ("validation_loss", "validation")):
        if any(row.get(name) is not None for row in rows):
            left.plot(epochs, [_number(row.get(name)) for row in rows], marker=".", label=label)
    classes = [name for name in rows[-1] if name.startswith("dice_")] if rows else []
    for name in classes[:20]:
        values = [_number(row.get(name)) for row in rows]
        right.plot(epochs, values, linewidth=0.8, alpha=0.6, label=name.removeprefix("dice_"))
    if any(row.get("validation_dice") is not None for row in rows):
        right.plot(epochs, [_number(row.get("validation_dice")) for row in rows], "k.-", label="mean")
    left.set(xlabel="epoch", title="Loss")
    right.set(xlabel="epoch", title="Validation Dice", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7, ncols=2)
    figure.suptitle(title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


def draw_preview(
    path: Path,
    image: NDArray[np.float32],
    label: NDArray[np.integer[Any]],
    prediction: NDArray[np.integer[Any]],
    colors: Sequence[tuple[int, int, int]],
) -> None:
    """Give the slice with its label (left) and with the prediction (right) as coloured areas.

    Args:
        path: of the .png.
        image: (C, H, W).
        label, prediction: (H, W) channel numbers.
        colors: of channels 1, 2, ...

    Raises:
        StorageError: when the file cannot be written.
    """
    low, high = float(image.min()), float(image.max())
    grey = np.moveaxis((image - low) / max(high - low, 1e-6) * 255, 0, 2)
    base = np.repeat(grey, 3, 2) if grey.shape[2] == 1 else grey
    palette = np.array([(0, 0, 0), *colors], np.float32)
    panels = []
    for areas in (label, prediction):
        drawn = np.where(areas[..., None] > 0, (1 - _OPACITY) * base + _OPACITY * palette[areas], base)
        panels.append(drawn.astype(np.uint8))
    picture = Image.fromarray(np.concatenate(panels, 1))
    factor = max(1, round(_HEIGHT / picture.height))
    with replacing(path) as temporary:
        picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST).save(temporary)


def draw_samples(path: Path, sample: "Sample", maps: Tensor) -> None:
    """Draw each sample beside the same with target (green), neighbour (blue) and prompts (+ red, - yellow), and maps.

    Args:
        path: of the .png.
        sample: generated images with their targets.
        maps: (B, 12, H, W) of the network, made from these.

    Raises:
        StorageError: when the file cannot be written.
    """
    image = maps[:, 0]
    plain = torch.stack([image] * 3, -1)
    marked = plain.clone()
    for mask, color in (
        (_border(sample.neighbour), (0.2, 0.4, 1.0)),
        (_border(sample.target), (0.0, 0.9, 0.0)),
        (_border(maps[:, 5] > 0), (0.0, 0.9, 0.9)),
        (maps[:, 3] > 0, (1.0, 0.0, 0.0)),
        (maps[:, 4] > 0, (1.0, 0.9, 0.0)),
    ):
        marked[mask] = torch.tensor(color, device=image.device)
    flood = torch.stack([maps[:, 8], maps[:, 1], maps[:, 10]], -1)
    cells = F.pad(torch.cat([plain, marked, flood], 2), (0, 0, 2, 2, 2, 2))
    rows = -(-len(cells) // _COLUMNS)
    empty = torch.zeros((rows * _COLUMNS - len(cells), *cells.shape[1:]), device=cells.device)
    cells = torch.cat([cells, empty]).unflatten(0, (rows, _COLUMNS)).permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    with replacing(path) as temporary:
        Image.fromarray((cells.clamp(0, 1) * 255).byte().cpu().numpy()).save(temporary)


def _border(mask: Tensor) -> Tensor:
    inner = -F.max_pool2d(-mask[:, None].float(), 3, 1, 1)[:, 0] > 0
    return mask & ~inner


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
