"""The run that made the shipped promptable model: `rwkv-unet train DATA --preset prompt -o RUN`.

By the clock: however fast the machine, it ends with the learning rate decayed. DATA holds `training_label_maps` (as
SynthSeg publishes them) and `prompt/training_images` (CTs in Hounsfield units, without labels). RUN keeps a checkpoint
and a log; the finished bundle is RUN/bundle.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from rwkv_core.bundle.bundle import read_bundle, write_bundle
from rwkv_core.bundle.store import SHIPPED, load_bundle
from rwkv_core.engines import choose_device
from rwkv_core.errors import CancelledError, InputError, Remedy
from rwkv_core.files import replacing
from rwkv_core.inference.prompt_maps import CHANNELS
from rwkv_core.models.rwkv_unet import RWKVUNet
from rwkv_core.training.pictures import draw_samples
from rwkv_core.training.prompt.maps import Prompts, network_input
from rwkv_core.training.prompt.samples import Sample, SampleGenerator
from rwkv_core.training.prompt.sources import read_heads, read_scans
from rwkv_core.training.prompt.user import SimulatedUser
from rwkv_core.training.recipe import StrictModel

HELD_OUT_HEADS = 2
ROUNDS = ((1, 0.42), (2, 0.22), (3, 0.14), (4, 0.10), (6, 0.12))
"""How many answers a sample gets in training, each a step, and how often."""
_AVERAGE = 0.998


def promptable(variant: str = "T") -> RWKVUNet:
    """Give a promptable network with fresh weights."""
    return RWKVUNet(variant, 1, len(CHANNELS))


@torch.no_grad()
def start_from(network: RWKVUNet, weights: dict[str, Tensor]) -> None:
    """Take over the weights of a grey-scale network; its stem becomes the part that looks at the image.

    The other channels of the stem keep their fresh weights; so does the last layer.
    """
    state = network.state_dict()
    for name, value in weights.items():
        value = value.float()
        if name.startswith("final_conv") or name.endswith("num_batches_tracked"):
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


class PromptRecipe(StrictModel):
    """How the promptable network is trained.

    Attributes:
        seconds: of the whole training, over all runs; the learning rate falls over them.
        batch: samples of a step.
        size: pixels along each side of a sample.
        rate: highest learning rate.
        held_out: generated samples to measure with, from label maps that are not trained on.
        seed: of all random numbers.
    """

    seconds: PositiveFloat = 1200.0
    batch: PositiveInt = 128
    size: PositiveInt = 128
    rate: PositiveFloat = 2e-3
    held_out: PositiveInt = 320
    seed: PositiveInt = 1


CHECKPOINT, LOG, STOP = "last.pt", "log.txt", "stop"
"""Files of a run: what it goes on from, what it said, and what ends it when it appears."""
_MEASURE, _SAVE, _NOTE = 150.0, 120.0, 20.0  # seconds between


def train_promptable(
    data: Path,
    run: Path,
    recipe: PromptRecipe | None = None,
    device: str = "auto",
    resume: bool = False,
    tell: Callable[[str], None] = print,
    stop: Callable[[], bool] = lambda: False,
    init: str | Path | None = None,
) -> Path:
    """Train, or go on training; gives the folder of the finished bundle.

    Args:
        data: folder with `training_label_maps` and `prompt/training_images`.
        run: folder of the run.
        recipe: None for the one that made the shipped weights; a resumed run takes its own.
        device: as in `rwkv_core.engines.make_engine`.
        resume: go on with the run in that folder.
        tell: takes each line of the log.
        stop: asked after every step.
        init: promptable bundle to go on from, such as "prompt"; None starts from the encoder of the model "default".

    Raises:
        InputError: when a source is missing, when `init` does not answer to clicks, when the folder holds a run
            already, or none to resume.
        CancelledError: when it was stopped; it can be resumed.
    """
    checkpoint = run / CHECKPOINT
    if resume and not checkpoint.is_file():
        raise InputError(
            f"{run} holds no run that could go on.", hint="Start one, or check the path.", remedy=Remedy("start run")
        )
    if not resume and checkpoint.exists():
        raise InputError(
            f"{run} holds a run already.", hint="Resume it, or choose another folder.", remedy=Remedy("resume run")
        )
    run.mkdir(parents=True, exist_ok=True)
    (run / STOP).unlink(missing_ok=True)
    training = _Training(data, run, recipe, torch.device(choose_device(device, "auto")), resume, tell, init)
    training.run(lambda: stop() or (run / STOP).exists())
    return training.finish()


class _Training:
    """The loop and what it needs."""

    def __init__(
        self,
        data: Path,
        folder: Path,
        recipe: PromptRecipe | None,
        device: torch.device,
        resume: bool,
        tell: Callable[[str], None],
        init: str | Path | None,
    ):
        self.folder, self.device, self.tell = folder, device, tell
        self.began = time.monotonic()
        self.network = promptable().to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Averaged(self.network)
        self.optimizer = torch.optim.AdamW(
            _groups(self.network, 0.02), lr=1e-3, betas=(0.9, 0.98), fused=device.type == "cuda"
        )
        self.recipe, self.done, self.steps, self.seen = recipe or PromptRecipe(), 0.0, 0, 0
        if resume:
            self._resume()
        else:
            self._start(init)
            self.average = Averaged(self.network)
        torch.manual_seed(self.recipe.seed + self.steps)
        random = torch.Generator(device).manual_seed(self.recipe.seed + self.steps)
        scans = read_scans(data / "prompt" / "training_images", device)
        heads, held_out = read_heads(data / "training_label_maps", device, HELD_OUT_HEADS)
        self.generator, self.user = SampleGenerator(heads, scans, random), SimulatedUser(random)
        fixed = torch.Generator(device).manual_seed(7)
        self.held_out = SampleGenerator(held_out, scans, fixed, (0.4, 0.3, 0.3))(self.recipe.held_out, self.recipe.size)
        self.log(f"ready on {device}: {len(heads.maps)} label maps, {len(scans)} CTs")

    def log(self, text: str) -> None:
        line = f"{time.monotonic() - self.began:7.1f} s  {text}"
        self.tell(line)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _start(self, init: str | Path | None) -> None:
        if init is None:
            start_from(self.network, read_bundle(SHIPPED / "default").network.state_dict())
            return
        bundle = load_bundle(init)
        if bundle.config.kind != "prompt" or bundle.config.in_channels != len(CHANNELS):
            raise InputError(
                f"{bundle.config.title} does not answer to clicks.",
                hint='Start from a promptable model such as "prompt", or name none.',
            )
        self.network.load_state_dict(bundle.network.state_dict())

    def _resume(self) -> None:
        state = torch.load(self.folder / CHECKPOINT, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.values, self.average.steps = state["average"], state["steps"]
        self.done, self.steps, self.seen = state["done"], state["steps"], state["seen"]
        self.recipe = PromptRecipe(**state["recipe"])
        self.log(f"goes on after {self.done:.0f} s, {self.steps} steps")

    def save(self, done: float) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
            "recipe": self.recipe.model_dump(),
            "done": done,
            "steps": self.steps,
            "seen": self.seen,
        }
        with replacing(self.folder / CHECKPOINT) as temporary:
            torch.save(state, temporary)

    def finish(self) -> Path:
        """Write the bundle."""
        network = promptable()
        network.load_state_dict({name: value.cpu() for name, value in self.average.values.items()})
        shipped = read_bundle(SHIPPED / "prompt").config
        record = {**shipped.training, **self.recipe.model_dump(), "answers": self.seen, "steps": self.steps}
        config = shipped.model_copy(update={"training": record})
        return write_bundle(self.folder / "bundle", config, network, half=True).folder

    def run(self, stop: Callable[[], bool]) -> None:
        """Train until the time is over.

        Raises:
            CancelledError: when `stop` said so.
        """
        recipe, start = self.recipe, time.monotonic() - self.done
        shown = self.generator(24, recipe.size)
        maps = network_input(shown.image, self.user.first(shown.target, shown.neighbour))
        draw_samples(self.folder / "samples.png", shown, maps)
        saved = noted = time.monotonic()
        next_measure = saved + _MEASURE
        losses: list[tuple[int, Tensor, Tensor]] = []
        while (spent := time.monotonic() - start) < recipe.seconds:
            for group in self.optimizer.param_groups:
                group["lr"] = rate_at(spent / recipe.seconds, recipe.rate)
            with torch.no_grad():
                sample = self.generator(recipe.batch, recipe.size)
                prompts = self.user.first(sample.target, sample.neighbour)
            rounds = _draw(ROUNDS)
            for turn in range(rounds):
                with torch.no_grad():
                    maps = network_input(sample.image, prompts)
                loss, dice, logits = self._step(maps, sample.target)
                losses.append((turn, loss, dice))
                self.seen += len(sample)
                if turn + 1 < rounds:
                    with torch.no_grad():
                        prompts = self.user.correct(prompts, torch.sigmoid(logits), sample.target)
                if stop():
                    self.save(time.monotonic() - start)
                    raise CancelledError("Stopped; it can be resumed.")
            now = time.monotonic()
            if now - noted > _NOTE:
                self._note(losses, spent / recipe.seconds, now - noted)
                losses.clear()
                noted = time.monotonic()
            if now > next_measure:
                self.log(f"held out: {self.measure()}")
                taken = time.monotonic() - now
                next_measure = now + max(_MEASURE, 20 * taken)  # on a CPU, it takes as long as many steps
            if now - saved > _SAVE:
                self.save(time.monotonic() - start)
                saved = time.monotonic()
        self.save(time.monotonic() - start)
        self.log(f"held out: {self.measure()}")

    def _note(self, losses: list[tuple[int, Tensor, Tensor]], fraction: float, seconds: float) -> None:
        loss = sum(float(loss) for _, loss, _ in losses) / len(losses)
        dice = sum(float(dice) for _, _, dice in losses) / len(losses)
        first = [float(dice) for turn, _, dice in losses if turn == 0]
        self.log(
            f"{fraction:6.1%} step {self.steps}, {self.seen} answers, loss {loss:.3f}, soft Dice {dice:.3f}, first "
            f"{sum(first) / max(len(first), 1):.3f}, {len(losses) * self.recipe.batch / seconds:.1f} answers/s"
        )

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
    def measure(self) -> str:
        """Dice on held-out samples with the averaged weights: after clicks, of a box, of a neighbour's mask alone."""
        network = promptable().to(self.device)
        network.load_state_dict(self.average.values)
        network.eval()
        user = SimulatedUser(torch.Generator(self.device).manual_seed(11), careful=True)
        sample = self.held_out
        prompts = user.first(sample.target, torch.zeros_like(sample.neighbour))
        parts = []
        for clicks in range(1, 6):
            answer = self._answer(network, sample.image, prompts)
            if clicks in (1, 2, 3, 5):
                parts.append(f"{clicks} {_dice(answer, sample.target):.3f}")
            prompts = user.correct(prompts, answer, sample.target)
        empty, zeros = torch.zeros_like(sample.target), torch.zeros_like(sample.image)
        boxed = Prompts(empty, empty, user.box(sample.target), zeros, zeros, empty)
        parts.append(f"box {_dice(self._answer(network, sample.image, boxed), sample.target):.3f}")
        beside = sample.neighbour.flatten(1).any(1) & sample.target.flatten(1).any(1)
        if beside.any():
            part = Sample(sample.image[beside], sample.target[beside], sample.neighbour[beside])
            answer = self._answer(network, part.image, user.first(part.target, part.neighbour))
            copied = _dice(part.neighbour.float(), part.target)
            parts.append(f"neighbour {_dice(answer, part.target):.3f} (copied {copied:.3f})")
        return ", ".join(parts)

    def _answer(self, network: nn.Module, image: Tensor, prompts: Prompts) -> Tensor:
        answers = []
        for part in network_input(image, prompts).split(64):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                answers.append(network(part)[:, 0])
        return torch.sigmoid(torch.cat(answers).float())


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
