"""How good the network is on the validation cases: Dice per case and class on the network's own grid.

A volumetric network is given whole cases, by the sliding window that segmentation uses.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rwkv_core.bundle.config import Patches
from rwkv_core.errors import CancelledError
from rwkv_core.inference.sliding_window import blended_planes
from rwkv_core.training.losses import SegmentationLoss
from rwkv_core.training.slice_cache import SliceCache

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class Preview:
    """One validation slice: image (C, H, W), label and prediction (H, W), channel numbers."""

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


@dataclass(frozen=True)
class Validation:
    """Figures over the validation cases.

    Attributes:
        loss: mean over slices.
        dice: per class, mean over the cases that show it or claim to; NaN where no case does.
        mean_dice: mean of these.
        preview: the slice that shows most classes; of several, the first, or in a volume the one nearest its middle;
            the same one every time.
    """

    loss: float
    dice: list[float]
    mean_dice: float
    preview: Preview | None


def validate(
    fabric: "Fabric",
    network: nn.Module,
    loss: SegmentationLoss,
    cache: SliceCache,
    num_classes: int,
    batch: int,
    stop: Callable[[], bool] = lambda: False,
    blocks: Patches | None = None,
) -> Validation | None:
    """Run the validation cases, shared among the processes; the network is left in training mode.

    Slices keep their own size: nothing is cropped.

    Args:
        network: not wrapped: the forward pass of a wrapped one would wait for other processes.
        num_classes: background included.
        batch: slices at once, of one size; or blocks.
        stop: asked between batches on a single process; None is the answer when it said so.
        blocks: how a volumetric network is given its volumes.
    """
    indices = cache.of_split("validation")
    cases = list(dict.fromkeys(cache.slices[n].case for n in indices))
    mine = set(cases[fabric.global_rank :: fabric.world_size])
    counts = torch.zeros(len(cases), num_classes - 1, 3, dtype=torch.float64, device=_exact_device(fabric))
    sums = torch.zeros(2, dtype=torch.float64, device=counts.device)
    number_of = {case: n for n, case in enumerate(cases)}
    preview = None

    def forward(image: Tensor) -> Tensor:
        if stop():
            raise CancelledError
        with fabric.autocast():
            logits: Tensor = network(image)
        return logits

    network.eval()
    try:
        with torch.inference_mode():
            if blocks is None:
                shown = max(indices, key=lambda n: (len(cache.slices[n].classes), -n)) if indices else -1
                wanted = [n for n in indices if cache.slices[n].case in mine or n == shown]
                passed = _slices(cache, wanted, batch, forward, fabric.device)
            else:
                volumes = [indices for indices in cache.volumes("validation") if cache.slices[indices[0]].case in mine]
                shown = _most_telling(cache, volumes)
                passed = _volumes(cache, volumes, blocks, batch, forward, fabric.device)
            for chunk, logits in passed:
                label = torch.from_numpy(np.stack([cache.label(n) for n in chunk])).to(logits.device).long()
                predicted = logits.argmax(1)
                for position, n in enumerate(chunk):
                    if n == shown:
                        seen = predicted[position].cpu().numpy().astype(np.uint8)
                        preview = Preview(cache.image(n).copy(), cache.label(n).copy(), seen)
                    if cache.slices[n].case not in mine:
                        continue
                    found = _counts(predicted[position], label[position], num_classes)
                    counts[number_of[cache.slices[n].case]] += found.to(counts.device)
                    sums += torch.tensor(
                        [loss(logits[position : position + 1], label[position : position + 1]).total.item(), 1.0],
                        dtype=torch.float64,
                        device=sums.device,
                    )
    except CancelledError:
        return None
    finally:
        network.train()
    if fabric.world_size > 1:
        torch.distributed.all_reduce(counts)
        torch.distributed.all_reduce(sums)
    overlap, truth, claimed = counts.cpu().numpy().transpose(2, 0, 1)  # each (cases, classes)
    both = truth + claimed
    per_case = np.where(both > 0, 2 * overlap / np.maximum(both, 1), np.nan)
    dice = [float(np.nanmean(column)) if np.isfinite(column).any() else float("nan") for column in per_case.T]
    finite = [value for value in dice if np.isfinite(value)]
    total, slices = sums.tolist()
    return Validation(total / max(slices, 1), dice, float(np.mean(finite)) if finite else 0.0, preview)


def _slices(
    cache: SliceCache, indices: list[int], batch: int, network: Callable[[Tensor], Tensor], device: torch.device
) -> Iterator[tuple[list[int], Tensor]]:
    """Give some slices with their logits (B, classes, H, W), time after time."""
    for chunk in _batches(cache, indices, batch):
        yield chunk, network(torch.from_numpy(np.stack([cache.image(n) for n in chunk])).to(device))


def _volumes(
    cache: SliceCache,
    volumes: list[list[int]],
    blocks: Patches,
    batch: int,
    network: Callable[[Tensor], Tensor],
    device: torch.device,
) -> Iterator[tuple[list[int], Tensor]]:
    """List every plane with its logits (1, classes, H, W)."""
    for volume in volumes:
        grid = np.stack([cache.image(n)[0] for n in volume]).astype(np.float32)
        padding = cache.slices[volume[0]].padding
        for plane, logits in blended_planes(
            grid, blocks, lambda block: network(torch.from_numpy(block).to(device)), padding, batch
        ):
            yield [volume[plane]], torch.from_numpy(logits)[None]


def _most_telling(cache: SliceCache, volumes: list[list[int]]) -> int:
    """Give the plane that shows most classes, nearest to the middle of its case; -1 where there is none."""
    ranked = [
        (len(cache.slices[n].classes), -abs(place - len(volume) // 2), -n)
        for volume in volumes
        for place, n in enumerate(volume)
    ]
    return -max(ranked)[2] if ranked else -1


def _batches(cache: SliceCache, indices: list[int], batch: int) -> list[list[int]]:
    """Neighbours of one size together."""
    found = []
    for _, group in groupby(indices, key=lambda n: cache.slices[n].shape):
        members = list(group)
        found += [members[i : i + batch] for i in range(0, len(members), batch)]
    return found


def _counts(predicted: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """(classes - 1, 3): pixels in both, in the label, in the prediction."""
    both = torch.bincount(label[predicted == label], minlength=num_classes)
    truth = torch.bincount(label.flatten(), minlength=num_classes)
    claimed = torch.bincount(predicted.flatten(), minlength=num_classes)
    counts = torch.stack([both, truth, claimed], 1)[1:]
    return counts.cpu().double() if counts.device.type == "mps" else counts.double()  # no float64 there


def _exact_device(fabric: "Fabric") -> torch.device:
    return torch.device("cpu") if fabric.device.type == "mps" else fabric.device
