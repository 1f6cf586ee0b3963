"""RWKV-UNet for inference only: the function of `RWKVUNet.forward` in fewer and cheaper steps.

Every rewrite is exact algebra; only the rounding differs (1e-6 of the logits):

- a BatchNorm behind a convolution, or in front of a 1x1 convolution (no padding in between), goes into its weights; so
  do a LayerNorm's scale and shift when a 1x1 convolution follows, and its centring when a 1x1 convolution precedes;
- 1x1 convolutions that follow one another without anything in between are one;
- a linear layer over channels is a 1x1 convolution, so that the map keeps its layout throughout;
- q-shift and mix are one depthwise 3x3 convolution: the mix in the centre, the rest on one neighbour;
- BiWKV's weights depend on size and parameters only: they are made once per size and applied along rows and columns;
- a 1x1 convolution commutes with a bilinear resize, whose weights sum to one: it runs on the smaller of the two maps.

Maps are (B, C, H, W) throughout; eager torch wants them channels-last.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwkv_core.engines.map_wkv import RowColumnWKV, ScanWKV
from rwkv_core.models.rwkv_unet import (
    ChannelLayerNorm,
    ChannelMix,
    ConvNormAct,
    CrossChannelMix,
    DecoderBlock,
    GLSPBlock,
    RWKVUNet,
    SpatialMix,
    StemBlock,
    check_input,
)


class InferenceGraph(nn.Module):
    """A copy of `network` for inference. Any size that the network takes; several sizes may be used in turn.

    Args:
        network: trained; it is not changed and shares no memory with the copy.
        wkv: `RowColumnWKV`, or on NVIDIA GPUs `ScanWKV`.

    Raises:
        ValueError: when the network's decays are beyond what float32 weights can hold (`RWKVUNet` itself is then
            the only way to run it), with `RowColumnWKV`.
    """

    def __init__(self, network: RWKVUNet, wkv: type[RowColumnWKV | ScanWKV] | None = None):
        super().__init__()
        self.in_channels = network.in_channels
        encoder, ccm = network.encoder, network.ccm
        stem = encoder.stage0[0]
        assert isinstance(stem, StemBlock)
        stages = [encoder.stage1, encoder.stage2, encoder.stage3, encoder.stage4]
        self.stem = _Stem(stem, network.in_channels)
        self.stages = nn.ModuleList()
        for stage in stages:
            blocks = nn.Sequential()
            for block in stage:
                assert isinstance(block, GLSPBlock)
                before = stem.proj.conv if stage is encoder.stage1 and not len(blocks) else None
                blocks.append(_Block(block, before, wkv or RowColumnWKV))
            self.stages.append(blocks)
        self.ccm = _CrossChannelMix(ccm)
        skips = [None, *ccm.final_projections]
        decoders = [network.decoder1, network.decoder2, network.decoder3, network.decoder4]
        self.decoders = nn.ModuleList(_Decoder(d, skip) for d, skip in zip(decoders, skips, strict=True))
        self.final = _conv(*_parts(network.final_conv))
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and how far they can be trusted.

        Args:
            image: (B, in_channels, H, W) float32, H and W multiples of 16.

        Returns:
            Logits (B, num_classes, H, W); and, as a scalar, the widest range of keys in one channel of one image.
            Above `SAFE_EXPONENT` the logits may be wrong, and `RWKVUNet.forward` must be asked instead.
        """
        check_input(image, self.in_channels)
        maps: list[Tensor] = []
        ranges: list[Tensor] = []
        x = self.stem(image)
        for stage in self.stages:
            for block in stage.children():
                x = block(x, ranges)
            maps.append(x)
        one, two, three, four = maps
        x = self.decoders[0](four)
        for decoder, skip in zip(list(self.decoders)[1:], self.ccm(three, two, one), strict=True):
            x = decoder(x, skip)
        return _enlarge(self.final(x)), torch.stack(ranges).amax()


class _Stem(nn.Module):
    """Up to the gated map of three channels; its projection is part of the block that follows."""

    def __init__(self, stem: StemBlock, in_channels: int):
        super().__init__()
        weight, bias = _folded(stem.conv)
        if in_channels == 1:
            weight = weight.sum(dim=1, keepdim=True)  # of three equal channels
        self.expand = _conv(weight, bias)
        self.local = _conv_like(stem.conv_local)
        self.reduce, self.gate = _conv(*_parts(stem.se.conv_reduce)), _conv(*_parts(stem.se.conv_expand))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.local(F.relu(self.expand(x))))
        return x * torch.sigmoid(self.gate(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))))


