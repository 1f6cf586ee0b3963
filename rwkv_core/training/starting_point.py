"""The network that a run starts with: fresh, from a bundle, or from a published checkpoint."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from rwkv_core.bundle.importing import inspect, read_checkpoint
from rwkv_core.bundle.store import load_bundle
from rwkv_core.errors import BundleError, CheckpointError, Remedy
from rwkv_core.models import Network, build_network
from rwkv_core.models.architectures import TITLES
from rwkv_core.models.published import load_published, unwrap
from rwkv_core.models.rwkv_unet import RWKVUNet
from rwkv_core.training.recipe import CHECKPOINTS
from rwkv_core.vocabulary import SegmentClass


@dataclass(frozen=True)
class StartingPoint:
    """A network in training mode, and where its weights came from, in words."""

    network: Network
    record: str


def starting_point(
    init: str | None,
    variant: str | None,
    classes: tuple[SegmentClass, ...],
    in_channels: int,
    architecture: str | None = None,
) -> StartingPoint:
    """Make the network for these classes.

    Args:
        init: bundle (id or folder), checkpoint (.pth), or None.
        variant: "T", "S", "B", or None for that of `init` ("T" for fresh weights).
        classes: of the data set, in the order of channels.
        in_channels: 1 or 3; weights for one fit the other, since the stem takes three.
        architecture: of fresh weights; None is "rwkv-unet".

    Raises:
        BundleError, CheckpointError: when `init` is missing, damaged, or of another variant.
    """
    if init is None:
        network = build_network(
            architecture or "rwkv-unet", variant=variant or "T", num_classes=1 + len(classes), in_channels=in_channels
        )
        return StartingPoint(network, "random weights")
    if Path(init).suffix in CHECKPOINTS:
        return _from_checkpoint(Path(init), variant, classes, in_channels)
    bundle = load_bundle(init)
    if variant and variant != bundle.config.variant:
        raise BundleError(
            f"{bundle.config.id} is {TITLES[bundle.config.architecture]}-{bundle.config.variant}, and the recipe asks "
            f"for {variant}.",
            hint=f"Choose the variant {bundle.config.variant}, or start from another model.",
            remedy=Remedy("choose variant", bundle.config.variant),
        )
    network = build_network(
        bundle.config.architecture,
        variant=bundle.config.variant,
        num_classes=1 + len(classes),
        in_channels=in_channels,
    )
    if bundle.config.kind == "encoder":
        bundle.load_encoder(network)
        return StartingPoint(network, f"the encoder {bundle.config.id}")
    known = _transplant(bundle.network, network, bundle.config.classes, classes)
    return StartingPoint(network, f"{bundle.config.id}; output kept for: {', '.join(known) or 'background only'}")


def _from_checkpoint(
    path: Path, variant: str | None, classes: tuple[SegmentClass, ...], in_channels: int
) -> StartingPoint:
    tensors = unwrap(read_checkpoint(path))
    contents = inspect(tensors, path)
    if variant and variant != contents.variant:
        raise CheckpointError(
            f"{path} holds {contents}, and the recipe asks for {variant}.",
            hint=f"Choose the variant {contents.variant}, or start from another file.",
            remedy=Remedy("choose variant", contents.variant),
        )
    network = RWKVUNet(contents.variant, 1 + len(classes), in_channels)
    if contents.num_classes is None or contents.num_classes == network.num_classes:
        load_published(network, tensors)
    else:
        published = load_published(RWKVUNet(contents.variant, contents.num_classes, in_channels), tensors)
        _transplant(published, network, (), classes)
    return StartingPoint(network, f"{contents} in {path.name}")


def _transplant(
    source: Network, target: Network, old: tuple[SegmentClass, ...], new: tuple[SegmentClass, ...]
) -> list[str]:
    """Copy all weights but those of the head; of the head, background and the classes of equal names.

    Returns:
        The names of the classes that were kept.
    """
    weights = {name: value for name, value in source.state_dict().items() if not name.startswith("final_conv.")}
    target.load_state_dict(weights, strict=False)
    channel_of = {_key(segment_class.name): n for n, segment_class in enumerate(old, 1)}
    kept = []
    with torch.no_grad():
        for n, name in enumerate([None, *(segment_class.name for segment_class in new)]):
            m = 0 if name is None else channel_of.get(_key(name))
            if m is None:
                continue
            target.final_conv.weight[n] = source.final_conv.weight[m]
            if target.final_conv.bias is not None and source.final_conv.bias is not None:
                target.final_conv.bias[n] = source.final_conv.bias[m]
            if name is not None:
                kept.append(name)
    return kept


def _key(name: str) -> str:
    """ "Left kidney", "left_kidney" and "Left-Kidney" are one class."""
    return re.sub(r"[^\w]+|_", " ", name).casefold().strip()
