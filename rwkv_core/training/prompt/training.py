"""Training of the promptable network by the clock: however fast the machine, it ends with the rate decayed.

python -m rwkv_core.training.prompt.training --sources FOLDER --start default.safetensors --out FOLDER --seconds 1150
"""

import argparse
import json
import math
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rwkv_core.models import rwkv_unet
from rwkv_core.models.rwkv_unet import RWKVUNet
from rwkv_core.ops import bi_wkv
from rwkv_core.training.prompt.maps import CHANNELS, Prompts, network_input
from rwkv_core.training.prompt.pictures import sheet
from rwkv_core.training.prompt.samples import Sample, SampleGenerator
from rwkv_core.training.prompt.sources import heads_from, scans_from
from rwkv_core.training.prompt.user import SimulatedUser

HELD_OUT_HEADS = 2
ROUNDS = ((1, 0.42), (2, 0.22), (3, 0.14), (4, 0.10), (6, 0.12))
"""How many answers a sample gets in training, each a step, and how often."""
_AVERAGE = 0.998


def promptable(variant: str = "T") -> RWKVUNet:
    """A promptable network with fresh weights."""
    return RWKVUNet(variant, 1, len(CHANNELS))


def start_from(network: RWKVUNet, weights: dict[str, Tensor]) -> None:
    """Take over the weights of a grey-scale network; its stem becomes the part that looks at the image.

    The other channels of the stem keep their fresh weights; so does the last layer.
    """
    state = network.state_dict()
    for name, value in weights.items():
        value = value.float()
        if name.startswith("final_conv"):
            continue
        if not name.startswith("encoder.stage0"):
            state[name].copy_(value)
        elif name.endswith("conv.conv.weight") and value.shape[:2] == (3, 3):  # 1x1 on the repeated image
            state[name][:3] = 0
            state[name][:3, 0] = value.sum(1)
        elif "proj" in name:
            state[name].mul_(0.3)[:, :3] = value
        elif ".se." in name and value.ndim == 4:
            state[name][:3] = 0
            state[name][:3, :3] = value
        elif value.ndim:
            state[name][:3] = value


class Averaged:
    """Exponential moving average of a network's weights and running statistics."""

    def __init__(self, network: nn.Module):
        self.values = {name: value.detach().clone().float() for name, value in network.state_dict().items()}
        self.steps = 0

    def update(self, network: nn.Module) -> None:
        self.steps += 1
        keep = min(_AVERAGE, (1 + self.steps) / (10 + self.steps))
        state = network.state_dict()
        names = [name for name in self.values if state[name].is_floating_point()]
        torch._foreach_lerp_([self.values[name] for name in names], [state[name].float() for name in names], 1 - keep)

    def half(self) -> dict[str, Tensor]:
        return {
            name: value.half().contiguous().cpu()
            for name, value in self.values.items()
            if not name.endswith("num_batches_tracked")
        }


