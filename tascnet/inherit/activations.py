"""Looking into a network while it runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle


@contextmanager
def attached(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks at the end."""
    held = list(handles)
    try:
        yield
    finally:
        for handle in held:
            handle.remove()


def drawn_places(maps: Tensor, count: int, generator: torch.Generator) -> Tensor | None:
    """Pixels drawn at random of each map of `b x c x ...`, `b x p` flat positions; of features `b x c` None.

    All of them, once, where there are no more than `count`.
    """
    if maps.dim() == 2:
        return None
    size = maps[0, 0].numel()
    if size <= count:
        return torch.arange(size, device=maps.device).expand(len(maps), -1)
    return torch.randint(size, (len(maps), count), generator=generator).to(maps.device)


def rows_at(maps: Tensor, places: Tensor | None) -> Tensor:
    """Channels at these pixels, `(b * p) x c`; features are rows as they are."""
    if places is None:
        return maps
    flat = maps.flatten(2)
    return flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2).flatten(0, 1)
