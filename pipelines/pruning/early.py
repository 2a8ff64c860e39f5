"""What stage `prune` would refuse only after the search, refused before it."""

import logging

import torch

from tascnet.options import PRUNE_CRITERIA, Config
from tascnet.pruning import find_importance
from tascnet.surgery import CRITERIA, GRADIENTS, all_channel_scores, is_removable, width_groups

from ..backbone import Source
from ..session import Session
from .ranks import refuse_silent
from .stage import refuse_narrow

log = logging.getLogger("tascnet")


def check_before_search(source: Source, session: Session) -> None:
    """Refuse options of stage `prune` that hold for no network that stage `tune` makes of the backbone.

    Raises:
        ConfigError: the criterion is not there or says nothing, or no layer will be wide enough.
    """
    options, chain = session.config.prune, source.chain
    if options.criterion not in PRUNE_CRITERIA:
        find_importance(options.criterion)
    groups = width_groups(chain, session.example)
    wide = [group for group in groups if group.width >= options.min_filters]
    has_blocks = options.blocks and any(is_removable(block) for block in chain.children())
    may_widen = _may_widen(session.config)
    if not wide and not has_blocks:
        if not may_widen:
            refuse_narrow(groups, options.min_filters)
        log.warning(
            "no layer of the backbone has prune.min_filters=%d filters: stage prune can take some from those "
            "layers alone that the search makes as wide",
            options.min_filters,
        )
    if wide and not may_widen and options.criterion in CRITERIA and options.criterion not in GRADIENTS:
        with torch.no_grad():
            scores = all_channel_scores(chain, session.example, wide, options.criterion, session.config.seed)
        refuse_silent(options.criterion, scores)


def _may_widen(config: Config) -> bool:
    """Whether the search may give the network new layers that are wide enough to be pruned."""
    tune, least = config.tune, config.prune.min_filters
    if tune.head != "new" or (tune.space == "autotune" and max(tune.filters, default=0) >= least):
        return True
    return max(tune.hidden_layers, default=0) > 0 and max(tune.neurons, default=0) >= least
