"""U-RWKV for inference: the function of `URWKV.forward`, written in the operations of `graph_ops`.

As in `inference_graph`: linear layers are 1x1x1 convolutions, shift and mix is one depthwise convolution, BiWKV's
weights are made once per size. Group normalisation cannot go into a convolution's weights, since it depends on the
input.
"""

import numpy as np

from rwkv_core.engines.graph_ops import Layer, Map, Ops, Weights
from rwkv_core.models.architectures import U_RWKV, check_input
from rwkv_core.models.weights import NetworkWeights, Parameters

_EPS = 1e-5
_GROUPS = 8
_ORDERS = ((2, 3, 4), (3, 4, 2), (4, 2, 3))
"""Axes of (B, C, D, H, W), slowest first, as the network has them."""


class VolumeGraph:
    """The graph of one network. Any size that the network takes; several sizes may be used in turn.

    Args:
        weights: of a trained U-RWKV; copied.
        ops: that run it.
        parameters: the same weights, where what does not fit is to be noted.

    Raises:
        ValueError: when the network's decays are beyond what `ops` can hold.
    """

    def __init__(self, weights: NetworkWeights, ops: Ops, parameters: Parameters | None = None):
        p = parameters or Parameters(weights.arrays)
        self._ops, self.in_channels = ops, weights.in_channels
        size = U_RWKV[weights.variant]
        half, quarter, eighth, sixteenth = size.dims
        self.encoder = Encoder(p, weights.variant, weights.in_channels, ops)
        self.decoders = [
            _Decoder(p, f"decoder{i + 1}", width, out, ops)
            for i, (width, out) in enumerate(
                ((sixteenth, eighth), (eighth, quarter), (quarter, half), (half, size.stem))
            )
        ]
        self.final = ops.conv("final", *_conv_with_bias(p, "final_conv", weights.num_classes, size.stem))

    def __call__(self, volume: Map) -> tuple[Map, Map]:
        """Compute logits (B, num_classes, D, H, W) of blocks (B, in_channels, D, H, W), sides multiples of 16.

        And, as a scalar, the widest range of keys in one channel of one block. Above `SAFE_EXPONENT` the logits may be
        wrong, and `URWKV.forward` must be asked instead.
        """
        check_input(self._ops.shape(volume), self.in_channels, sides=3)
        (full, half, quarter, eighth, x), key_range = self.encoder(volume)
        for decoder, skip in zip(self.decoders, (eighth, quarter, half, full), strict=True):
            x = decoder(x, skip)
        return self.final(x), key_range


class Encoder:
    """Stem and four stages."""

    def __init__(self, p: Parameters, variant: str, in_channels: int, ops: Ops):
        self._ops, size = ops, U_RWKV[variant]
        self.stem: list[Layer] = [
            _ConvNormAct(p, "encoder.stem.0", in_channels, size.stem, ops),
            _LocalBlock(p, "encoder.stem.1", size.stem, ops),
        ]
        widths = (size.stem, *size.dims)
        self.stages: list[list[Layer | _TSERBlock]] = []
        for i, depth in enumerate(size.depths):
            name, width = f"encoder.stage{i + 1}", widths[i + 1]
            stage: list[Layer | _TSERBlock] = [_ConvNormAct(p, f"{name}.0", widths[i], width, ops, stride=2)]
            for n in range(1, depth + 1):
                if i > 0:
                    stage.append(_TSERBlock(p, f"{name}.{n}", width, size.expansion, ops))
                else:
                    stage.append(_LocalBlock(p, f"{name}.{n}", width, ops))
            self.stages.append(stage)

    def __call__(self, x: Map) -> tuple[list[Map], Map]:
        """Feature maps at 1, 1/2, 1/4, 1/8 and 1/16 of the resolution, and the widest range of keys."""
        ranges: list[Map] = []
        for layer in self.stem:
            x = layer(x)
        maps = [x]
        for stage in self.stages:
            for block in stage:
                x = block(x, ranges) if isinstance(block, _TSERBlock) else block(x)
            maps.append(x)
        return maps, self._ops.largest(ranges)


class _TSERBlock:
    """`TSERBlock`: global mix, local convolution, channel mix."""

    def __init__(self, p: Parameters, name: str, width: int, expansion: int, ops: Ops):
        self.norm1 = ops.normalise(_EPS, *_norm(p, f"{name}.norm1", width))
        self.spatial = _TriDirectionalMix(p, f"{name}.spatial", width, ops)
        self.local = _LocalBlock(p, f"{name}.local", width, ops)
        self.norm2 = ops.normalise(_EPS, *_norm(p, f"{name}.norm2", width))
        self.channel = _ChannelMix(p, f"{name}.channel", width, expansion, ops)

    def __call__(self, x: Map, ranges: list[Map]) -> Map:
        x = x + self.spatial(self.norm1(x), ranges)
        x = self.local(x)
        return x + self.channel(self.norm2(x))