def loss_of(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy and soft Dice loss of logits and targets (B, H, W), and the mean soft Dice."""
    target = target.float()
    share = torch.sigmoid(logits)
    overlap = (share * target).sum((1, 2))
    dice = (2 * overlap + 1) / (share.sum((1, 2)) + target.sum((1, 2)) + 1)
    return F.binary_cross_entropy_with_logits(logits, target) + 1 - dice.mean(), dice.mean()


def rate_at(fraction: float, peak: float) -> float:
    """Warm-up over 3 % of the time, then a cosine to nearly zero."""
    if fraction < 0.03:
        return peak * (0.05 + 0.95 * fraction / 0.03)
    return peak * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * min((fraction - 0.03) / 0.97, 1))))


class Training:
    """The loop.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.began = time.monotonic()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.manual_seed(arguments.seed)
        if arguments.biwkv != "auto":
            rwkv_unet.__dict__["bi_wkv"] = partial(bi_wkv, backend=arguments.biwkv)
        self.random = torch.Generator(self.device).manual_seed(arguments.seed)
        self.out = Path(arguments.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.log_file = self.out / "log.txt"
        sources = Path(arguments.sources)
        maps = sources / "label_maps.npz"
        names = tuple(arguments.scans.split(","))
        scans = scans_from(next(sources.rglob("ct.npz")), self.device, names)
        self.log(f"scans ready, regions {[[int(r.max()) + 1 for r in s.regions] for s in scans]}")
        heads, held_out = heads_from(maps, self.device, arguments.heads, HELD_OUT_HEADS)
        self.generator = SampleGenerator(heads, scans, self.random)
        self.user = SimulatedUser(self.random)
        self.network = promptable().to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            _groups(self.network, 0.02), lr=1e-3, betas=(0.9, 0.98), fused=self.device.type == "cuda"
        )
        self.done, self.steps, self.seen = 0.0, 0, 0
        self._resume()
        random = torch.Generator(self.device).manual_seed(7)
        self.held_out = SampleGenerator(held_out, scans, random, (0.4, 0.3, 0.3))(arguments.held_out, 128)
        self.stopped = False
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopped", True))
        self.log(f"ready on {self.device}: {len(heads.maps)} label maps")

    def log(self, text: str) -> None:
        line = f"{time.monotonic() - self.began:7.1f} s  {text}"
        print(line, flush=True)
        with self.log_file.open("a") as file:
            file.write(line + "\n")

    def _resume(self) -> None:
        state_file, weights = Path(self.arguments.state), self.out / "prompt.safetensors"
        if state_file.is_file():
            state = torch.load(state_file, map_location=self.device, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average = Averaged(self.network)
            self.average.values, self.average.steps = state["average"], state["steps"]
            self.done, self.steps, self.seen = state["done"], state["steps"], state["seen"]
            self.log(f"goes on after {self.done:.0f} s, {self.steps} steps")
        elif weights.is_file():
            self.network.load_state_dict({k: v.float() for k, v in load_file(weights).items()}, strict=False)
            counts = json.loads((self.out / "state.json").read_text())
            self.done, self.steps, self.seen = counts["seconds"], counts["steps"], counts["samples"]
            self.average = Averaged(self.network)
            self.log(f"goes on from weights after {self.done:.0f} s")
        else:
            with torch.no_grad():
                start_from(self.network, load_file(self.arguments.start))
            self.average = Averaged(self.network)

    def save(self, done: float) -> None:
        temporary = self.out / "prompt.tmp"
        save_file(self.average.half(), temporary)
        temporary.replace(self.out / "prompt.safetensors")
        counts = {"seconds": done, "steps": self.steps, "samples": self.seen, "channels": CHANNELS}
        (self.out / "state.json").write_text(json.dumps(counts))
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
            "done": done,
            "steps": self.steps,
            "seen": self.seen,
        }
        temporary = Path(self.arguments.state).with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.arguments.state)

    def run(self) -> None:
        arguments = self.arguments
        start = time.monotonic()
        end = self.began + arguments.seconds - 6  # the last evaluation and file
        total = arguments.total or self.done + (end - start)
        saved = measured = noted = start
        sums = {"loss": 0.0, "dice": 0.0, "first": 0.0}
        counts = {"all": 0, "first": 0}
        generating = 0.0
        losses: list[tuple[int, Tensor, Tensor]] = []
        while time.monotonic() < end and not self.stopped and (not arguments.steps or self.steps < arguments.steps):
            now = time.monotonic()
            fraction = (self.done + now - start) / total
            size, batch = arguments.size, arguments.batch
            with torch.no_grad():
                sample = self.generator(batch, size)
                prompts = self.user.first(sample.target, sample.neighbour)
            if arguments.smoke:
                self._wait()
                generating += time.monotonic() - now
            rounds = _draw(ROUNDS)
            for group in self.optimizer.param_groups:
                group["lr"] = rate_at(fraction, arguments.rate)
            for turn in range(rounds):
                t = time.monotonic()
                with torch.no_grad():
                    maps = network_input(sample.image, prompts)
                if arguments.smoke:
                    self._wait()
                    generating += time.monotonic() - t
                loss, dice, logits = self._step(maps, sample.target)
                losses.append((turn, loss, dice))
                self.seen += len(sample)
                if turn + 1 < rounds:
                    with torch.no_grad():
                        prompts = self.user.correct(prompts, torch.sigmoid(logits), sample.target)
            now = time.monotonic()
            if now - noted > arguments.note or (arguments.smoke and len(losses) > 20):
                for turn, loss, dice in losses:
                    sums["loss"] += float(loss)
                    sums["dice"] += float(dice)
                    counts["all"] += 1
                    sums["first"] += float(dice) * (turn == 0)
                    counts["first"] += turn == 0
                losses.clear()
                now = time.monotonic()
                self.log(
                    f"{fraction:6.1%} step {self.steps}, {self.seen} answers, "
                    f"loss {sums['loss'] / counts['all']:.3f}, soft Dice {sums['dice'] / counts['all']:.3f}, "
                    f"first {sums['first'] / max(counts['first'], 1):.3f}, "
                    f"{counts['all'] * arguments.batch / (now - noted):.0f} answers/s"
                    + (f", generation {generating / (now - noted):.0%}" if arguments.smoke else "")
                )
                sums, counts, noted, generating = dict.fromkeys(sums, 0.0), dict.fromkeys(counts, 0), now, 0.0
            if now - measured > arguments.measure:
                self.log(f"held out: {self.measure()}")
                measured = time.monotonic()
            if now - saved > 110:
                self.save(self.done + time.monotonic() - start)
                saved = time.monotonic()
        self.save(self.done + time.monotonic() - start)
        self.log(f"held out: {self.measure()}")
        self.log("done")

    def _step(self, maps: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.network.train()
        maps = maps.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.network(maps)[:, 0]
        logits = logits.float()
        loss, dice = loss_of(logits, target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.network)
        self.steps += 1
        return loss.detach(), dice.detach(), logits.detach()

    @torch.no_grad()
    def measure(self, picture: Path | None = None) -> str:
        """Dice on held-out samples with the averaged weights: after clicks, of a box, of a neighbour's mask alone."""
        network = promptable().to(self.device)
        network.load_state_dict(self.average.values)
        network.eval()
        random = torch.Generator(self.device).manual_seed(11)
        user = SimulatedUser(random, careful=True)
        sample = self.held_out
        nothing = torch.zeros_like(sample.neighbour)
        prompts = user.first(sample.target, nothing)
        parts = []
        for clicks in range(1, 6):
            maps, answer = self._answer(network, sample.image, prompts)
            if clicks in (1, 2, 3, 5):
                parts.append(f"{clicks} {_dice(answer, sample.target):.3f}")
            if clicks == 1:
                by_source = [
                    f"{float(v):.2f}"
                    for v in _dices(answer, sample.target).quantile(
                        torch.tensor([0.1, 0.25, 0.5, 0.75], device=self.device)
                    )
                ]
                parts.append(f"(quantiles {' '.join(by_source)})")
                if picture:
                    part = Sample(sample.image[:48], sample.target[:48], nothing[:48])
                    sheet(part, maps[:48], picture, answer=answer[:48])
            prompts = user.correct(prompts, answer, sample.target)
        empty = torch.zeros_like(sample.target)
        zeros = torch.zeros_like(sample.image)
        boxed = Prompts(empty, empty, user._box(sample.target), zeros, zeros, empty)
        parts.append(f"box {_dice(self._answer(network, sample.image, boxed)[1], sample.target):.3f}")
        beside = sample.neighbour.flatten(1).any(1) & sample.target.flatten(1).any(1)
        part = Sample(sample.image[beside], sample.target[beside], sample.neighbour[beside])
        if len(part):
            prompts = user.first(part.target, part.neighbour)
            answer = self._answer(network, part.image, prompts)[1]
            parts.append(
                f"neighbour {_dice(answer, part.target):.3f} (copied {_dice(part.neighbour.float(), part.target):.3f})"
            )
        return ", ".join(parts)

    def _answer(self, network: nn.Module, image: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
        maps = network_input(image, prompts)
        answers = []
        for part in maps.split(64):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                answers.append(network(part)[:, 0])
        return maps, torch.sigmoid(torch.cat(answers).float())

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _dices(answer: Tensor, target: Tensor) -> Tensor:
    found = answer > 0.5
    return 2 * (found & target).sum((1, 2)) / (found.sum((1, 2)) + target.sum((1, 2))).clamp_min(1)


def _dice(answer: Tensor, target: Tensor) -> float:
    return float(_dices(answer, target).mean())


def _draw(choices: tuple[tuple[int, float], ...]) -> int:
    at = float(torch.rand(()))
    for value, share in choices:
        at -= share
        if at < 0:
            return value
    return choices[-1][0]


def _groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    heavy = [p for p in network.parameters() if p.ndim > 1]
    light = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": heavy, "weight_decay": decay}, {"params": light, "weight_decay": 0.0}]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", required=True, help="folder with label_maps.npz and ct.npz")
    parser.add_argument("--start", required=True, help="weights of a grey-scale network")
    parser.add_argument("--out", required=True, help="folder of weights and log")
    parser.add_argument("--state", default="/tmp/prompt_state.pt", help="file of the full state, to go on from")
    parser.add_argument("--seconds", type=float, default=1150, help="of this call, start included")
    parser.add_argument(
        "--total", type=float, default=0, help="seconds of the whole training; 0: it ends with this call"
    )
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--heads", type=int, default=18)
    parser.add_argument("--held-out", type=int, default=320)
    parser.add_argument("--scans", default="abdomen,chest,neck,head")
    parser.add_argument("--biwkv", default=os.environ.get("PROMPT_BIWKV", "auto"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--note", type=float, default=20)
    parser.add_argument("--measure", type=float, default=150)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    training = Training(arguments)
    if arguments.smoke:
        sample = training.generator(48, 128)
        maps = network_input(sample.image, training.user.first(sample.target, sample.neighbour))
        sheet(sample, maps, training.out / "prompt_samples.png", columns=6)
    training.run()
    if arguments.smoke and training.device.type == "cuda":
        training.log(f"memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