class _Block(nn.Module):
    """`GLSPBlock`, its norm and, for the very first, the stem's projection inside the expanding convolution."""

    def __init__(self, block: GLSPBlock, before: nn.Conv2d | None, wkv: type[RowColumnWKV | ScanWKV]):
        super().__init__()
        self.residual = block.residual
        weight, bias = _folded(block.conv)
        self.norm: nn.Module | None = None
        if isinstance(block.norm, ChannelLayerNorm):
            self.norm = _Normalise(block.norm.norm.eps)
            scale, shift = block.norm.norm.weight.detach().double(), block.norm.norm.bias.detach().double()
        else:
            assert isinstance(block.norm, nn.BatchNorm2d)
            scale, shift = _affine(block.norm)
        bias = bias + weight.flatten(1) @ shift
        weight = weight * scale[:, None, None]
        if before is not None:
            weight = (weight.flatten(1) @ before.weight.detach().double().flatten(1))[:, :, None, None]
        self.expand = _conv(weight, bias)
        self.mix = None
        if block.att is not None and block.ln1 is not None:
            self.mix = _SpatialMix(block.att, block.ln1, wkv)
        self.local = _conv_like(block.conv_local)
        self.project = _conv(*_parts(block.proj.conv))

    def forward(self, x: Tensor, ranges: list[Tensor]) -> Tensor:
        shortcut = x
        if self.norm is not None:
            x = self.norm(x)
        x = F.relu(self.expand(x))
        if self.mix is not None:
            mixed, key_range = self.mix(x)
            ranges.append(key_range)
            x = x + mixed
        local = F.silu(self.local(x))
        if not self.residual:
            return self.project(local)
        return shortcut + self.project(x + local)