class _TriDirectionalMix:
    """`TriDirectionalMix`."""

    def __init__(self, p: Parameters, name: str, width: int, ops: Ops):
        self._ops = ops
        self.shift_key, self.shift_value, self.shift_receptance = (
            _shift_and_mix(p, f"{name}.mix_{part}", width, ops) for part in "kvr"
        )
        self.key, self.value, self.receptance = (
            ops.conv(f"{name}.{part}", _linear(p, f"{name}.{part}", width, width))
            for part in ("key", "value", "receptance")
        )
        decays, firsts, fusion = (p.take(f"{name}.{part}", 3, width) for part in ("decay", "first", "fusion"))
        self.wkvs = [ops.wkv(decay, first, order) for decay, first, order in zip(decays, firsts, _ORDERS, strict=True)]
        shares = np.exp(fusion - fusion.max(axis=0))
        shares /= shares.sum(axis=0)
        self.shares = [ops.scale(share) for share in shares]
        self.norm = ops.normalise(_EPS, *_norm(p, f"{name}.norm", width))
        self.output = ops.conv(f"{name}.output", _linear(p, f"{name}.output", width, width))

    def __call__(self, x: Map, ranges: list[Map]) -> Map:
        key = self.key(self.shift_key(x))
        value = self.value(self.shift_value(x))
        gate = self._ops.sigmoid(self.receptance(self.shift_receptance(x)))
        fused = None
        for wkv, share in zip(self.wkvs, self.shares, strict=True):
            mixed, key_range = wkv(key, value)
            fused = share(mixed) if fused is None else fused + share(mixed)
        ranges.append(key_range)  # the same in every order
        return self.output(gate * self.norm(fused))


class _ChannelMix:
    """`ChannelMix`."""

    def __init__(self, p: Parameters, name: str, width: int, expansion: int, ops: Ops):
        self._ops = ops
        self.shift_key, self.shift_receptance = (_shift_and_mix(p, f"{name}.mix_{part}", width, ops) for part in "kr")
        self.key = ops.conv(f"{name}.key", _linear(p, f"{name}.key", expansion * width, width))
        self.receptance = ops.conv(f"{name}.receptance", _linear(p, f"{name}.receptance", width, width))
        self.value = ops.conv(f"{name}.value", _linear(p, f"{name}.value", width, expansion * width))

    def __call__(self, x: Map) -> Map:
        key = self._ops.relu(self.key(self.shift_key(x)))
        return self._ops.sigmoid(self.receptance(self.shift_receptance(x))) * self.value(key * key)


class _LocalBlock:
    """`LocalBlock`."""

    def __init__(self, p: Parameters, name: str, width: int, ops: Ops):
        self._ops = ops
        self.depthwise = _ConvNormAct(p, f"{name}.depthwise", 1, width, ops, depthwise=True)
        self.expand = ops.conv(f"{name}.expand", *_conv_with_bias(p, f"{name}.expand", 2 * width, width))
        self.project = ops.conv(f"{name}.project", *_conv_with_bias(p, f"{name}.project", width, 2 * width))

    def __call__(self, x: Map) -> Map:
        return x + self.project(self._ops.silu(self.expand(self.depthwise(x))))


class _Decoder:
    """`DecoderBlock`; the skip connection's 1x1x1 convolution and this one's are in their own sizes."""

    def __init__(self, p: Parameters, name: str, width: int, out: int, ops: Ops):
        self._ops = ops
        self.narrow = ops.conv(f"{name}.narrow", *_conv_with_bias(p, f"{name}.narrow", out, width))
        self.skip = ops.conv(f"{name}.skip", *_conv_with_bias(p, f"{name}.skip", out, out))
        self.conv = _ConvNormAct(p, f"{name}.conv", out, out, ops)
        self.local = _LocalBlock(p, f"{name}.local", out, ops)

    def __call__(self, x: Map, skip: Map) -> Map:
        return self.local(self.conv(self._ops.enlarge(self.narrow(x), 2) + self.skip(skip)))


class _ConvNormAct:
    """`ConvNormAct`; without the activation where it is depthwise."""

    def __init__(
        self, p: Parameters, name: str, inner: int, out: int, ops: Ops, stride: int = 1, depthwise: bool = False
    ):
        self._ops, self._act = ops, not depthwise
        weight = p.take(f"{name}.conv.weight", out, inner, 3, 3, 3)
        self.conv = ops.conv(f"{name}.conv", weight, stride=stride, depthwise=depthwise)
        self.norm = ops.group_normalise(_GROUPS, _EPS, *_norm(p, f"{name}.norm", out))

    def __call__(self, x: Map) -> Map:
        x = self.norm(self.conv(x))
        return self._ops.silu(x) if self._act else x


def _norm(p: Parameters, name: str, width: int) -> tuple[Weights, Weights]:
    return p.take(f"{name}.weight", width), p.take(f"{name}.bias", width)


def _conv_with_bias(p: Parameters, name: str, out: int, inner: int) -> tuple[Weights, Weights]:
    """Take weight and bias of a 1x1x1 convolution."""
    return p.take(f"{name}.weight", out, inner, 1, 1, 1), p.take(f"{name}.bias", out)


def _linear(p: Parameters, name: str, out: int, inner: int) -> Weights:
    """Give the linear layer's weights as those of a 1x1x1 convolution."""
    return p.take(f"{name}.weight", out, inner)[:, :, None, None, None]


def _shift_and_mix(p: Parameters, name: str, width: int, ops: Ops) -> Layer:
    """Spatial shift, then a share (C,) of the map itself and the rest of its neighbours, as a depthwise convolution."""
    own = p.take(name, width)
    sixth = width // 6
    weight = np.zeros((width, 1, 3, 3, 3))
    weight[:, 0, 1, 1, 1] = own
    for i in range(6):  # along width, height, depth: from before, from behind
        depth, height, column = (1 if side != 2 - i // 2 else i % 2 * 2 for side in range(3))
        part = slice(i * sixth, (i + 1) * sixth)
        weight[part, 0, depth, height, column] = 1 - own[part]
    weight[6 * sixth :, 0, 1, 1, 1] = 1
    return ops.conv(f"{name}.shift", weight, depthwise=True)
