"""RWKV-UNet for inference only: the function of `RWKVUNet.forward` in fewer and cheaper steps.

It is written in the operations of `graph_ops`, so that numpy, torch and OpenVINO run this one description. Every
rewrite is exact algebra; only the rounding differs (1e-6 of the logits):

- a BatchNorm behind a convolution, or in front of a 1x1 convolution (no padding in between), goes into its weights; so
  do a LayerNorm's scale and shift when a 1x1 convolution follows, and its centring when a 1x1 convolution precedes;
- 1x1 convolutions that follow one another without anything in between are one;
- a linear layer over channels is a 1x1 convolution, so that the map keeps its layout throughout;
- q-shift and mix are one depthwise 3x3 convolution: the mix in the centre, the rest on one neighbour;
- BiWKV's weights depend on size and parameters only: they are made once per size and applied along rows and columns;
- a 1x1 convolution commutes with a bilinear resize, whose weights sum to one: it runs on the smaller of the two maps.

Maps are (B, C, H, W) throughout; eager torch wants them channels-last. `p.take(name, *shape)` is the array of this name
in the published checkpoints.
"""

import numpy as np

from rwkv_core.engines.graph_ops import Layer, Map, Ops, Weights
from rwkv_core.models.architectures import RWKV_UNET, RWKVUNetSize, check_input
from rwkv_core.models.weights import NetworkWeights, Parameters

_BATCH_NORM_EPS = 1e-6
_CHANNEL_NORM_EPS = 1e-6
_LAYER_NORM_EPS = 1e-5


class InferenceGraph:
    """The graph of one network. Any size that the network takes; several sizes may be used in turn.

    Args:
        weights: of a trained RWKV-UNet; copied.
        ops: that run it.
        parameters: the same weights, where what does not fit is to be noted.

    Raises:
        ValueError: when the network's decays are beyond what `ops` can hold.
    """

    def __init__(self, weights: NetworkWeights, ops: Ops, parameters: Parameters | None = None):
        p = parameters or Parameters(weights.arrays)
        self._ops, self.in_channels = ops, weights.in_channels
        size = RWKV_UNET[weights.variant]
        half, quarter, eighth, sixteenth = size.dims
        self.encoder = Encoder(p, weights.variant, weights.in_channels, ops)
        self.ccm = _CrossChannelMix(p, (eighth, quarter, half), ops)
        skips = [
            _conv_with_bias(p, f"ccm.final_projections.{i}", dim, half) for i, dim in enumerate((eighth, quarter, half))
        ]
        widths, outs = (sixteenth, 2 * eighth, 2 * quarter, 2 * half), (eighth, quarter, half, size.last)
        self.decoders = [
            _Decoder(p, i, width, out, skip, ops)
            for i, (width, out, skip) in enumerate(zip(widths, outs, (None, *skips), strict=True))
        ]
        self.final = ops.conv("final", *_conv_with_bias(p, "final_conv", weights.num_classes, size.last))

    def __call__(self, image: Map, halved: bool = False) -> tuple[Map, Map]:
        """Compute logits and how far they can be trusted.

        Args:
            image: (B, in_channels, H, W), H and W multiples of 16.
            halved: leave out the last step, which doubles height and width.

        Returns:
            Logits (B, num_classes, H, W); and, as a scalar, the widest range of keys in one channel of one image.
            Above `SAFE_EXPONENT` the logits may be wrong, and `RWKVUNet.forward` must be asked instead.
        """
        check_input(self._ops.shape(image), self.in_channels, sides=2)
        maps, key_range = self.encoder(image)
        half, quarter, eighth, sixteenth = maps
        x = self.decoders[0](sixteenth)
        for decoder, skip in zip(self.decoders[1:], self.ccm(eighth, quarter, half), strict=True):
            x = decoder(x, skip)
        x = self.final(x)
        return x if halved else self._ops.enlarge(x, 2), key_range


