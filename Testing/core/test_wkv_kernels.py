"""The kernels of wkv.cu against the float64 definition, on a GPU where there is one, else on a stand-in.

The stand-in runs the same source, thread by thread, on the host: see wkv_stand_in.py for what that shows.
"""

import itertools

import pytest
import torch

from rwkv_core.ops import bi_wkv
from rwkv_core.ops.biwkv import cuda, scan
from rwkv_core.ops.biwkv.scan_plan import BACKWARD, FORWARD, TILES, plan

from core.wkv_stand_in import H100, RTX_4090, T4, HostMachine, needs_host_compiler

pytestmark = pytest.mark.long

NAMES = ("output", "decay", "first", "key", "value")
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU, or PyTorch without CUDA")
MACHINES = [pytest.param("host", marks=needs_host_compiler), pytest.param("gpu", marks=needs_gpu)]

# batch, tokens, channels
SHAPES = {
    "one-number": (1, 1, 1),
    "one-group": (2, 5, 3),
    "network-196": (1, 196, 32),
    "one-more-than-a-tile": (1, 225, 4),
    "whole-tile-480": (1, 480, 8),
    "odd-channels": (2, 130, 37),
    "network-784": (1, 784, 16),
    "two-chunks": (1, 801, 3),
    "chunks-with-filling": (1, 1601, 3),
}
ORDERS = list(itertools.permutations((1, 2, 3)))


def tensors(batch, tokens, channels, scalar=torch.float32, spread=1.5, decay=4.0, device="cpu"):
    random = torch.Generator().manual_seed(tokens + channels)
    w = decay / tokens * torch.randn(channels, generator=random)
    u = torch.randn(channels, generator=random)
    k = spread * torch.randn(batch, tokens, channels, generator=random)
    v, upstream = torch.randn(2, batch, tokens, channels, generator=random)
    return [x.to(device) for x in (w, u, k.to(scalar), v.to(scalar), upstream.to(scalar))]


def definition(w, u, k, v, upstream):
    inputs = [x.detach().cpu().double().requires_grad_() for x in (w, u, k, v)]
    output = bi_wkv(*inputs, backend="reference")
    return [output.detach(), *torch.autograd.grad(output, inputs, upstream.cpu().double())]


def kernels(machine, w, u, k, v, upstream, order=None):
    return [scan.forward(machine, w, u, k, v, order), *scan.backward(machine, w, u, k, v, upstream, order)]


def volumes(depth, height, width, channels, scalar=torch.float32):
    """Two volumes, channels last, of unlike sides."""
    w, u, *flat = tensors(2, depth * height * width, channels, scalar)
    return w, u, *(x.unflatten(1, (depth, height, width)) for x in flat)


def along(order, function, w, u, *others):
    """`function` of copies in that order; what it returns per voxel is put back."""
    axes = [0, *order, 4]
    sizes = [others[0].shape[axis] for axis in order]
    found = function(w, u, *(x.permute(axes).flatten(1, 3) for x in others))
    back = [axes.index(axis) for axis in range(5)]
    return [x.unflatten(1, sizes).permute(back) if x.ndim == 3 else x for x in found]


def errors(found, expected):
    """Largest difference of each result over its largest value."""
    return {
        name: ((a.cpu().double() - b).abs().max() / b.abs().max().clamp_min(0.1)).item()
        for name, a, b in zip(NAMES, found, expected, strict=True)
    }


@pytest.fixture
def place(request):
    """A machine and the device of its tensors."""
    if request.param == "host":
        return HostMachine(), "cpu"
    return cuda.GPU(torch.device("cuda", 0)), "cuda:0"


