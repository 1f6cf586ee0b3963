"""RWKV-UNet: a U-shaped segmentation network with RWKV spatial mixing (Jiang et al. 2025, arXiv 2501.08458).

Read it top to bottom: `RWKVUNet.forward` first names the five feature maps of the encoder, then the cross-channel mix
(CCM) of the skip connections, then the four blocks of the decoder. The published sizes are the rows of `RWKV_UNET` in
`rwkv_core.models.architectures`. Module names are those of the published checkpoints, whose parameters load by name.

Where the paper and its published checkpoints differ, this follows the checkpoints: the norms `ln1` stand behind the
mix (the paper's equation 3 writes them in front), and every BatchNorm has eps 1e-6.

Shapes: B batch, C channels, H x W pixels; "tokens" are the pixels in row-major order. H and W are any multiples of 16.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwkv_core.models.architectures import RWKV_UNET, RWKVUNetSize, check_input
from rwkv_core.ops import bi_wkv

_BATCH_NORM_EPS = 1e-6
_CHANNEL_NORM_EPS = 1e-6


class RWKVUNet(nn.Module):
    """Encoder of GLSP blocks, CCM on the skip connections, convolutional decoder.

    Args:
        variant: "T", "S" or "B".
        num_classes: number of output channels, background included.
        in_channels: 1 (grey-scale, repeated to the three channels of the stem), 3, or more, as a promptable model has.
    """

    architecture = "rwkv-unet"

    def __init__(self, variant: str, num_classes: int, in_channels: int = 1):
        super().__init__()
        if variant not in RWKV_UNET:
            raise ValueError(f"unknown variant {variant!r} of rwkv-unet; choose from {', '.join(RWKV_UNET)}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if in_channels != 1 and in_channels < 3:
            raise ValueError(f"in_channels must be 1, 3 or more, got {in_channels}")
        self.variant, self.num_classes, self.in_channels = variant, num_classes, in_channels
        size = RWKV_UNET[variant]
        half, quarter, eighth, sixteenth = size.dims
        self.encoder = Encoder(size, max(in_channels, 3))
        self.ccm = CrossChannelMix((eighth, quarter, half), size.drop_path)
        self.decoder1 = DecoderBlock(sixteenth, eighth)
        self.decoder2 = DecoderBlock(2 * eighth, quarter)
        self.decoder3 = DecoderBlock(2 * quarter, half)
        self.decoder4 = DecoderBlock(2 * half, size.last)
        self.final_conv = nn.Conv2d(size.last, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Compute logits (B, num_classes, H, W) of an image (B, in_channels, H, W).

        Raises:
            ValueError: for another number of channels, or H or W that is no multiple of 16.
        """
        check_input(image.shape, self.in_channels, sides=2)
        if self.in_channels == 1:
            image = image.expand(-1, 3, -1, -1)
        return self.decode(*self.encoder(image))

    def decode(self, half: Tensor, quarter: Tensor, eighth: Tensor, sixteenth: Tensor) -> Tensor:
        """Compute logits (B, num_classes, H, W) of the encoder's feature maps, at 1/2, 1/4, 1/8 and 1/16 of H x W."""
        eighth, quarter, half = self.ccm(eighth, quarter, half)
        x = self.decoder1(sixteenth)
        x = self.decoder2(torch.cat([x, eighth], dim=1))
        x = self.decoder3(torch.cat([x, quarter], dim=1))
        x = self.decoder4(torch.cat([x, half], dim=1))
        return self.final_conv(x)