class Encoder:
    """Stem and stages I to IV."""

    def __init__(self, p: Parameters, variant: str, in_channels: int, ops: Ops):
        self._ops, size = ops, RWKV_UNET[variant]
        self.stem = _Stem(p, in_channels, ops)
        projection = p.take("encoder.stage0.0.proj.conv.weight", size.stem, max(3, in_channels), 1, 1)
        self.stages = [
            [_Block(p, size, i, n, projection if i == n == 0 else None, ops) for n in range(size.depths[i])]
            for i in range(4)
        ]

    def __call__(self, image: Map) -> tuple[list[Map], Map]:
        """Feature maps of stages I to IV, and the widest range of keys."""
        maps: list[Map] = []
        ranges: list[Map] = []
        x = self.stem(image)
        for stage in self.stages:
            for block in stage:
                x = block(x, ranges)
            maps.append(x)
        return maps, self._ops.largest(ranges)


class _Stem:
    """Up to the gated map of the stem's channels; its projection is part of the block that follows."""

    def __init__(self, p: Parameters, in_channels: int, ops: Ops):
        self._ops, name = ops, "encoder.stage0.0"
        channels = max(3, in_channels)
        weight, bias = _folded(p, f"{name}.conv", channels, channels)
        if in_channels == 1:
            weight = weight.sum(axis=1, keepdims=True)  # of three equal channels
        self.expand = ops.conv("stem.expand", weight, bias)
        self.local = ops.conv("stem.local", *_folded(p, f"{name}.conv_local", channels, 1, 5), depthwise=True)
        self.reduce = ops.conv("stem.reduce", *_conv_with_bias(p, f"{name}.se.conv_reduce", channels, channels))
        self.gate = ops.conv("stem.gate", *_conv_with_bias(p, f"{name}.se.conv_expand", channels, channels))

    def __call__(self, x: Map) -> Map:
        ops = self._ops
        x = ops.silu(self.local(ops.relu(self.expand(x))))
        return x * ops.sigmoid(self.gate(ops.silu(self.reduce(ops.mean(x)))))


class _Block:
    """`GLSPBlock` number `n` of a stage; its norm and, where given, the projection `before` are inside `expand`."""

    def __init__(self, p: Parameters, size: RWKVUNetSize, stage: int, n: int, before: Weights | None, ops: Ops):
        self._ops, self.residual = ops, n > 0
        name, label = f"encoder.stage{stage + 1}.{n}", f"stages.{stage}.{n}"
        out, hidden = size.dims[stage], size.hidden(stage, n)
        width = out if n > 0 else (size.stem, *size.dims)[stage]
        weight, bias = _folded(p, f"{name}.conv", hidden, width)
        self.norm: Layer | None = None
        if stage >= 2:
            self.norm = ops.normalise(_CHANNEL_NORM_EPS)
            scale, shift = p.take(f"{name}.norm.norm.weight", width), p.take(f"{name}.norm.norm.bias", width)
        else:
            scale, shift = _batch_norm(p, f"{name}.norm", width)
        bias = bias + weight[:, :, 0, 0] @ shift
        weight = weight * scale[:, None, None]
        if before is not None:
            weight = (weight[:, :, 0, 0] @ before[:, :, 0, 0])[:, :, None, None]
        self.expand = ops.conv(f"{label}.expand", weight, bias)
        self.mix = _SpatialMix(p, name, f"{label}.mix", hidden, ops) if stage >= 2 and n > 0 else None
        local = _folded(p, f"{name}.conv_local", hidden, 1, 5)
        self.local = ops.conv(f"{label}.local", *local, stride=2 if n == 0 else 1, depthwise=True)
        self.project = ops.conv(f"{label}.project", p.take(f"{name}.proj.conv.weight", out, hidden, 1, 1))

    def __call__(self, x: Map, ranges: list[Map]) -> Map:
        shortcut = x
        if self.norm is not None:
            x = self.norm(x)
        x = self._ops.relu(self.expand(x))
        if self.mix is not None:
            mixed, key_range = self.mix(x)
            ranges.append(key_range)
            x = x + mixed
        local = self._ops.silu(self.local(x))
        if not self.residual:
            return self.project(local)
        return shortcut + self.project(x + local)


