"""Which layers may be pruned, and checks before anything is trained."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from tascnet.errors import ConfigError
from tascnet.inherit.gradients import loss_gradients
from tascnet.measure import reasons
from tascnet.models.info import ModelInfo
from tascnet.options import CRITERIA as NAMED_CRITERIA
from tascnet.options import Prune
from tascnet.pruning.blocks import last_end
from tascnet.pruning.ranks import find_importance, own_scores, refuse_silent
from tascnet.report import uncut_words
from tascnet.surgery import (
    CRITERIA,
    GRADIENTS,
    Trace,
    WidthGroup,
    all_channel_scores,
    check_ignored,
    holds_ignored,
    is_ignored,
    is_removable,
)

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


def spared(options: Prune, first: int, group: WidthGroup) -> str | None:
    """Why a group may not be pruned; None: it may.

    Args:
        first: index of the first block that may change.
    """
    if any(is_ignored(name, options.ignore) for name in group.filters):
        return "spared by `ignore`"
    if group.first_block < first:
        return "not searched by stage tune (`where=tail`)"
    if group.channels < options.min_filters:
        return f"fewer than {options.min_filters} filters (`min_filters`)"
    return None


def eligible_groups(options: Prune, info: ModelInfo, trace: Trace) -> list[WidthGroup]:
    """The groups that may be pruned: wide enough, not spared, and of the layers that may change."""
    first = first_block(options, info)
    return [group for group in trace.groups if spared(options, first, group) is None]


def why_none(options: Prune, first: int, trace: Trace) -> str:
    """Why no filter can be removed from a network without eligible groups; `first` is that of `spared`."""
    if widest := _widest(options, first, trace):
        return f"no layer has `min_filters={options.min_filters}` filters, the widest has {widest}"
    found = reasons(trace, partial(spared, options, first))
    return f"no filters can be removed: {uncut_words(found.items())}"


def _widest(options: Prune, first: int, trace: Trace) -> int:
    """Filters of the widest group that could be pruned with a lower `min_filters`; 0: there is none."""
    lower = replace(options, min_filters=2)
    groups = [group for group in trace.groups if spared(lower, first, group) is None]
    return max((group.channels for group in groups), default=0)


def _nothing_to_remove(options: Prune, first: int, trace: Trace, blocks: Sequence[str]) -> ConfigError:
    """The refusal of a network without eligible groups, of which `blocks` could be removed."""
    if widest := _widest(options, first, trace):
        hint = f"lower it, for example `min_filters={max(2, widest // 2)}`"
    elif trace.groups:
        hint = "spare fewer layers (`ignore`, `where`)"
    else:
        hint = "remove residual blocks: `blocks=true`" if blocks else "take another network"
    return ConfigError(why_none(options, first, trace), hint)


def removable_blocks(options: Prune, info: ModelInfo, network: nn.Sequential) -> list[str]:
    """Names of the blocks that may change and can be removed."""
    return _blocks_from(options, first_block(options, info), network)


def _blocks_from(options: Prune, first: int, network: nn.Sequential) -> list[str]:
    blocks = list(network.named_children())[first:]
    return [
        name
        for name, block in blocks
        if is_removable(block) and not holds_ignored(network, name, options.ignore)
    ]


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
        ConfigError: the criterion could not be loaded, fails or has no scores, nothing can be removed, or
            blocks of a network of texts were to be removed.
    """
    if options.blocks and not example.is_floating_point():
        raise ConfigError(
            "`blocks=true` has no effect on a network of texts, which has no residual blocks", "leave it out"
        )
    check_criterion(options)
    # Of a backbone no layer has been searched yet.
    searched = getattr(getattr(network, "info", None), "first_searched", None)
    first = (searched or 0) if options.where == "tail" else 0
    try:
        check_ignored(network, options.ignore)
    except ConfigError as error:
        # The search may have removed the block that is meant.
        if searched is None:
            raise
        log.warning("%s", error.message)
    trace = Trace(network, example)
    wide = [group for group in trace.groups if spared(options, first, group) is None]
    blocks = _blocks_from(options, first, network)
    has_blocks = bool(blocks) or last_end(network, example, first, options.ignore) is not None
    if not wide and not (options.blocks and has_blocks):
        if not widens:
            raise _nothing_to_remove(options, first, trace, blocks)
        why = why_none(options, first, trace)
        log.warning("%s: only layers that the search widens can be pruned", why)
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
