"""A network learns to name more: the head grows a channel for every new class."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwkv_core.bundle.config import BundleConfig
from rwkv_core.errors import InputError
from rwkv_core.models import RWKVUNet
from rwkv_core.vocabulary import SegmentClass

_NEGATIVE_BIAS = -4.0
"""A new class begins as improbable everywhere."""

_PIXELS = 40_000
"""Pixels that the first guess at a new class is fitted to."""


def grown_config(config: BundleConfig, new_classes: Sequence[SegmentClass]) -> BundleConfig:
    """`config` with more classes, behind those that it has.

    Raises:
        InputError: when a value or a name is taken.
    """
    for new in new_classes:
        for old in config.classes:
            if new.value == old.value or new.name == old.name:
                what = f"value {new.value}" if new.value == old.value else f"name {new.name!r}"
                raise InputError(f"The {what} of a new class is taken by {old.name} ({old.value}).")
    fields = config.model_dump()
    fields["classes"] = (*config.classes, *new_classes)
    return BundleConfig.model_validate(fields)


def grown_network(network: RWKVUNet, extra: int) -> RWKVUNet:
    """A copy of `network` with `extra` more output channels; the logits of the old channels are the same."""
    grown = copy.deepcopy(network)
    if not extra:
        return grown
    old = grown.final_conv
    assert old.bias is not None
    head = nn.Conv2d(old.in_channels, old.out_channels + extra, 1)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[: old.out_channels] = old.weight
        head.bias.fill_(_NEGATIVE_BIAS)  # type: ignore[union-attr]
        head.bias[: old.out_channels] = old.bias  # type: ignore[index]
    grown.final_conv = head.to(old.weight.device)
    grown.num_classes = head.out_channels
    return grown


def fit_new_channels(network: RWKVUNet, extra: int, images: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """Set the last `extra` rows of the head by multinomial logistic regression, the other rows held as they are.

    Args:
        network: already grown; changed in place.
        extra: number of new channels, the last ones.
        images: (1, 1, H, W) each, network input.
        targets: (1, H, W) each, int64 channel of every pixel, negative where it is not known.
    """
    if not extra:
        return
    features, labels = _pixels(network, images, targets)
    known = network.num_classes - extra
    # Every new class counts as much as all the rest: a small structure must not drown.
    share = torch.bincount(labels.clamp_min(known - 1) - (known - 1), minlength=1 + extra).float()
    weight = (1 / share.clamp_min(1))[labels.clamp_min(known - 1) - (known - 1)]
    weight = weight / weight.sum()
    head = network.final_conv
    assert head.bias is not None
    with torch.no_grad():
        fixed = F.linear(features, head.weight[:known, :, 0, 0], head.bias[:known])
    scale = features.std(0).clamp_min(1e-4)
    rows = torch.zeros(extra, features.shape[1], requires_grad=True)
    bias = torch.full((extra,), _NEGATIVE_BIAS, requires_grad=True)
    optimizer = torch.optim.LBFGS([rows, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = torch.cat([fixed, F.linear(features / scale, rows, bias)], 1)
        loss = (F.cross_entropy(logits, labels, reduction="none") * weight).sum() + 1e-4 * rows.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        head.weight[known:, :, 0, 0] = rows / scale
        head.bias[known:] = bias


def _pixels(network: RWKVUNet, images: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features before the head (N, C) and channels (N,) of some known pixels, the rare classes' all kept."""
    caught: list[Tensor] = []
    hook = network.final_conv.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].float()))
    features, labels = [], []
    try:
        with torch.no_grad():
            for image, target in zip(images, targets, strict=True):
                network(image)
                known = target[0] >= 0
                features.append(caught.pop()[0][:, known].T)
                labels.append(target[0][known])
    finally:
        hook.remove()
    x, y = torch.cat(features), torch.cat(labels)
    if len(y) > _PIXELS:
        counts = torch.bincount(y, minlength=network.num_classes).float()
        chance = counts.clamp_min(1).rsqrt()[y]
        pick = torch.multinomial(chance, _PIXELS, generator=torch.Generator().manual_seed(0))
        x, y = x[pick], y[pick]
    return x, y
