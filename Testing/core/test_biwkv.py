"""One test for every backend of BiWKV, against the float64 definition: outputs and all gradients."""

import functools
import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from rwkv_core.ops import bi_wkv, bi_wkv_ordered, biwkv

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU, or PyTorch without CUDA")
ORDERS = list(itertools.permutations((1, 2, 3)))
ON_CPU = [name for name in biwkv.BACKENDS if name != "cuda"]
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


def gradients(backend, tensors):
    """The output, and its gradients for an upstream one that is always the same."""
    upstream = torch.randn(tensors[3].shape, generator=torch.Generator().manual_seed(0))
    out = run(backend, tensors)
    return [out, *torch.autograd.grad((out * upstream).sum(), tensors)]


@functools.cache
def expected(case):
    return gradients("reference", inputs(*EASY[case]))


@pytest.mark.parametrize("case", [case for case in EASY if case != "more-tokens-than-published-limit"])
def test_reference_is_the_definition(case):
    tensors = inputs(*EASY[case])
    expected = definition(*tensors)
    assert torch.allclose(bi_wkv(*[t.double() for t in tensors], backend="reference"), expected, atol=1e-12)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.long] if "limit" in case else []) for case in EASY]
)
@pytest.mark.parametrize("backend", ["auto", *FAST, *ON_GPU])
def test_backend_matches_reference(backend, case):
    found = gradients(backend, inputs(*EASY[case]))
    for name, got, want in zip(("output", "decay", "first", "key", "value"), found, expected(case), strict=True):
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


def volumes(depth=3, height=4, width=5, channels=16):
    """As `inputs`, of voxels."""
    w, u, *flat = inputs(2, depth * height * width, channels, 1.0, 0.0, 3.0, 1.0)
    return [w, u, *(x.detach().unflatten(1, (depth, height, width)).requires_grad_() for x in flat)]


def by_hand(w, u, k, v, order):
    """The voxels in a row, as they are met; every answer brought back to its place."""
    sizes = dict(zip((1, 2, 3), k.shape[1:4], strict=True))
    places = [dict(zip(order, at, strict=True)) for at in itertools.product(*(range(sizes[axis]) for axis in order))]
    row = [(at[1] * sizes[2] + at[2]) * sizes[3] + at[3] for at in places]
    answers = bi_wkv(w, u, k.flatten(1, 3)[:, row], v.flatten(1, 3)[:, row])
    return torch.empty_like(answers).index_copy(1, torch.tensor(row), answers).view_as(v)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_any_order_of_voxels_is_what_sorting_by_hand_gives(order):
    tensors = volumes()
    upstream = torch.randn(tensors[3].shape, generator=torch.Generator().manual_seed(0))
    found, expected = bi_wkv_ordered(*tensors, order), by_hand(*tensors, order)
    assert torch.equal(found, expected)
    for a, b in zip(*(torch.autograd.grad(x, tensors, upstream) for x in (found, expected)), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@needs_gpu
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_any_order_of_voxels_on_the_gpu(order):
    tensors = volumes()
    upstream = torch.randn(tensors[3].shape, generator=torch.Generator().manual_seed(0))
    found = bi_wkv_ordered(*(x.cuda() for x in tensors), order).cpu()
    expected = by_hand(*tensors, order)
    gradients = [torch.autograd.grad(x, tensors, upstream) for x in (found, expected)]
    for a, b in zip([found, *gradients[0]], [expected, *gradients[1]], strict=True):
        assert (a - b).abs().max() < 2e-5 * b.abs().max().clamp_min(0.1)


class Asked(TorchDispatchMode):
    """Notes which of PyTorch's operators are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("order", "channels", "dtype", "contiguous", "copies"),
    [
        pytest.param((2, 3, 1), 48, torch.float32, True, 0, id="another-order"),
        pytest.param((3, 1, 2), 32, torch.float16, True, 0, id="another-order-in-float16"),
        pytest.param((1, 2, 3), 48, torch.float32, True, 0, id="as-it-lies"),
        pytest.param((2, 3, 1), 48, torch.float32, False, 2, id="not-contiguous"),
        pytest.param((2, 3, 1), 8, torch.float32, True, 2, id="rows-shorter-than-64-bytes"),
        pytest.param((2, 3, 1), 37, torch.float32, True, 2, id="rows-not-aligned"),
    ],
)
def test_on_a_gpu_copies_are_made_only_where_they_pay(monkeypatch, order, channels, dtype, contiguous, copies):
    """On PyTorch's stand-ins for tensors on a GPU: shapes and places, no numbers."""
    monkeypatch.setattr(biwkv, "why_not", lambda *_: "")
    monkeypatch.setattr(biwkv.cuda, "why_not", lambda *_: "")
    with FakeTensorMode(), Asked() as asked:
        w = torch.zeros(channels, device="cuda")
        x = torch.zeros(2, 3, 4, 5, channels, device="cuda", dtype=dtype)
        if not contiguous:
            x = torch.zeros(2, channels, 3, 4, 5, device="cuda", dtype=dtype).permute(0, 2, 3, 4, 1)
        output = bi_wkv_ordered(w, w, x, x, order)
    assert output.shape == x.shape and output.dtype == dtype
    assert asked.names.count("rwkv_unet::biwkv") == 1
    assert asked.names.count("aten::clone") == copies


def test_wrong_volumes_and_orders_are_named():
    w, k = torch.zeros(4), torch.zeros(1, 2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"must both be \(B, D, H, W, C\); got \(1, 24, 4\)"):
        bi_wkv_ordered(w, w, k.flatten(1, 3), k.flatten(1, 3), (1, 2, 3))
    for order in ((1, 2), (0, 1, 2), (1, 2, 2), (2, 3, 4)):
        with pytest.raises(ValueError, match="order must be a permutation of 1, 2 and 3"):
            bi_wkv_ordered(w, w, k, k, order)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(B, T, C\)"):
        bi_wkv(torch.zeros(4), torch.zeros(4), torch.zeros(1, 9, 4), torch.zeros(1, 8, 4))
    with pytest.raises(ValueError, match=r"must be \(4,\)"):
        bi_wkv(torch.zeros(3), torch.zeros(4), torch.zeros(1, 9, 4), torch.zeros(1, 9, 4))
    with pytest.raises(ValueError, match="unknown BiWKV backend"):
        bi_wkv(torch.zeros(4), torch.zeros(4), torch.zeros(1, 9, 4), torch.zeros(1, 9, 4), backend="triton")
    with pytest.raises(ValueError, match="on an NVIDIA GPU, not on cpu"):
        bi_wkv(torch.zeros(4), torch.zeros(4), torch.zeros(1, 9, 4), torch.zeros(1, 9, 4), backend="cuda")
