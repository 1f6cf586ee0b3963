"""The volumetric network."""

import pytest
import torch

from rwkv_core.models.architectures import U_RWKV
from rwkv_core.models.u_rwkv import URWKV, TriDirectionalMix, spatial_shift
from rwkv_core.ops import bi_wkv

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU, or PyTorch without CUDA")


@pytest.mark.parametrize(("variant", "parameters"), [("T", 1_927_519), ("S", 4_808_415)])
def test_parameters(variant, parameters):
    assert sum(p.numel() for p in URWKV(variant, 15).parameters()) == parameters


@pytest.mark.parametrize("variant", U_RWKV)
@pytest.mark.parametrize("shape", [(16, 16, 16), (16, 48, 32)])
def test_logits_have_the_volumes_shape(variant, shape):
    network = URWKV(variant, 3, in_channels=2).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, 2, *shape)).shape == (2, 3, *shape)


def test_every_parameter_takes_part():
    torch.manual_seed(0)
    network = URWKV("T", 3)
    network(torch.randn(1, 1, 32, 32, 32)).square().mean().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_the_answer_depends_on_voxels_of_the_far_corner():
    torch.manual_seed(0)
    network = URWKV("T", 2).eval()
    volume = torch.randn(1, 1, 64, 32, 32, requires_grad=True)
    network(volume)[0, :, 0, 0, 0].sum().backward()
    assert volume.grad is not None and volume.grad[0, 0, -1, -1, -1] != 0


def test_spatial_shift_moves_sixths_to_the_six_neighbours_and_lets_zeros_in():
    x = torch.zeros(1, 3, 4, 5, 13)
    x[0, 1, 2, 3] = 1
    shifted = spatial_shift(x)
    places = [tuple(shifted[0, ..., c].nonzero()[0].tolist()) for c in range(13)]
    assert places == [
        *[(1, 2, 4)] * 2,
        *[(1, 2, 2)] * 2,
        *[(1, 3, 3)] * 2,
        *[(1, 1, 3)] * 2,
        *[(2, 2, 3)] * 2,
        *[(0, 2, 3)] * 2,
        (1, 2, 3),
    ]
    edge = torch.ones(1, 2, 2, 2, 6)
    assert spatial_shift(edge).sum() == edge.sum() / 2


@pytest.mark.parametrize(
    ("order", "fastest"), [((2, 3, 4), "width"), ((3, 4, 2), "depth"), ((4, 2, 3), "height")], ids=lambda x: str(x)
)
def test_each_direction_reads_the_voxels_in_its_own_order(order, fastest):
    torch.manual_seed(0)
    depth, height, width, channels = 2, 3, 4, 5
    key, value = torch.randn(2, 1, depth, height, width, channels)
    decay, first = torch.rand(2, channels)
    found = TriDirectionalMix._along(order, decay, first, key, value)

    ranges = {"depth": range(depth), "height": range(height), "width": range(width)}
    names = {"width": "depth height width", "depth": "height width depth", "height": "width depth height"}[fastest]
    slow, middle, fast = names.split()
    places = [{slow: a, middle: b, fast: c} for a in ranges[slow] for b in ranges[middle] for c in ranges[fast]]
    line = [(p["depth"], p["height"], p["width"]) for p in places]
    tokens = depth * height * width
    ordered = [torch.stack([x[0, d, h, w] for d, h, w in line])[None] for x in (key, value)]
    expected = bi_wkv(decay / tokens, first / tokens, *ordered, backend="reference")
    assert torch.allclose(torch.stack([found[0, d, h, w] for d, h, w in line]), expected[0], atol=1e-5)


def copying(order, decay, first, key, value):
    """`TriDirectionalMix._along` by copies in that order, for any device."""
    axes = [0, *(axis - 1 for axis in order), 4]
    tokens = key.shape[1] * key.shape[2] * key.shape[3]
    key, value = key.permute(axes), value.permute(axes)
    wkv = bi_wkv(decay / tokens, first / tokens, key.flatten(1, 3), value.flatten(1, 3))
    return wkv.unflatten(1, key.shape[1:4]).permute([axes.index(axis) for axis in range(5)])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_logits_are_those_of_copying_every_order(device, monkeypatch):
    torch.manual_seed(0)
    network = URWKV("T", 3).eval().to(device)
    volume = torch.randn(1, 1, 16, 48, 32).to(device)
    with torch.inference_mode():
        found = network(volume)
        monkeypatch.setattr(TriDirectionalMix, "_along", staticmethod(copying))
        expected = network(volume)
    if device == "cpu":
        assert torch.equal(found, expected)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: URWKV("B", 2), "choose from T, S"),
        (lambda: URWKV("T", 0), "num_classes must be at least 1"),
        (lambda: URWKV("T", 2, in_channels=0), "in_channels must be at least 1"),
        (lambda: URWKV("T", 2)(torch.zeros(1, 1, 16, 20, 16)), "multiples of 16"),
        (lambda: URWKV("T", 2)(torch.zeros(1, 1, 16, 16)), r"expected a batch \(B, 1, D, H, W\)"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