class Encoder(nn.Module):
    """Stem (full resolution) and stages I to IV, each of which halves the resolution in its first block."""

    def __init__(self, size: RWKVUNetSize, in_channels: int):
        super().__init__()
        rates = torch.linspace(0, size.drop_path, sum(size.depths)).tolist()
        widths = (size.stem, *size.dims)
        self.stage0 = nn.Sequential(StemBlock(in_channels, size.stem))
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            _stage(
                widths[i],
                widths[i + 1],
                [size.hidden(i, block) for block in range(size.depths[i])],
                drop_path=rates[sum(size.depths[:i]) : sum(size.depths[: i + 1])],
                spatial_mix=i >= 2,
            )
            for i in range(4)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the feature maps of stages I to IV."""
        x = self.stage0(x)
        half = self.stage1(x)
        quarter = self.stage2(half)
        eighth = self.stage3(quarter)
        sixteenth = self.stage4(eighth)
        return half, quarter, eighth, sixteenth


def _stage(width: int, dim: int, hidden: list[int], drop_path: list[float], spatial_mix: bool) -> nn.Sequential:
    """Give one block per entry of `drop_path`; the first halves the resolution and never mixes globally."""
    blocks = []
    for i, rate in enumerate(drop_path):
        blocks.append(
            GLSPBlock(
                width,
                dim,
                hidden=hidden[i],
                stride=2 if i == 0 else 1,
                norm=ChannelLayerNorm(width) if spatial_mix else nn.BatchNorm2d(width, eps=_BATCH_NORM_EPS),
                spatial_mix=spatial_mix and i > 0,
                drop_path=rate,
            )
        )
        width = dim
    return nn.Sequential(*blocks)


class StemBlock(nn.Module):
    """Expand, depthwise 5x5, squeeze-and-excitation, project; at full resolution on as many channels as come in."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = ConvNormAct(in_channels, in_channels, 1, act=nn.ReLU())
        self.conv_local = ConvNormAct(in_channels, in_channels, 5, groups=in_channels, act=nn.SiLU())
        self.se = SqueezeExcitation(in_channels)
        self.proj = ConvNormAct(in_channels, out_channels, 1, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.se(self.conv_local(self.conv(x))))


class GLSPBlock(nn.Module):
    """Global-local spatial perception: expand, mix all tokens (global), depthwise 5x5 (local), project.

    The first block of a stage (stride 2) has neither residual nor spatial mix.
    """

    def __init__(
        self, width: int, out: int, hidden: int, stride: int, norm: nn.Module, spatial_mix: bool, drop_path: float
    ):
        super().__init__()
        self.residual = stride == 1 and width == out
        self.norm = norm
        self.conv = ConvNormAct(width, hidden, 1, act=nn.ReLU())
        self.att = SpatialMix(hidden) if spatial_mix else None
        self.ln1 = nn.LayerNorm(hidden) if spatial_mix else None
        self.conv_local = ConvNormAct(hidden, hidden, 5, stride, groups=hidden, act=nn.SiLU())
        self.proj = ConvNormAct(hidden, out, 1, norm=False)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.conv(self.norm(x))
        if self.att is not None and self.ln1 is not None:
            mixed = self.ln1(self.att(_channels_to_back(x)))  # (B, H, W, hidden)
            x = x + self.drop_path(_channels_to_front(mixed))
        if not self.residual:
            return self.proj(self.conv_local(x))
        x = self.proj(x + self.conv_local(x))
        return shortcut + self.drop_path(x)


