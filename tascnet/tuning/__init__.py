"""Stage one: spaces, goals, surrogate, proposals, study, candidates, and the search that `tune` runs.

Glossary: unit 0 is the dense head and unit u > 0 the u-th tunable part from the output; `k` is the depth of
the search, units 1 to k; `first_trained` in 0 to k is the deepest unit that a configuration trains; the cut
is the index of the first block of that unit in the chain.
"""

from tascnet.tuning.build import Candidate, CandidateBuilder
from tascnet.tuning.cost import Cost
from tascnet.tuning.goal import Goal, KnownCosts
from tascnet.tuning.problem import discover, may_widen
from tascnet.tuning.progression import Limits, next_depth
from tascnet.tuning.propose import propose
from tascnet.tuning.space import Choice, Configuration, Space, Unit
from tascnet.tuning.study import Study
from tascnet.tuning.tune import TuneResult, tune

__all__ = [
    "Candidate",
    "CandidateBuilder",
    "Choice",
    "Configuration",
    "Cost",
    "Goal",
    "KnownCosts",
    "Limits",
    "Space",
    "Study",
    "TuneResult",
    "Unit",
    "discover",
    "may_widen",
    "next_depth",
    "propose",
    "tune",
]