@pytest.mark.parametrize("place", MACHINES, indirect=True)
@pytest.mark.parametrize("scalar", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_compute_the_definition_and_its_gradients(place, scalar, shape):
    machine, device = place
    inputs = tensors(*SHAPES[shape], TYPES[scalar], device=device)
    found = kernels(machine, *inputs)
    assert [x.dtype for x in found] == [TYPES[scalar], torch.float32, torch.float32, TYPES[scalar], TYPES[scalar]]
    rounding = torch.finfo(TYPES[scalar]).eps / 2
    limits = dict.fromkeys(NAMES, 1e-5 + rounding) | {"decay": 1e-5, "first": 1e-5}  # these two are always float32
    assert all(error < limits[name] for name, error in errors(found, definition(*inputs)).items())


@pytest.mark.parametrize("place", MACHINES, indirect=True)
def test_gradients_share_no_memory(place):
    """torch refuses a custom operator whose outputs alias each other, and so every training step on a GPU."""
    machine, device = place
    w, u, k, v, upstream = tensors(2, 30, 6, device=device)
    gradients = scan.backward(machine, w, u, k, v, upstream)
    assert len({x.untyped_storage().data_ptr() for x in gradients}) == len(gradients)


@pytest.mark.parametrize("place", MACHINES, indirect=True)
@pytest.mark.parametrize(
    ("spread", "decay", "bonus", "offset"),
    [
        pytest.param(1, 400, 1, 0, id="steep"),
        pytest.param(100, 3, 1, 0, id="wide-keys"),
        pytest.param(100, 3, -100, 0, id="wide-keys-negative-bonus"),
        pytest.param(1, 3, 300, 0, id="bonus"),
        pytest.param(1, 3, -300, 0, id="negative-bonus"),
        pytest.param(60, 400, 100, 0, id="all-of-it"),
        pytest.param(1, 3, 1, 3000, id="far-from-zero"),
    ],
)
def test_any_range_in_float32(place, spread, decay, bonus, offset):
    machine, device = place
    w, u, k, v, upstream = tensors(1, 300, 6, spread=spread, decay=decay, device=device)
    inputs = [w, u.abs() * bonus, k + offset, v, upstream]
    found, expected = kernels(machine, *inputs), definition(*inputs)
    difference = errors(found, expected)
    assert difference["output"] < 2e-5
    assert all(torch.isfinite(x).all() for x in found)
    assert max(difference["key"], difference["value"]) < 5e-4  # exponents of hundreds leave 1e-5 of a weight


@needs_host_compiler
@pytest.mark.parametrize(("memory", "tokens"), [(RTX_4090, 450), (T4, 600), (H100, 1100)], ids=["4090", "T4", "H100"])
def test_cut_into_chunks_gives_the_same(memory, tokens):
    machine = HostMachine(memory)
    inputs = tensors(1, tokens, 9)
    assert max(errors(kernels(machine, *inputs), definition(*inputs)).values()) < 1e-5
    assert machine.launched == ["biwkv_sums", "biwkv_forward", "biwkv_sums", "biwkv_gradient_sums", "biwkv_backward"]


@pytest.mark.parametrize("place", MACHINES, indirect=True)
@pytest.mark.parametrize("scalar", ["float32", "float16"])
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_voxels_in_any_order_without_copies(place, order, scalar):
    """Tokens that do not fill a chunk, channels that do not fill their last block."""
    machine, device = place
    inputs = [x.to(device) for x in volumes(3, 5, 7, 24, TYPES[scalar])]
    found = kernels(machine, *inputs, order=order)
    assert all(x.is_contiguous() for x in found)
    rounding = torch.finfo(TYPES[scalar]).eps / 2
    limits = dict.fromkeys(NAMES, 1e-5 + rounding) | {"decay": 1e-5, "first": 1e-5}
    difference = errors(found, along(order, definition, *inputs))
    assert all(error < limits[name] for name, error in difference.items())


@needs_host_compiler
@pytest.mark.parametrize("channels", [9, 20], ids=["rows-not-aligned", "rows-aligned"])
@pytest.mark.parametrize("order", [(2, 3, 1), (3, 1, 2)], ids=str)
def test_order_over_several_chunks_is_that_of_copies_to_the_last_bit(order, channels):
    machine = HostMachine(T4)
    inputs = volumes(6, 7, 11, channels)
    found = kernels(machine, *inputs, order=order)
    assert machine.launched == ["biwkv_sums", "biwkv_forward", "biwkv_sums", "biwkv_gradient_sums", "biwkv_backward"]
    copied = along(order, lambda *x: kernels(machine, *x), *inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, copied, strict=True))


@needs_host_compiler
def test_no_barrier_is_missing():
    """Threads that take turns in another order find the same, to the last bit; so do two runs."""
    inputs = tensors(1, 500, 21)
    found = [kernels(HostMachine(T4, backwards), *inputs) for backwards in (False, True, False)]
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("place", MACHINES, indirect=True)
def test_rows_that_are_not_aligned(place):
    """A view that begins in the middle of 16 bytes, with rows that are multiples of it."""
    machine, device = place
    inputs = tensors(1, 40, 16, device=device)
    shifted = [torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x) for x in inputs[2:]]
    found = kernels(machine, *inputs[:2], *shifted)
    assert max(errors(found, definition(*inputs)).values()) < 1e-5