class _SpatialMix:
    """`SpatialMix` and the LayerNorm behind it."""

    def __init__(self, p: Parameters, block: str, label: str, width: int, ops: Ops):
        self._ops, name = ops, f"{block}.att"
        self.shift_key, self.shift_value, self.shift_receptance = (
            _shift_and_mix(p, f"{name}.spatial_mix_{part[0]}", f"{label}.shift_{part}", width, ops)
            for part in ("key", "value", "receptance")
        )
        self.key, self.value, self.receptance = (
            ops.conv(f"{label}.{part}", _linear(p, f"{name}.{part}", width, width))
            for part in ("key", "value", "receptance")
        )
        decay, first = p.take(f"{name}.spatial_decay", width), p.take(f"{name}.spatial_first", width)
        self.wkv = ops.wkv(decay, first, (2, 3))
        self.key_norm = ops.normalise(_LAYER_NORM_EPS, *_norm(p, f"{name}.key_norm", width))
        output = _linear(p, f"{name}.output", width, width)
        self.output = ops.conv(f"{label}.output", output - output.mean(axis=0))
        self.norm = ops.normalise(_LAYER_NORM_EPS, *_norm(p, f"{block}.ln1", width), centred=True)

    def __call__(self, x: Map) -> tuple[Map, Map]:
        key = self.key(self.shift_key(x))
        value = self.value(self.shift_value(x))
        gate = self._ops.sigmoid(self.receptance(self.shift_receptance(x)))
        wkv, key_range = self.wkv(key, value)
        return self.norm(self.output(gate * self.key_norm(wkv))), key_range


class _CrossChannelMix:
    """`CrossChannelMix` up to the three parts in their own sizes; the projections back are part of the decoder."""

    def __init__(self, p: Parameters, dims: tuple[int, int, int], ops: Ops):
        self._ops = ops
        common = dims[-1]
        self.projections = [
            ops.conv(f"ccm.projections.{i}", *_conv_with_bias(p, f"ccm.projections.{i}", common, dim))
            for i, dim in enumerate(dims)
        ]
        self.channel = _ChannelMix(p, "ccm.channel", 3 * common, ops)
        self.norm = ops.normalise(_LAYER_NORM_EPS, *_norm(p, "ccm.ln1", 3 * common))

    def __call__(self, eighth: Map, quarter: Map, half: Map) -> list[Map]:
        ops = self._ops
        third, second, first = (
            project(x) for project, x in zip(self.projections, (eighth, quarter, half), strict=True)
        )
        x = ops.join([ops.enlarge(third, 4), ops.enlarge(second, 2), first])
        x = x + self.norm(self.channel(x))
        third, second, first = ops.thirds(x)
        # What bilinear reduction without antialiasing reads: pixels 1 and 2 of every four, both of every two.
        return [ops.middle(third, 4), ops.middle(second, 2), first]


class _ChannelMix:
    """`ChannelMix`; its norm's scale and shift are part of the projection that follows."""

    def __init__(self, p: Parameters, name: str, width: int, ops: Ops):
        self._ops = ops
        self.shift_key, self.shift_receptance = (
            _shift_and_mix(p, f"{name}.spatial_mix_{part[0]}", f"{name}.shift_{part}", width, ops)
            for part in ("key", "receptance")
        )
        self.key = ops.conv(f"{name}.key", _linear(p, f"{name}.key", 2 * width, width))
        self.receptance = ops.conv(f"{name}.receptance", _linear(p, f"{name}.receptance", width, width))
        self.norm = ops.normalise(_LAYER_NORM_EPS)
        value = _linear(p, f"{name}.value", width, 2 * width)
        scale, shift = _norm(p, f"{name}.key_norm", 2 * width)
        self.value = ops.conv(f"{name}.value", value * scale[:, None, None], value[:, :, 0, 0] @ shift)

    def __call__(self, x: Map) -> Map:
        key = self._ops.relu(self.key(self.shift_key(x)))
        gate = self._ops.sigmoid(self.receptance(self.shift_receptance(x)))
        return gate * self.value(self.norm(key * key))


