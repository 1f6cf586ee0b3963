import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from rwkv_core import build_network, load_published
from rwkv_core.errors import CheckpointError
from rwkv_core.models.architectures import ARCHITECTURES

from core.golden_weights import golden_input
from core.published_files import DATA, encoder_file, january, october

GOLDEN = np.load(DATA / "golden_logits.npz")


@pytest.mark.parametrize(
    ("variant", "whole", "encoder"),
    [("T", 3_145_961, 2_938_472), ("S", 9_702_145, 9_416_048), ("B", 17_125_713, 16_694_040)],
)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_parameter_counts(variant, whole, encoder, in_channels):
    network = build_network("rwkv-unet", variant=variant, num_classes=9, in_channels=in_channels)
    assert sum(p.numel() for p in network.parameters()) == whole
    assert sum(p.numel() for p in network.encoder.parameters()) == encoder


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name.startswith("T") else [pytest.mark.long]) for name in GOLDEN.files]
)
def test_published_checkpoints_give_the_published_logits(name):
    variant, classes, size, batch = name.split("_")
    network = build_network("rwkv-unet", variant=variant, num_classes=int(classes[:-1])).eval()
    load_published(network, october(variant, int(classes[:-1])))
    with torch.inference_mode():
        logits = network(torch.from_numpy(golden_input(int(batch[1:]), int(size))))[:, :, ::4, ::4].numpy()
    assert np.abs(logits - GOLDEN[name]).max() / GOLDEN[name].std() < 2e-5


@pytest.mark.parametrize("variant", ["T", "S", pytest.param("B", marks=pytest.mark.long)])
def test_both_generations_of_published_checkpoints_are_the_same_network(variant):
    first, second = (build_network("rwkv-unet", variant=variant, num_classes=9) for _ in range(2))
    load_published(first, october(variant, 9))
    load_published(second, january(variant, 9))
    other = second.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_norms_have_the_published_eps():
    network = build_network("rwkv-unet", variant="T", num_classes=2)
    eps = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            eps.setdefault("batch", set()).add(module.eps)
        elif isinstance(module, nn.LayerNorm):
            kind = "in front of a block" if name.endswith("norm.norm") else name.rsplit(".", 1)[-1]
            eps.setdefault(kind, set()).add(module.eps)
    assert eps == {"batch": {1e-6}, "in front of a block": {1e-6}, "ln1": {1e-5}, "key_norm": {1e-5}}


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 80), (96, 48), (208, 16)])
def test_any_multiple_of_16(height, width):
    network = build_network("rwkv-unet", variant="T", num_classes=3).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 1, height, width)).shape == (1, 3, height, width)


@pytest.mark.parametrize("shape", [(1, 1, 30, 32), (1, 3, 32, 32), (1, 32, 32), (1, 1, 0, 32)])
def test_other_inputs_are_refused_in_words(shape):
    network = build_network("rwkv-unet", variant="T", num_classes=3).eval()
    with pytest.raises(ValueError, match=r"multiples of 16|expected a batch"):
        network(torch.rand(shape))


def test_rgb_and_grey_agree():
    grey = build_network("rwkv-unet", variant="T", num_classes=3).eval()
    colour = build_network("rwkv-unet", variant="T", num_classes=3, in_channels=3).eval()
    colour.load_state_dict(grey.state_dict())
    image = torch.rand(2, 1, 32, 48)
    with torch.inference_mode():
        assert torch.equal(grey(image), colour(image.expand(-1, 3, -1, -1)))


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = build_network("rwkv-unet", variant="T", num_classes=3)
    for _, parameter in network.named_parameters():  # zero decay has a gradient, but norms at zero would hide others
        nn.init.normal_(parameter, std=0.2)
    network(torch.rand(2, 1, 64, 64)).square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias in front of nothing but a norm along the same axis could be silent; here there is none.
    assert silent == []


def test_encoder_file_fills_the_encoder_only():
    network = build_network("rwkv-unet", variant="S", num_classes=5)
    head = network.final_conv.weight.clone()
    load_published(network, encoder_file("S"))
    assert torch.equal(network.encoder.stage4[1].att.key.weight, october("S")["encoder.stage4.1.att.key.weight"])
    assert torch.equal(network.final_conv.weight, head)


def test_wrapped_and_parallel_files():
    network = build_network("rwkv-unet", variant="T", num_classes=9)
    load_published(network, {"state_dict": {f"module.{name}": value for name, value in october("T").items()}})
    assert torch.equal(network.final_conv.bias, october("T")["final_conv.bias"])


def without(name):
    return {key: value for key, value in october("T").items() if key != name}


@pytest.mark.parametrize(
    ("file", "named"),
    [
        (without("decoder2.conv.conv.weight"), r"Missing \(1\): decoder2.conv.conv.weight"),
        (
            october("T") | {"encoder.stage3.9.proj.conv.weight": torch.zeros(1)},
            r"Unexpected \(1\): encoder.stage3.9.proj",
        ),
        (october("T") | {"encoder.stage3.1.bonus": torch.zeros(1)}, r"Unexpected \(1\): encoder.stage3.1.bonus"),
        (october("T", classes=4), r"final_conv.weight: file \(4, 24, 1, 1\), network \(9, 24, 1, 1\)"),
        (october("S"), r"Unexpected .*encoder.stage1.2"),
        (without("encoder.stage3.1.att.key.weight"), r"Missing \(1\): encoder.stage3.1.att.key.weight"),
        ({"epoch": 3, "optimizer": {}}, "no tensors: epoch, optimizer"),
        ({}, "no parameters"),
        (october("T") | {"final_conv.bias": torch.full((9,), torch.nan)}, "not finite, in: final_conv.bias"),
    ],
    ids=["missing", "unexpected", "unknown", "classes", "variant", "live-attention", "no-weights", "empty", "nan"],
)
def test_wrong_files_are_refused_by_name_and_change_nothing(file, named):
    network = build_network("rwkv-unet", variant="T", num_classes=9)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=named):
        load_published(network, file)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_unknown_choices_name_the_known_ones():
    with pytest.raises(ValueError, match="T, S, B"):
        build_network("rwkv-unet", variant="L", num_classes=2)
    with pytest.raises(ValueError, match="rwkv-unet"):
        build_network("u-net", variant="T", num_classes=2)


def test_names_known_without_torch_are_those_of_the_networks():
    for variant in ARCHITECTURES["rwkv-unet"]:
        assert build_network("rwkv-unet", variant=variant, num_classes=2).variant == variant
    code = "import sys, rwkv_core.bundle.catalogue as c; c.load_catalogue(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.long
def test_import_needs_no_compiler_and_starts_no_cuda():
    code = (
        "import subprocess, torch, rwkv_core\n"
        "def refuse(*a, **k): raise SystemExit('a program was started')\n"
        "subprocess.Popen = refuse\n"
        "rwkv_core.build_network('rwkv-unet', variant='T', num_classes=2)\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
