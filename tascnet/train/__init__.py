"""Training and judging: `fit` and `evaluate` as plain functions."""

from tascnet.train.evaluate import Evaluation, evaluate
from tascnet.train.fit import Distillation, EpochRecord, FitResult, Recorder, fit
from tascnet.train.mode import batches, freeze_before, reestimate_batchnorm, set_training_mode
from tascnet.train.recipe import Recipe, learning_rate_factor, make_optimizer

__all__ = [
    "Distillation",
    "EpochRecord",
    "Evaluation",
    "FitResult",
    "Recipe",
    "Recorder",
    "batches",
    "evaluate",
    "fit",
    "freeze_before",
    "learning_rate_factor",
    "make_optimizer",
    "reestimate_batchnorm",
    "set_training_mode",
]
