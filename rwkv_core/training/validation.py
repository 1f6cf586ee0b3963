"""How good the network is on the validation slices: Dice per case and class on the network's own grid."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from rwkv_core.training.losses import SegmentationLoss
from rwkv_core.training.slice_cache import SliceCache


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
        preview: the slice that shows most classes; the same one every time.
    """

    loss: float
    dice: list[float]
    mean_dice: float
    preview: Preview | None


def validate(
    fabric: Fabric,
    network: nn.Module,
    loss: SegmentationLoss,
    cache: SliceCache,
    num_classes: int,
    batch: int,
    stop: Callable[[], bool] = lambda: False,
) -> Validation | None:
    """Run the validation slices, shared among the processes; the network is left in training mode.

    Slices keep their own size: nothing is cropped.

    Args:
        network: not wrapped: the forward pass of a wrapped one would wait for other processes.
        num_classes: background included.
        batch: slices at once, of one size.
        stop: asked between batches on a single process; None is the answer when it said so.
    """
    indices = cache.of_split("validation")
    cases = list(dict.fromkeys(cache.slices[n].case for n in indices))
    mine = set(cases[fabric.global_rank :: fabric.world_size])
    counts = torch.zeros(len(cases), num_classes - 1, 3, dtype=torch.float64, device=_exact_device(fabric))
    sums = torch.zeros(2, dtype=torch.float64, device=counts.device)
    number_of = {case: n for n, case in enumerate(cases)}
    shown = max(indices, key=lambda n: (len(cache.slices[n].classes), -n)) if indices else -1
    preview = None
    network.eval()
    with torch.inference_mode():
        for chunk in _batches(cache, [n for n in indices if cache.slices[n].case in mine or n == shown], batch):
            if stop():
                network.train()
                return None
            image = torch.from_numpy(np.stack([cache.image(n) for n in chunk])).to(fabric.device)
            label = torch.from_numpy(np.stack([cache.label(n) for n in chunk])).to(fabric.device).long()
            with fabric.autocast():
                logits = network(image)
            predicted = logits.argmax(1)
            for position, n in enumerate(chunk):
                if n == shown:
                    preview = Preview(
                        cache.image(n).copy(), cache.label(n).copy(), predicted[position].cpu().numpy().astype(np.uint8)
                    )
                if cache.slices[n].case not in mine:
                    continue
                counts[number_of[cache.slices[n].case]] += _counts(predicted[position], label[position], num_classes)
                sums += torch.tensor(
                    [loss(logits[position : position + 1], label[position : position + 1]).total.item(), 1.0],
                    dtype=torch.float64,
                    device=sums.device,
                )
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


def _exact_device(fabric: Fabric) -> torch.device:
    return torch.device("cpu") if fabric.device.type == "mps" else fabric.device
