"""The time, disk and memory that a search will take, logged before it starts."""

import logging
import math

import torch
from torch import nn

from tascnet.errors import plural
from tascnet.measure import complexity, latency
from tascnet.options import Recipe, TuneBase
from tascnet.surgery import shape_after
from tascnet.train import Learner
from tascnet.tuning.finetune import fine_tunings, origin_of
from tascnet.tuning.space import Space

log = logging.getLogger("tascnet")

# A training step costs about three forward passes.
STEP = 3
# Samples and number of the timed passes.
BATCH, PASSES = 32, 3
# Bytes of a cached feature.
FEATURE_BYTES = 2


def log_estimate(
    learner: Learner, chain: nn.Sequential, options: TuneBase, space: Space, trials: int | None, depth: int
) -> None:
    """Log the time, disk and memory of search and fine-tuning, from timed passes of trunk and tail.

    `depth` is the deepest searched unit; `trials` None means as many as `max_seconds` allows.
    """
    samples, trainer = learner.samples, learner.trainer
    deepest = space.units[depth].block
    features = torch.zeros(shape_after(chain[:deepest], samples.example).shape)
    whole, tail = (
        latency(part, example, batch=BATCH, repeats=PASSES, warmup=1).median_ms / 1000 / BATCH
        for part, example in ((chain, samples.example), (chain[deepest:], features))
    )
    train, val = len(samples.train), len(samples.val)

    def training(recipe: Recipe, forward: float) -> float:
        return recipe.epochs * (STEP * train + val) * forward

    images = train * len(samples.views) + val
    # With ends one pass fills all cuts; see `Tails`.
    passes = 1 if space.exits else depth + 1
    trial = training(trainer.recipe("trial"), tail)
    # One more for the conventional network, unless fine-tuning begins there.
    fits = fine_tunings(options) + (origin_of(options) != "conventional")
    tuning = fits * training(trainer.recipe("finetune"), whole)
    if trials is None:
        trials = round((options.max_seconds or 0.0) / trial)
    total = images * passes * max(whole - tail, 0.0) + trials * trial + tuning
    counted = complexity(chain, samples.example)
    activations = BATCH * sum(math.prod(layer.out_shape or ()) for layer in counted.layers)
    log.info(
        "estimate: %s (%s of %s, fine-tuning %s), %.1f GB of disk for features, %.1f GB of memory",
        _minutes(total),
        plural(trials, "trial"),
        _minutes(trial),
        _minutes(tuning),
        images * (depth + 1) * features[0].numel() * FEATURE_BYTES / 1e9,
        (4 * 4 * counted.params + 8 * activations) / 1e9,
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min"
