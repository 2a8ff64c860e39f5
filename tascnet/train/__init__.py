"""Training and evaluating networks."""

from tascnet.train.distillation import Distillation
from tascnet.train.evaluate import evaluate_source
from tascnet.train.fit import fit, gentler
from tascnet.train.heads import FeaturePair, SpreadOf, cache_places, cached_pair, fit_head, fit_new_head
from tascnet.train.learner import MEASURED, Learner, check_trainer
from tascnet.train.mode import batches, freeze_before, reestimate_batchnorm, set_training_mode
from tascnet.train.optimiser import learning_rate_factor
from tascnet.train.steps import CHECKPOINT, FEATURES, Archive

__all__ = [
    "CHECKPOINT",
    "FEATURES",
    "MEASURED",
    "Archive",
    "Distillation",
    "FeaturePair",
    "Learner",
    "SpreadOf",
    "batches",
    "cache_places",
    "cached_pair",
    "check_trainer",
    "evaluate_source",
    "fit",
    "fit_head",
    "fit_new_head",
    "freeze_before",
    "gentler",
    "learning_rate_factor",
    "reestimate_batchnorm",
    "set_training_mode",
]
