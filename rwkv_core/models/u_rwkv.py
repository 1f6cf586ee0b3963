"""U-RWKV: a U-shaped volumetric network of TSE-R blocks, after the abstract of Cai et al. 2026.

Only the abstract is public. It gives the TSE-R block's two ideas, which this follows: a spatial shift in three
dimensions, and global mixing by WKV over sequences along three directions that are fused with learnable weights. All
else is this project's own choice, and no claim is made to be the authors' network to the letter:

- spatial shift: a sixth of the channels from each of the six face neighbours, as RWKV-UNet's q-shift takes quarters;
- directions: the same keys and values, read with depth, height or width as the fastest index. BiWKV looks both ways
  along each, so three orders suffice. Each order has its own decay and bonus, divided by the number of tokens as in
  RWKV-UNet, so that one network fits any patch size;
- fusion: per channel, a softmax over the three orders;
- local detail: a depthwise 3x3x3 convolution in every block, as in RWKV-UNet's GLSP block;
- the encoder mixes globally from 1/4 of the resolution on. At 1/2 and at full resolution, where a token is a voxel or
  two, convolutions do, which keeps memory and time linear with a small factor;
- group normalisation behind convolutions, since batches of volumes are small.

Read it top to bottom: `URWKV.forward` names four feature maps of the encoder, then the four steps of the decoder.

Shapes: B batch, C channels, D x H x W voxels. D, H and W are any multiples of 16.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwkv_core.models.architectures import U_RWKV, URWKVSize, check_input
from rwkv_core.ops import bi_wkv_ordered

_GROUPS = 8
_ORDERS = ((2, 3, 4), (3, 4, 2), (4, 2, 3))
"""Axes of (B, C, D, H, W), slowest first: width, depth and height run fastest."""


class URWKV(nn.Module):
    """Encoder of TSE-R blocks, convolutional decoder with skip connections at every resolution.

    Args:
        variant: "T" or "S".
        num_classes: number of output channels, background included.
        in_channels: channels of the volume.
    """

    architecture = "u-rwkv"

    def __init__(self, variant: str, num_classes: int, in_channels: int = 1):
        super().__init__()
        if variant not in U_RWKV:
            raise ValueError(f"unknown variant {variant!r} of u-rwkv; choose from {', '.join(U_RWKV)}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}")
        self.variant, self.num_classes, self.in_channels = variant, num_classes, in_channels
        size = U_RWKV[variant]
        half, quarter, eighth, sixteenth = size.dims
        self.encoder = Encoder(size, in_channels)
        self.decoder1 = DecoderBlock(sixteenth, eighth)
        self.decoder2 = DecoderBlock(eighth, quarter)
        self.decoder3 = DecoderBlock(quarter, half)
        self.decoder4 = DecoderBlock(half, size.stem)
        self.final_conv = nn.Conv3d(size.stem, num_classes, 1)

    def forward(self, volume: Tensor) -> Tensor:
        """Compute logits (B, num_classes, D, H, W) of a volume (B, in_channels, D, H, W).

        Raises:
            ValueError: for another number of channels, or a side that is no multiple of 16.
        """
        check_input(volume.shape, self.in_channels, sides=3)
        full, half, quarter, eighth, sixteenth = self.encoder(volume)
        x = self.decoder1(sixteenth, eighth)
        x = self.decoder2(x, quarter)
        x = self.decoder3(x, half)
        x = self.decoder4(x, full)
        return self.final_conv(x)


class Encoder(nn.Module):
    """Stem at full resolution and four stages, each of which halves the resolution first."""

    def __init__(self, size: URWKVSize, in_channels: int):
        super().__init__()
        self.stem = nn.Sequential(ConvNormAct(in_channels, size.stem, 3), LocalBlock(size.stem))
        widths = (size.stem, *size.dims)
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(
                ConvNormAct(widths[i], widths[i + 1], 3, stride=2),
                *(
                    TSERBlock(widths[i + 1], size.expansion) if i > 0 else LocalBlock(widths[i + 1])
                    for _ in range(size.depths[i])
                ),
            )
            for i in range(4)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Compute the feature maps at 1, 1/2, 1/4, 1/8 and 1/16 of the resolution."""
        full = self.stem(x)
        half = self.stage1(full)
        quarter = self.stage2(half)
        eighth = self.stage3(quarter)
        sixteenth = self.stage4(eighth)
        return full, half, quarter, eighth, sixteenth


