"""The search: spaces, goals, surrogate, proposals, study, discovery and building of candidates.

Glossary: unit 0 is the dense head and unit u > 0 the u-th tunable part from the output; `k` is the
depth of the search, units 1 to k; `first_trained` in 0 to k is the deepest unit that a configuration
trains; the cut is the index of the first block of that unit in the chain.
"""

from tascnet.tuning.autotune import discover_autotune
from tascnet.tuning.build import Candidate, CandidateBuilder, HandOver, build_candidate
from tascnet.tuning.build_autotune import AutotuneCost, build_autotune
from tascnet.tuning.cost import Cost, CostModel
from tascnet.tuning.discover import discover_units
from tascnet.tuning.encoding import decode, encode
from tascnet.tuning.explain import Insight, explain
from tascnet.tuning.goal import Goal, Slim
from tascnet.tuning.progression import Advice, Limits, layerwise_depths, next_depth
from tascnet.tuning.propose import Observation, Suggestion, propose
from tascnet.tuning.space import Choice, Configuration, Space, Unit
from tascnet.tuning.stopping import median_stop
from tascnet.tuning.study import Proposal, Study
from tascnet.tuning.trial import Trial
from tascnet.tuning.winner import binomial_error, front, winner

__all__ = [
    "Advice",
    "AutotuneCost",
    "Candidate",
    "CandidateBuilder",
    "Choice",
    "Configuration",
    "Cost",
    "CostModel",
    "Goal",
    "HandOver",
    "Insight",
    "Limits",
    "Observation",
    "Proposal",
    "Slim",
    "Space",
    "Study",
    "Suggestion",
    "Trial",
    "Unit",
    "binomial_error",
    "build_autotune",
    "build_candidate",
    "decode",
    "discover_autotune",
    "discover_units",
    "encode",
    "explain",
    "front",
    "layerwise_depths",
    "median_stop",
    "next_depth",
    "propose",
    "winner",
]
