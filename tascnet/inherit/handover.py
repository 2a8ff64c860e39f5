"""Narrower groups in one go: the channels that stay speak for those that go."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor, nn

from tascnet.inherit.fold import fold_into, input_moments
from tascnet.inherit.reconstruction import rank_all_by_reconstruction
from tascnet.surgery import WidthGroup, consumer_inputs


def hand_over(
    model: nn.Sequential,
    example: Tensor,
    groups: Sequence[WidthGroup],
    widths: Mapping[str, int],
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    *,
    seed: int = 0,
) -> dict[str, list[int]]:
    """Choose the channels that stay, and fold the others into them, in place, before the cut.

    Args:
        model: the network or its tail; set to eval mode.
        example: one sample as its first block takes it.
        groups: some of `width_groups(model, example)`.
        widths: by group, channels that stay; fewer than there are.
        batches: gives inputs and labels on the network's device, the same ones at every call.
        seed: of the pixels that count.

    Returns:
        By group, the channels that stay, in their own order, for `narrow`; see `rank_by_reconstruction` for
        which ones, and `fold_into` for what becomes of the others.
    """
    model.eval()
    inputs = consumer_inputs(model, example, groups)
    moments = input_moments(model, inputs, (samples for samples, _ in batches()), seed=seed)
    counts = {group.name: group.width - widths[group.name] for group in groups}
    rankings = rank_all_by_reconstruction(model, inputs, moments, counts, batches())
    keep = {}
    for group in groups:
        gone = rankings[group.name].order
        fold_into(model, inputs[group.name], moments[group.name], gone)
        keep[group.name] = sorted(set(range(group.width)) - set(gone))
    return keep
