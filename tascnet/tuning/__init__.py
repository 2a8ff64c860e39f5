"""Stage one: spaces, goals, surrogate, proposals, study, candidates, and the search that `tune` runs.

Glossary: unit 0 is the dense head and unit u > 0 the u-th tunable part from the output; `k` is the
depth of the search, units 1 to k; `first_trained` in 0 to k is the deepest unit that a configuration
trains; the cut is the index of the first block of that unit in the chain.
"""

from tascnet.tuning.autotune import discover_autotune
from tascnet.tuning.build import Candidate, CandidateBuilder
from tascnet.tuning.build_autotune import AutotuneBuilder, AutotuneCost
from tascnet.tuning.choices import discover_units
from tascnet.tuning.cost import Cost, CostModel
from tascnet.tuning.encoding import encode
from tascnet.tuning.goal import Goal, KnownCosts, Slim
from tascnet.tuning.problem import discover, may_widen
from tascnet.tuning.progression import Limits, next_depth
from tascnet.tuning.propose import propose
from tascnet.tuning.space import Choice, Configuration, Space, Unit
from tascnet.tuning.study import Proposal, Study
from tascnet.tuning.tune import TuneResult, tune

__all__ = [
    "AutotuneBuilder",
    "AutotuneCost",
    "Candidate",
    "CandidateBuilder",
    "Choice",
    "Configuration",
    "Cost",
    "CostModel",
    "Goal",
    "KnownCosts",
    "Limits",
    "Proposal",
    "Slim",
    "Space",
    "Study",
    "TuneResult",
    "Unit",
    "discover",
    "discover_autotune",
    "discover_units",
    "encode",
    "may_widen",
    "next_depth",
    "propose",
    "tune",
]
