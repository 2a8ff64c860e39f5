"""What a search will take, said before it starts."""

import logging
import time

import torch
from torch import nn

from tascnet.measure.state import input_for
from tascnet.options import RecipeConfig
from tascnet.tuning import Space

from .session import Session
from .tuning.finetune import fine_tunings, origin_of

log = logging.getLogger("tascnet")

# A training step costs about three forward passes: one forward, two backward.
STEP = 3
BATCH = 32


def print_estimate(
    session: Session, chain: nn.Sequential, space: Space, trials: int | None, depth: int
) -> None:
    """Log how long the search and fine-tuning take, and what disk and memory they need.

    One batch through trunk and tail is timed after a warm-up; the rest is arithmetic.

    Args:
        session: data, device and options.
        chain: the pre-trained network.
        space: the search space.
        trials: the most there will be; None: as many as `tune.max_seconds` allows.
        depth: the deepest unit that is searched.
    """
    options, trainer = session.config.tune, session.config.trainer
    deepest = space.units[depth].block
    inputs = input_for(chain, session.example, BATCH)
    with torch.inference_mode():
        features = chain[:deepest](inputs)
        trunk, tail = _seconds(chain[:deepest], inputs), _seconds(chain[deepest:], features)
    samples, val = len(session.train), len(session.val)
    views = len(session.views)
    caching = (samples * views + val) * trunk * (depth + 1)
    trial = _training(trainer.trial, samples, val, tail)
    # One more for the network that is compared with, unless fine-tuning begins there.
    fits = fine_tunings(options) + (origin_of(options) != "conventional")
    tuning = fits * _training(trainer.finetune, samples, val, trunk + tail)
    if trials is None:
        trials = round((options.max_seconds or 0.0) / trial)
    total = caching + trials * trial + tuning
    width = 2 if options.cache_dtype == "float16" else 4
    disk = (samples * views + val) * features[0].numel() * width * (depth + 1)
    memory = 4 * 4 * sum(parameter.numel() for parameter in chain.parameters()) + 8 * _activations(
        chain, inputs
    )
    log.info(
        "estimate: %s (%d trials of %s, fine-tuning %s), %.1f GB of disk for features, %.1f GB of memory",
        _minutes(total),
        trials,
        _minutes(trial),
        _minutes(tuning),
        disk / 1e9,
        memory / 1e9,
    )


def print_iteration_estimate(session: Session, network: nn.Sequential) -> None:
    """Log how long one iteration of pruning takes, and how long all of them at most."""
    options = session.config.prune
    inputs = input_for(network, session.example, BATCH)
    with torch.inference_mode():
        forward = _seconds(network, inputs)
    epochs = options.history_epochs + options.optimise_epochs + options.retrain_epochs
    teacher = options.retrain_epochs * len(session.train) if options.distill else 0
    one = (epochs * (STEP * len(session.train) + len(session.val)) + teacher) * forward
    log.info(
        "estimate: %s an iteration, at most %d of them; %.1f GB of disk each",
        _minutes(one),
        options.max_iterations,
        4 * sum(parameter.numel() for parameter in network.parameters()) / 1e9,
    )


def _seconds(part: nn.Sequential, inputs: torch.Tensor) -> float:
    """Seconds a sample through `part`: the fastest of four passes after a warm-up."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        part(inputs)
        if inputs.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:]) / len(inputs)


def _training(recipe: RecipeConfig, samples: int, val: int, forward: float) -> float:
    return recipe.epochs * (STEP * samples + val) * forward


def _activations(chain: nn.Sequential, inputs: torch.Tensor) -> int:
    """Numbers that the layers put out for one batch."""
    count = 0

    def add(_module: nn.Module, _inputs: object, outputs: torch.Tensor) -> None:
        nonlocal count
        count += outputs.numel()

    leaves = [module for module in chain.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(add) for leaf in leaves]
    try:
        with torch.inference_mode():
            chain(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return count


def _minutes(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min"