class _SpatialMix(nn.Module):
    """`SpatialMix` and the LayerNorm behind it."""

    def __init__(self, mix: SpatialMix, norm: nn.LayerNorm, wkv: type[RowColumnWKV | ScanWKV]):
        super().__init__()
        self.shift_key = _shift_and_mix(mix.spatial_mix_k)
        self.shift_value = _shift_and_mix(mix.spatial_mix_v)
        self.shift_receptance = _shift_and_mix(mix.spatial_mix_r)
        self.key, self.value, self.receptance = _linear(mix.key), _linear(mix.value), _linear(mix.receptance)
        self.wkv = wkv(mix.spatial_decay, mix.spatial_first)
        self.key_norm = _Normalise(mix.key_norm.eps, mix.key_norm.weight, mix.key_norm.bias)
        output = mix.output.weight.detach().double()
        self.output = _conv((output - output.mean(dim=0))[:, :, None, None], None)
        self.norm = _Normalise(norm.eps, norm.weight, norm.bias, centred=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        key = self.key(self.shift_key(x))
        value = self.value(self.shift_value(x))
        gate = torch.sigmoid(self.receptance(self.shift_receptance(x)))
        wkv, key_range = self.wkv(key, value)
        return self.norm(self.output(gate * self.key_norm(wkv))), key_range


class _CrossChannelMix(nn.Module):
    """`CrossChannelMix` up to the three parts in their own sizes; the projections back are part of the decoder."""

    def __init__(self, ccm: CrossChannelMix):
        super().__init__()
        self.projections = nn.ModuleList(_conv(*_parts(p)) for p in ccm.projections)  # type: ignore[arg-type]
        self.channel = _ChannelMix(ccm.channel)
        self.norm = _Normalise(ccm.ln1.eps, ccm.ln1.weight, ccm.ln1.bias)

    def forward(self, three: Tensor, two: Tensor, one: Tensor) -> list[Tensor]:
        maps = (three, two, one)
        full = one.shape[2:]
        projected = [p(m) for p, m in zip(self.projections, maps, strict=True)]
        x = torch.cat([_resize(projected[0], full), _resize(projected[1], full), projected[2]], dim=1)
        x = x + self.norm(self.channel(x))
        third, second, first = x.chunk(3, dim=1)
        # Bilinear reduction without antialiasing by 4 reads pixels 1 and 2 of every four, by 2 both of every two.
        return [F.avg_pool2d(third[:, :, 1:-1, 1:-1], 2, 4), F.avg_pool2d(second, 2), first]


class _ChannelMix(nn.Module):
    """`ChannelMix`; its norm's scale and shift are part of the projection that follows."""

    def __init__(self, mix: ChannelMix):
        super().__init__()
        self.shift_key, self.shift_receptance = _shift_and_mix(mix.spatial_mix_k), _shift_and_mix(mix.spatial_mix_r)
        self.key, self.receptance = _linear(mix.key), _linear(mix.receptance)
        self.norm = _Normalise(mix.key_norm.eps)
        value = mix.value.weight.detach().double()
        scaled = value * mix.key_norm.weight.detach().double()
        self.value = _conv(scaled[:, :, None, None], value @ mix.key_norm.bias.detach().double())

    def forward(self, x: Tensor) -> Tensor:
        key = F.relu(self.key(self.shift_key(x)))
        gate = torch.sigmoid(self.receptance(self.shift_receptance(x)))
        return gate * self.value(self.norm(key * key))


class _Decoder(nn.Module):
    """`DecoderBlock` without its enlargement, but with that of the block before.

    Its first convolution is one for the map from the block before, in that one's size, and one for the map that `skip`
    would project.
    """

    def __init__(self, block: DecoderBlock, skip: nn.Conv2d | None):
        super().__init__()
        weight, bias = _folded(block.conv)
        self.skip: nn.Module | None = None
        own_bias: Tensor | None = bias
        if skip is not None:
            matrix, (back, offset) = weight.flatten(1), _parts(skip)
            assert offset is not None
            own = matrix.shape[1] - len(back)
            self.skip = _conv((matrix[:, own:] @ back.flatten(1))[:, :, None, None], bias + matrix[:, own:] @ offset)
            weight, own_bias = weight[:, :own], None
        self.conv = _conv(weight, own_bias)
        self.local = _conv_like(block.conv_local)
        self.project = _conv_like(block.proj)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        x = self.conv(x)
        if self.skip is not None:
            x = _enlarge(x) + self.skip(skip)
        return F.relu(self.project(F.silu(self.local(F.relu(x)))))


class _Normalise(nn.Module):
    """LayerNorm over the channels of every pixel.

    Args:
        eps: added to the variance.
        weight: (C,), or None when a later layer applies it.
        bias: likewise.
        centred: the input's mean over the channels is zero already.
    """

    def __init__(self, eps: float, weight: Tensor | None = None, bias: Tensor | None = None, centred: bool = False):
        super().__init__()
        self.eps, self.centred = eps, centred
        self.weight = None if weight is None else nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_tracing():  # type: ignore[attr-defined]
            rows = x.permute(0, 2, 3, 1)
            return F.layer_norm(rows, rows.shape[3:], self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
        # Exporters transpose the map for LayerNorm; sums along the second axis leave it where it is.
        if not self.centred:
            x = x - x.mean(1, keepdim=True)
        x = x * torch.rsqrt((x * x).mean(1, keepdim=True) + self.eps)
        if self.weight is not None and self.bias is not None:
            x = x * self.weight[:, None, None] + self.bias[:, None, None]
        return x


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of a BatchNorm in evaluation, float64."""
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def _parts(conv: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    return conv.weight.detach().double(), None if conv.bias is None else conv.bias.detach().double()


def _folded(layer: ConvNormAct) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of a convolution with the BatchNorm behind it."""
    assert isinstance(layer.norm, nn.BatchNorm2d)
    scale, shift = _affine(layer.norm)
    return layer.conv.weight.detach().double() * scale[:, None, None, None], shift


def _conv_like(layer: ConvNormAct) -> nn.Conv2d:
    """The same convolution with the BatchNorm folded in."""
    return _conv(*_folded(layer), stride=layer.conv.stride[0], padding=int(layer.conv.padding[0]))


def _conv(weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """A convolution with these weights, (out, in, kernel, kernel); depthwise where in is 1 and the kernel larger."""
    out, inner, kernel, _ = weight.shape
    depthwise = kernel > 1
    conv = nn.Conv2d(
        out if depthwise else inner, out, kernel, stride, padding, groups=out if depthwise else 1, bias=bias is not None
    )
    conv.weight = nn.Parameter(weight.float(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.float(), requires_grad=False)
    return conv


def _linear(linear: nn.Linear) -> nn.Conv2d:
    return _conv(linear.weight.detach()[:, :, None, None], None)


def _shift_and_mix(share: Tensor) -> nn.Conv2d:
    """q-shift, then `share` (1, 1, C) of the map itself and the rest of its neighbours, as a depthwise convolution."""
    own = share.detach().double().flatten()
    quarter = len(own) // 4
    weight = own.new_zeros(len(own), 1, 3, 3)
    weight[:, 0, 1, 1] = own
    for i, (row, column) in enumerate(((1, 0), (1, 2), (0, 1), (2, 1))):  # moved right: read from the left, and so on
        part = slice(i * quarter, (i + 1) * quarter)
        weight[part, 0, row, column] = 1 - own[part]
    weight[4 * quarter :, 0, 1, 1] = 1
    return _conv(weight, None, padding=1)


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
