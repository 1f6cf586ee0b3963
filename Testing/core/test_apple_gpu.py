"""The Apple GPU is used where it answers as the CPU does. There is none here: a stand-in takes its place."""

import logging

import numpy as np
import pytest
import torch

from rwkv_core.engines import torch_engine
from rwkv_core.engines.torch_engine import TorchEngine

from core.small_models import QuadrantNetwork

ANSWERS = {
    "right": lambda logits: logits + 1e-4,
    "empty": lambda logits: np.concatenate([np.ones_like(logits[:, :1]), 0 * logits[:, 1:]], 1),
    "no numbers": lambda logits: logits * np.nan,
}


def stand_in(monkeypatch, answer):
    """A torch engine that computes on the CPU and answers on "mps" as `answer` makes of it."""

    class Engine(TorchEngine):
        def __init__(self, network, device):
            super().__init__(network, "cpu")
            self.device = device

        def __call__(self, batch):
            return answer(super().__call__(batch)) if self.device == "mps" else super().__call__(batch)

    monkeypatch.setattr(torch_engine, "TorchEngine", Engine)


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_differs_means_the_cpu_with_a_sentence(answer, monkeypatch, caplog):
    stand_in(monkeypatch, ANSWERS[answer])
    with caplog.at_level(logging.WARNING):
        engine = torch_engine.apple_engine(QuadrantNetwork())
    right = answer == "right"
    assert engine.device == ("mps" if right else "cpu")
    assert ("The Apple GPU is not used" in caplog.text) is not right
    assert engine(np.zeros((1, 1, 32, 32), np.float32)).argmax(1).max() == 4


def test_an_operation_that_is_missing_means_the_cpu(monkeypatch, caplog):
    def fail(_):
        raise NotImplementedError("aten::something is not implemented for MPS.")

    stand_in(monkeypatch, fail)
    engine = torch_engine.apple_engine(QuadrantNetwork())
    assert engine.device == "cpu" and "aten::something" in caplog.text
    assert torch.is_grad_enabled()