class TSERBlock(nn.Module):
    """Tri-directional spatial enhancement RWKV: global mix, local convolution, channel mix; each beside a residual."""

    def __init__(self, width: int, expansion: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.spatial = TriDirectionalMix(width)
        self.local = LocalBlock(width)
        self.norm2 = nn.LayerNorm(width)
        self.channel = ChannelMix(width, expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + _channels_to_front(self.spatial(self.norm1(_channels_to_back(x))))
        x = self.local(x)
        return x + _channels_to_front(self.channel(self.norm2(_channels_to_back(x))))


class TriDirectionalMix(nn.Module):
    """Mix every voxel with its six neighbours, then with all voxels along three orders, gated by itself."""

    def __init__(self, width: int):
        super().__init__()
        self.mix_k = nn.Parameter(torch.full((width,), 0.5))
        self.mix_v = nn.Parameter(torch.full((width,), 0.5))
        self.mix_r = nn.Parameter(torch.full((width,), 0.5))
        self.key = _linear(width, width)
        self.value = _linear(width, width)
        self.receptance = _linear(width, width)
        self.decay = nn.Parameter(_decays(width).expand(len(_ORDERS), width).clone())
        self.first = nn.Parameter(torch.zeros(len(_ORDERS), width))
        self.fusion = nn.Parameter(torch.zeros(len(_ORDERS), width))
        self.norm = nn.LayerNorm(width)
        self.output = _linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Take (B, D, H, W, width) to the same."""
        shifted = spatial_shift(x)
        key = self.key(_mix(shifted, x, self.mix_k))
        value = self.value(_mix(shifted, x, self.mix_v))
        receptance = self.receptance(_mix(shifted, x, self.mix_r))
        shares = self.fusion.softmax(0)  # (orders, width)
        fused = sum(
            share * self._along(order, decay, first, key, value)
            for order, decay, first, share in zip(_ORDERS, self.decay, self.first, shares, strict=True)
        )
        return self.output(torch.sigmoid(receptance) * self.norm(fused))

    @staticmethod
    def _along(order: Sequence[int], decay: Tensor, first: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """BiWKV over the voxels in this order; all tensors channels last, result likewise."""
        tokens = key.shape[1] * key.shape[2] * key.shape[3]
        order = [axis - 1 for axis in order]  # it counts axes with the channels in front
        return bi_wkv_ordered(decay / tokens, first / tokens, key, value, order)


class ChannelMix(nn.Module):
    """RWKV's feed-forward part: spatial shift, squared ReLU over a larger width, gated."""

    def __init__(self, width: int, expansion: int):
        super().__init__()
        self.mix_k = nn.Parameter(torch.full((width,), 0.5))
        self.mix_r = nn.Parameter(torch.full((width,), 0.5))
        self.key = _linear(width, expansion * width)
        self.receptance = _linear(width, width)
        self.value = _linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Take (B, D, H, W, width) to the same."""
        shifted = spatial_shift(x)
        key = torch.relu(self.key(_mix(shifted, x, self.mix_k))).square()
        return torch.sigmoid(self.receptance(_mix(shifted, x, self.mix_r))) * self.value(key)


class LocalBlock(nn.Module):
    """Depthwise 3x3x3, twice the width and back, beside a residual."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = ConvNormAct(width, width, 3, groups=width, act=False)
        self.expand = nn.Conv3d(width, 2 * width, 1)
        self.project = nn.Conv3d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.silu(self.expand(self.depthwise(x))))


class DecoderBlock(nn.Module):
    """Narrow, twice the resolution, add the skip connection, mix locally."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.narrow = nn.Conv3d(width, out, 1)
        self.skip = nn.Conv3d(out, out, 1)
        self.conv = ConvNormAct(out, out, 3)
        self.local = LocalBlock(out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(self.narrow(x), scale_factor=2, mode="trilinear", align_corners=False)
        return self.local(self.conv(x + self.skip(skip)))


class ConvNormAct(nn.Module):
    """Convolution without bias, group normalisation, SiLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
    ):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, out_channels)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


def spatial_shift(x: Tensor) -> Tensor:
    """Move each sixth of the channels by one voxel, toward both ends of width, height and depth; zeros move in.

    (B, D, H, W, C) to the same; channels beyond six equal sixths stay where they are.
    """
    sixth = x.shape[4] // 6
    *parts, rest = x.split([sixth] * 6 + [x.shape[4] - 6 * sixth], dim=4)
    moved = []
    for i, part in enumerate(parts):
        axis = 3 - i // 2
        length = part.shape[axis]
        pad = [0, 0] * (4 - axis) + ([1, 0] if i % 2 == 0 else [0, 1])
        kept = part.narrow(axis, 0, length - 1) if i % 2 == 0 else part.narrow(axis, 1, length - 1)
        moved.append(F.pad(kept, pad))
    return torch.cat([*moved, rest], dim=4)


def _decays(width: int) -> Tensor:
    """Log-weight lost over the whole sequence, from none (all voxels alike) to near-sighted, over the channels."""
    return torch.linspace(0, 1, width) ** 2 * 30


def _mix(shifted: Tensor, x: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(shifted, x, share.to(x.dtype))


def _linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features, bias=False)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    return linear


def _channels_to_back(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 4, 1)  # (B, C, D, H, W) -> (B, D, H, W, C)


def _channels_to_front(x: Tensor) -> Tensor:
    return x.permute(0, 4, 1, 2, 3)  # (B, D, H, W, C) -> (B, C, D, H, W)
