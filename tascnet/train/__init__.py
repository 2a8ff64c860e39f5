"""Training and evaluating networks."""

from tascnet.train.evaluate import Evaluation, evaluate, evaluate_source
from tascnet.train.fit import Distillation, Recorder, fit
from tascnet.train.learner import MEASURED, Learner
from tascnet.train.mode import batches, freeze_before, reestimate_batchnorm, set_training_mode
from tascnet.train.optimiser import learning_rate_factor, make_optimizer
from tascnet.train.steps import CHECKPOINT, Archive

__all__ = [
    "CHECKPOINT",
    "MEASURED",
    "Archive",
    "Distillation",
    "Evaluation",
    "Learner",
    "Recorder",
    "batches",
    "evaluate",
    "evaluate_source",
    "fit",
    "freeze_before",
    "learning_rate_factor",
    "make_optimizer",
    "reestimate_batchnorm",
    "set_training_mode",
]