class _Decoder:
    """`DecoderBlock` without its enlargement, but with that of the block before.

    Its first convolution is one for the map from the block before, in that one's size, and one for the map that
    `skip`, weight and bias of a 1x1 convolution, would project.
    """

    def __init__(self, p: Parameters, i: int, width: int, out: int, skip: tuple[Weights, Weights] | None, ops: Ops):
        self._ops, name, label = ops, f"decoder{i + 1}", f"decoders.{i}"
        weight, bias = _folded(p, f"{name}.conv", width, width)
        self.skip: Layer | None = None
        own_bias: Weights | None = bias
        if skip is not None:
            own, matrix, (back, offset) = width // 2, weight[:, :, 0, 0], skip
            joined = matrix[:, own:] @ back[:, :, 0, 0]
            self.skip = ops.conv(f"{label}.skip", joined[:, :, None, None], bias + matrix[:, own:] @ offset)
            weight, own_bias = weight[:, :own], None
        self.conv = ops.conv(f"{label}.conv", weight, own_bias)
        self.local = ops.conv(f"{label}.local", *_folded(p, f"{name}.conv_local", width, 1, 9), depthwise=True)
        self.project = ops.conv(f"{label}.project", *_folded(p, f"{name}.proj", out, width))

    def __call__(self, x: Map, skip: Map = None) -> Map:
        ops = self._ops
        x = self.conv(x)
        if self.skip is not None:
            x = ops.enlarge(x, 2) + self.skip(skip)
        return ops.relu(self.project(ops.silu(self.local(ops.relu(x)))))


def _batch_norm(p: Parameters, name: str, width: int) -> tuple[Weights, Weights]:
    """Scale and shift (C,) of a BatchNorm in evaluation."""
    weight, bias = _norm(p, name, width)
    scale = weight / np.sqrt(p.take(f"{name}.running_var", width) + _BATCH_NORM_EPS)
    return scale, bias - p.take(f"{name}.running_mean", width) * scale


def _norm(p: Parameters, name: str, width: int) -> tuple[Weights, Weights]:
    return p.take(f"{name}.weight", width), p.take(f"{name}.bias", width)


def _folded(p: Parameters, name: str, out: int, inner: int, kernel: int = 1) -> tuple[Weights, Weights]:
    """Weight and bias of a convolution with the BatchNorm behind it."""
    scale, shift = _batch_norm(p, f"{name}.norm", out)
    return p.take(f"{name}.conv.weight", out, inner, kernel, kernel) * scale[:, None, None, None], shift


def _conv_with_bias(p: Parameters, name: str, out: int, inner: int) -> tuple[Weights, Weights]:
    """Take weight and bias of a 1x1 convolution."""
    return p.take(f"{name}.weight", out, inner, 1, 1), p.take(f"{name}.bias", out)


def _linear(p: Parameters, name: str, out: int, inner: int) -> Weights:
    """Give the linear layer's weights as those of a 1x1 convolution."""
    return p.take(f"{name}.weight", out, inner)[:, :, None, None]


def _shift_and_mix(p: Parameters, name: str, label: str, width: int, ops: Ops) -> Layer:
    """q-shift, then a share (1, 1, C) of the map itself and the rest of its neighbours, as a depthwise convolution."""
    own = p.take(name, 1, 1, width)[0, 0]
    quarter = width // 4
    weight = np.zeros((width, 1, 3, 3))
    weight[:, 0, 1, 1] = own
    for i, (row, column) in enumerate(((1, 0), (1, 2), (0, 1), (2, 1))):  # moved right: read from the left, and so on
        part = slice(i * quarter, (i + 1) * quarter)
        weight[part, 0, row, column] = 1 - own[part]
    weight[4 * quarter :, 0, 1, 1] = 1
    return ops.conv(label, weight, depthwise=True)