@pytest.mark.parametrize("place", MACHINES, indirect=True)
def test_strided_inputs_and_mixed_types(place):
    machine, device = place
    w, u, k, v, upstream = tensors(2, 30, 8, device=device)
    k = k.transpose(1, 2).contiguous().transpose(1, 2)
    found = kernels(machine, w.half(), u.double(), k.half(), v, upstream)
    assert [x.dtype for x in found] == [torch.float32, torch.float16, torch.float64, torch.float16, torch.float32]
    difference = errors(found, definition(w.half(), u, k.half(), v, upstream))
    assert difference["output"] < 1e-5 and max(difference.values()) < 1e-3


@pytest.mark.parametrize("place", MACHINES, indirect=True)
def test_not_a_number_stays_in_its_channel(place):
    machine, device = place
    inputs = tensors(2, 30, 8, device=device)
    inputs[2][0, 3, 5] = torch.nan
    output = kernels(machine, *inputs)[0]
    bad = torch.isnan(output)
    assert bad[0, :, 5].all() and bad.sum() == 30


@needs_host_compiler
@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_the_operator_is_wired_for_autograd_and_compilers():
    machine = HostMachine()
    with torch.library._scoped_library("rwkv_unet", "IMPL") as library:
        library.impl("biwkv", lambda *x: scan.forward(machine, *x), "CPU")
        library.impl("biwkv_backward", lambda *x: scan.backward(machine, *x), "CPU")
        w, u, k, v, upstream = tensors(2, 11, 6)
        inputs = [x.requires_grad_() for x in (w, u, k, v)]
        torch.library.opcheck(cuda.biwkv, inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = cuda.biwkv(*inputs)
        found = [output, *torch.autograd.grad(output, inputs, upstream)]
        assert output.dtype == torch.float32
        assert max(errors(found, definition(w, u, k, v, upstream)).values()) < 1e-5
        volume = [x.detach().requires_grad_() for x in volumes(1, 3, 4, 6)[:4]]
        torch.library.opcheck(cuda.biwkv, [*volume, [2, 3, 1]])
        half = cuda.biwkv(w, u, k.bfloat16(), v.bfloat16())
        assert half.dtype == torch.bfloat16
        with torch.no_grad():
            assert not cuda.biwkv(*inputs).requires_grad


@needs_gpu
def test_in_a_cuda_graph_on_another_stream():
    w, u, k, v, _ = tensors(2, 784, 32, torch.bfloat16, device="cuda:0")
    bi_wkv(w, u, k, v, backend="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = bi_wkv(w, u, k, v)
    k.copy_(k.flip(1))
    graph.replay()
    assert torch.equal(output, bi_wkv(w, u, k, v))


@needs_gpu
@pytest.mark.parametrize("route", ["nvrtc", "ninja"])
def test_both_ways_to_compile(route):
    machine = cuda.GPU(torch.device("cuda", 0), (route,))
    inputs = tensors(1, 196, 8, device="cuda:0")
    assert max(errors(kernels(machine, *inputs), definition(*inputs)).values()) < 1e-5
    inputs = [x.cuda() for x in volumes(3, 5, 7, 20)]
    found = kernels(machine, *inputs, order=(2, 3, 1))
    assert max(errors(found, along((2, 3, 1), definition, *inputs)).values()) < 1e-5


@needs_gpu
def test_gradcheck_on_the_gpu():
    inputs = [x.requires_grad_() for x in tensors(1, 13, 3, device="cuda:0")[:4]]
    torch.autograd.gradcheck(cuda.biwkv, inputs, eps=1e-2, atol=2e-2, rtol=2e-2, nondet_tol=0)


def test_tiles_suit_every_gpu():
    for memory, kind, tokens in itertools.product(
        (H100, RTX_4090, T4), (FORWARD, BACKWARD), (1, 196, 784, 4096, 10**6)
    ):
        cut = plan(kind, tokens, memory)
        assert kind.shared_bytes(cut.tile) <= memory.per_block
        assert cut.chunks * cut.chunk_tokens >= tokens > (cut.chunks - 1) * cut.chunk_tokens
        assert cut.chunk_tokens <= cut.tile.tokens
    assert all(tile.group * tile.groups % 2 for tile in TILES)
    assert plan(FORWARD, 784, H100).chunks == plan(BACKWARD, 784, H100).chunks == 1


def test_two_blocks_share_a_multiprocessor_of_an_h100():
    for kind, tokens in itertools.product((FORWARD, BACKWARD), (196, 784, 4096)):
        assert 2 * (kind.shared_bytes(plan(kind, tokens, H100).tile) + 1024) <= H100.per_multiprocessor
