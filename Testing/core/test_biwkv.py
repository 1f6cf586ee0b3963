"""One test for every backend of BiWKV, against the float64 definition: outputs and all gradients."""

import pytest
import torch

from rwkv_core.ops import bi_wkv, bi_wkv_backends

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU, or PyTorch without CUDA")
ON_CPU = [name for name in bi_wkv_backends() if name != "cuda"]
FAST = [name for name in ON_CPU if name != "reference"]
ON_GPU = [pytest.param("cuda", marks=needs_gpu)]  # test_wkv_kernels.py has more, and a stand-in for the GPU

# batch, tokens, channels, spread of keys, offset of keys, scale of decay x tokens, scale of bonus
EASY = {
    "square": (2, 49, 5, 1.0, 0.0, 3.0, 1.0),
    "prime-tokens": (1, 97, 3, 2.0, 0.0, 3.0, 1.0),
    "more-tokens-than-published-limit": (1, 5000, 1, 1.0, 0.0, 4.0, 1.0),
    "one-token": (3, 1, 4, 1.0, 0.0, 3.0, 1.0),
    "two-tokens": (1, 2, 2, 1.0, 0.0, 3.0, 1.0),
    "keys-far-from-zero": (1, 60, 3, 1.0, 1000.0, 3.0, 1.0),
    "steep-decay": (1, 60, 6, 1.0, 0.0, 25.0, 5.0),
}
HARD = {
    "decay-beyond-float32": (1, 60, 6, 1.0, 0.0, 400.0, 1.0),
    "keys-beyond-float32": (1, 60, 3, 150.0, 0.0, 3.0, 1.0),
    "bonus-beyond-float32": (1, 60, 6, 1.0, 0.0, 3.0, 300.0),
}


def inputs(batch, tokens, channels, spread, offset, decay, bonus):
    random = torch.Generator().manual_seed(tokens)
    signs = torch.ones(channels)
    signs[1::2] = -1  # long decays of both signs
    w = signs * decay / tokens * (0.5 + torch.rand(channels, generator=random))
    u = bonus * torch.randn(channels, generator=random)
    k = offset + spread * torch.randn(batch, tokens, channels, generator=random)
    v = torch.randn(batch, tokens, channels, generator=random)
    return [x.requires_grad_() for x in (w, u, k, v)]


def definition(w, u, k, v):
    """Written a second time, token by token, to hold the reference itself against."""
    w, u, k, v = (x.detach().double() for x in (w, u, k, v))
    out = torch.empty_like(v)
    for t in range(k.shape[1]):
        distance = (torch.arange(k.shape[1]) - t).abs()[None, :, None]
        weight = torch.exp(k - k.amax(1, keepdim=True) + torch.where(distance == 0, u, -(distance - 1) * w))
        out[:, t] = (weight * v).sum(1) / weight.sum(1)
    return out


def run(backend, tensors):
    """On the CPU's tensors, by way of the GPU for its backend."""
    device = "cuda" if backend == "cuda" else "cpu"
    return bi_wkv(*(x.to(device) for x in tensors), backend=backend).cpu()


def gradients(backend, tensors, upstream):
    out = run(backend, tensors)
    return [out, *torch.autograd.grad((out * upstream).sum(), tensors)]


@pytest.mark.parametrize("case", [case for case in EASY if case != "more-tokens-than-published-limit"])
def test_reference_is_the_definition(case):
    tensors = inputs(*EASY[case])
    expected = definition(*tensors)
    assert torch.allclose(bi_wkv(*[t.double() for t in tensors], backend="reference"), expected, atol=1e-12)


@pytest.mark.parametrize("case", EASY)
@pytest.mark.parametrize("backend", ["auto", *FAST, *ON_GPU])
def test_backend_matches_reference(backend, case):
    tensors = inputs(*EASY[case])
    upstream = torch.randn(tensors[3].shape, generator=torch.Generator().manual_seed(0))
    expected = gradients("reference", tensors, upstream)
    for name, got, want in zip(
        ("output", "decay", "first", "key", "value"), gradients(backend, tensors, upstream), expected, strict=True
    ):
        error = (got - want).abs().max() / want.abs().max().clamp_min(0.1)
        assert error < 2e-5, f"{name} off by {error:.1e}"


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("backend", ["auto", "logspace", *ON_GPU])
def test_ranges_beyond_float32(backend, case):
    tensors = inputs(*HARD[case])
    got, want = run(backend, tensors), bi_wkv(*tensors, backend="reference")
    assert torch.allclose(got, want, atol=1e-5)
    for gradient in torch.autograd.grad(got.sum(), tensors):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("backend", ["auto", *ON_CPU])
def test_empty_batch(backend):
    w, u = torch.zeros(4), torch.zeros(4)
    k = torch.zeros(0, 9, 4, requires_grad=True)
    out = bi_wkv(w, u, k, k, backend=backend)
    assert out.shape == (0, 9, 4)
    out.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtype_is_kept_and_computed_in_float32_at_least(dtype):
    tensors = [x.detach().to(dtype) for x in inputs(*EASY["square"])]
    out = bi_wkv(*tensors)
    assert out.dtype == dtype
    expected = bi_wkv(*[x.double() for x in tensors], backend="reference")
    assert (out.double() - expected).abs().max() < 4 * torch.finfo(dtype).eps + 1e-9


def test_autocast_keeps_float32_inside():
    tensors = inputs(*EASY["keys-far-from-zero"])
    expected = bi_wkv(*tensors, backend="reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = bi_wkv(*tensors)
    assert (out - expected).abs().max() < 1e-4


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(B, T, C\)"):
        bi_wkv(torch.zeros(4), torch.zeros(4), torch.zeros(1, 9, 4), torch.zeros(1, 8, 4))
    with pytest.raises(ValueError, match=r"must be \(4,\)"):
        bi_wkv(torch.zeros(3), torch.zeros(4), torch.zeros(1, 9, 4), torch.zeros(1, 9, 4))
    with pytest.raises(ValueError, match="unknown BiWKV backend"):
        bi_wkv(torch.zeros(4), torch.zeros(4), torch.zeros(1, 9, 4), torch.zeros(1, 9, 4), backend="triton")
    with pytest.raises(ValueError, match="on an NVIDIA GPU, not on cpu"):
        bi_wkv(torch.zeros(4), torch.zeros(4), torch.zeros(1, 9, 4), torch.zeros(1, 9, 4), backend="cuda")
