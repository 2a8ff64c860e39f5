"""Stage two: redundant filters, or whole residual blocks, are removed iteration by iteration.

A criterion ranks the filters of each group (`ranks`), counts by group follow from the rankings or from equal
shares (`allocate`), and removed filters are folded into the kept ones (`cut`). An iteration is decided,
applied and recorded (`iteration`); the journal of all iterations shows from which one the next starts and
whether pruning ends (`schedule`).

Words: a filter's *trajectory* is its weights after every recorded epoch, one long vector; in a width
group it joins the filters of all coupled layers. A *pair* is two filters of a group with similar
trajectories; its *removed* member is the one with the smaller L1 norm, the other is *kept*. A *target* is a
cost at which pruning ends.
Symbols: `n` filters of a group, `d` weights of one filter over all of the group's layers, `e` epochs.

Source: Basha et al. 2022, TASCNet (arXiv 2205.05967), after History Based Filter Pruning.
"""

from tascnet.pruning.check import check_options
from tascnet.pruning.prune import PruneResult, prune

__all__ = ["PruneResult", "check_options", "prune"]