class SpatialMix(nn.Module):
    """Mix every token with its four neighbours (q-shift), then with all tokens (BiWKV), gated by itself."""

    def __init__(self, width: int):
        super().__init__()
        self.spatial_decay = nn.Parameter(torch.zeros(width))
        self.spatial_first = nn.Parameter(torch.zeros(width))
        self.spatial_mix_k = nn.Parameter(torch.full((1, 1, width), 0.5))
        self.spatial_mix_v = nn.Parameter(torch.full((1, 1, width), 0.5))
        self.spatial_mix_r = nn.Parameter(torch.full((1, 1, width), 0.5))
        self.key = _linear(width, width)
        self.value = _linear(width, width)
        self.receptance = _linear(width, width)
        self.key_norm = nn.LayerNorm(width)
        self.output = _linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Take (B, H, W, width) to the same."""
        height, width = x.shape[1:3]
        shifted = q_shift(x)
        key = self.key(_mix(shifted, x, self.spatial_mix_k))
        value = self.value(_mix(shifted, x, self.spatial_mix_v))
        receptance = self.receptance(_mix(shifted, x, self.spatial_mix_r))
        tokens = height * width
        wkv = bi_wkv(self.spatial_decay / tokens, self.spatial_first / tokens, key.flatten(1, 2), value.flatten(1, 2))
        wkv = self.key_norm(wkv).unflatten(1, (height, width))
        return self.output(torch.sigmoid(receptance) * wkv)


class CrossChannelMix(nn.Module):
    """CCM: brings the skip connections III, II, I to one size, mixes them across channels, gives each its own back."""

    def __init__(self, dims: tuple[int, int, int], drop_path: float):
        super().__init__()
        common = dims[-1]
        self.projections = nn.ModuleList(nn.Conv2d(dim, common, 1) for dim in dims)
        self.channel = ChannelMix(3 * common)
        self.ln1 = nn.LayerNorm(3 * common)
        self.drop_path = DropPath(drop_path)
        self.final_projections = nn.ModuleList(nn.Conv2d(common, dim, 1) for dim in dims)

    def forward(self, eighth: Tensor, quarter: Tensor, half: Tensor) -> list[Tensor]:
        """Take maps of stages III, II and I to maps of the same shapes."""
        maps = (eighth, quarter, half)
        full = half.shape[2:]
        x = torch.cat([conv(_resize(m, full)) for conv, m in zip(self.projections, maps, strict=True)], dim=1)
        mixed = self.ln1(self.channel(_channels_to_back(x)))
        x = x + self.drop_path(_channels_to_front(mixed))
        parts = x.chunk(3, dim=1)
        return [
            _resize(conv(part), m.shape[2:]) for conv, part, m in zip(self.final_projections, parts, maps, strict=True)
        ]


class ChannelMix(nn.Module):
    """RWKV's feed-forward part: q-shift, squared ReLU over twice the width, gated."""

    def __init__(self, width: int):
        super().__init__()
        self.spatial_mix_k = nn.Parameter(torch.full((1, 1, width), 0.5))
        self.spatial_mix_r = nn.Parameter(torch.full((1, 1, width), 0.5))
        self.key = _linear(width, 2 * width)
        self.key_norm = nn.LayerNorm(2 * width)
        self.receptance = _linear(width, width)
        self.value = _linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Take (B, H, W, width) to the same."""
        shifted = q_shift(x)
        key = self.key_norm(torch.relu(self.key(_mix(shifted, x, self.spatial_mix_k))).square())
        receptance = self.receptance(_mix(shifted, x, self.spatial_mix_r))
        return torch.sigmoid(receptance) * self.value(key)


class DecoderBlock(nn.Module):
    """1x1 conv, depthwise 9x9, 1x1 conv to the next width, twice the resolution."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.conv = ConvNormAct(width, width, 1, act=nn.ReLU())
        self.conv_local = ConvNormAct(width, width, 9, groups=width, act=nn.SiLU())
        self.proj = ConvNormAct(width, out, 1, act=nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(self.conv_local(self.conv(x)))
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ConvNormAct(nn.Module):
    """Convolution without bias, then BatchNorm and activation where asked for."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        act: nn.Module | None = None,
    ):
        super().__init__()
        padding = -((stride - kernel) // 2)  # ceil((kernel - stride) / 2)
        conv = nn.Conv2d if groups == 1 else DepthwiseConv2d
        self.conv = conv(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=_BATCH_NORM_EPS) if norm else nn.Identity()
        self.act = act if act is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class DepthwiseConv2d(nn.Conv2d):
    """One filter per channel; in float32 under autocast on a CPU, where its bfloat16 gradient takes twice the time."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


class SqueezeExcitation(nn.Module):
    """Channel gates from the mean over all pixels."""

    def __init__(self, width: int):
        super().__init__()
        self.conv_reduce = nn.Conv2d(width, width, 1)
        self.conv_expand = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.silu(self.conv_reduce(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.conv_expand(gate))


class ChannelLayerNorm(nn.Module):
    """LayerNorm over the channels of every pixel of a map (B, C, H, W)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=_CHANNEL_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return _channels_to_front(self.norm(_channels_to_back(x)))


class DropPath(nn.Module):
    """Drops a whole residual branch per sample in training (stochastic depth, Huang et al. 2016)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * (keep / (1 - self.rate)).to(x.dtype)


def q_shift(x: Tensor) -> Tensor:
    """Move each quarter of the channels by one pixel: right, left, down, up; zeros move in. (B, H, W, C) to the same.

    Vision-RWKV's Q-Shift with gamma 1/4; channels beyond four equal quarters stay where they are.
    """
    quarter = x.shape[3] // 4
    right, left, down, up, rest = x.split([quarter] * 4 + [x.shape[3] - 4 * quarter], dim=3)
    return torch.cat(
        [
            F.pad(right[:, :, :-1], (0, 0, 1, 0)),
            F.pad(left[:, :, 1:], (0, 0, 0, 1)),
            F.pad(down[:, :-1], (0, 0, 0, 0, 1, 0)),
            F.pad(up[:, 1:], (0, 0, 0, 0, 0, 1)),
            rest,
        ],
        dim=3,
    )


def _mix(shifted: Tensor, x: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(shifted, x, share.to(x.dtype))  # share of x, the rest from its neighbours


def _linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features, bias=False)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    return linear


def _channels_to_back(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)


def _channels_to_front(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
