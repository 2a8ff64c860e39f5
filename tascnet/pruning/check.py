"""Which layers may be pruned, and checks before anything is trained."""

import logging

import torch
from torch import Tensor, nn

from tascnet.errors import ConfigError
from tascnet.inherit.gradients import loss_gradients
from tascnet.models.info import ModelInfo
from tascnet.options import CRITERIA as NAMED_CRITERIA
from tascnet.options import Prune
from tascnet.pruning.ranks import find_importance, own_scores, refuse_silent
from tascnet.surgery import CRITERIA, GRADIENTS, Trace, WidthGroup, all_channel_scores, is_removable

log = logging.getLogger("tascnet")


def first_block(options: Prune, info: ModelInfo) -> int:
    """Index of the first block that may change: 0, or with `where=tail` the first that was searched.

    Raises:
        ConfigError: the network does not say which of its layers stage tune has searched.
    """
    if options.where == "all":
        return 0
    if info.first_searched is None:
        raise ConfigError(
            "`where=tail` needs to know which layers were searched, but the network does not say it",
            "give a network of stage tune, or `where=all`",
        )
    return info.first_searched


def eligible_groups(options: Prune, info: ModelInfo, trace: Trace) -> list[WidthGroup]:
    """The groups that may be pruned: wide enough, and of the layers that may change."""
    first = first_block(options, info)
    return [g for g in trace.groups if g.width >= options.min_filters and g.first_block >= first]


def removable_blocks(options: Prune, info: ModelInfo, network: nn.Sequential) -> list[str]:
    """Names of the blocks that may change and can be removed."""
    blocks = list(network.named_children())[first_block(options, info) :]
    return [name for name, block in blocks if is_removable(block)]


def check_criterion(options: Prune) -> None:
    """Refuse a criterion of the user's own that could not be loaded.

    Raises:
        ConfigError: its module cannot be imported, or holds no such importance.
    """
    if options.criterion not in NAMED_CRITERIA:
        find_importance(options.criterion)


def check_options(options: Prune, network: nn.Sequential, example: Tensor, widens: bool) -> None:
    """Refuse options with which pruning could not begin, before anything is trained.

    Args:
        network: the network, or the backbone that stage tune starts from.
        example: one sample as it takes it, `1 x ...`; word numbers for a network of texts.
        widens: whether stage tune may still make layers wide enough.

    Raises:
        ConfigError: the criterion could not be loaded, fails or has no scores, no layer is wide enough, or
            blocks of a network of texts were to be removed.
    """
    if options.blocks and not example.is_floating_point():
        raise ConfigError(
            "`blocks=true` has no effect on a network of texts, which has no residual blocks", "leave it out"
        )
    check_criterion(options)
    # Of a backbone no layer has been searched yet.
    searched = getattr(getattr(network, "info", None), "first_searched", None) or 0
    first = searched if options.where == "tail" else 0
    trace = Trace(network, example)
    groups = [group for group in trace.groups if group.first_block >= first]
    wide = [group for group in groups if group.width >= options.min_filters]
    has_blocks = options.blocks and any(is_removable(block) for block in list(network)[first:])
    if not wide and not has_blocks:
        if not widens:
            widest = max((group.width for group in groups), default=0)
            raise ConfigError(
                f"no layer has `min_filters={options.min_filters}` filters, the widest has {widest}",
                f"lower it, for example `min_filters={max(2, widest // 2)}`",
            )
        log.warning(
            "no layer of the backbone has `min_filters=%d` filters: only layers that the search widens can be"
            " pruned",
            options.min_filters,
        )
    if wide and options.criterion not in NAMED_CRITERIA:
        # It is tried on noise: whatever it raises is found before anything is trained.
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(example.shape, generator=generator) if example.is_floating_point() else example
        with loss_gradients(network, [(noise, torch.zeros(1, dtype=torch.int64))]):
            own_scores(options.criterion, network, trace, wide)
    if wide and not widens and options.criterion in CRITERIA and options.criterion not in GRADIENTS:
        with torch.no_grad():
            scores = all_channel_scores(network, trace, wide, options.criterion)
        refuse_silent(options.criterion, scores)
