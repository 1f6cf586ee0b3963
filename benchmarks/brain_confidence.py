"""Whether a brain model's confidence means something: python benchmarks/brain_confidence.py LABEL_MAPS [--model ID]

LABEL_MAPS holds some of SynthSeg's label maps with their priors, best those that were kept from training. For every
structure of every generated slice, the confidence (expected Dice) is set beside the Dice with the label map. Printed
are the correlations over all of them, and what share of the poor ones a warning would have found.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from reference_scans import FEWEST, confidence_in_words, dice

from rwkv_core import load_bundle
from rwkv_core.inference.confidence import Confidence
from rwkv_core.training.synthesis import SAGITTAL, SliceGenerator, read_label_maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("label_maps", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--slices", type=int, default=64)
    parser.add_argument("--pixel", type=float, default=1.1, help="mm")
    options = parser.parse_args()
    bundle = load_bundle(options.model)
    config, network = bundle.config, bundle.network.eval()
    classes = [c.freesurfer for c in (*config.classes, *config.surroundings)]
    generate = SliceGenerator(read_label_maps(options.label_maps), classes, options.pixel, seed=11)
    pairs = []
    for _ in range(-(-options.slices // 8)):
        image, label, plane = generate(8, 176, 192)
        told = plane != SAGITTAL
        with torch.inference_mode():
            probabilities = network(image[told]).softmax(1).numpy()
        for chances, truth in zip(probabilities, label[told].numpy(), strict=True):
            answer = chances.argmax(0)
            confidence = Confidence(len(chances))
            confidence.add(chances, answer)
            for channel, sure in enumerate(confidence.values()):
                in_answer, in_truth = answer == channel, truth == channel
                if channel and not np.isnan(sure) and max(in_answer.sum(), in_truth.sum()) >= FEWEST:
                    pairs.append((sure, dice(in_answer, in_truth)))
    print(f"Axial and coronal slices. {confidence_in_words(pairs)}")


if __name__ == "__main__":
    main()
