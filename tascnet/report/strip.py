"""A network as a strip of its blocks: the width of every layer before and after, and what was removed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tascnet.run.records import LayerWidths


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One layer of a block.

    Args:
        layer: its name.
        before, after: its width; 0 where it does not exist.
        share_before, share_after: the same as heights in [0, 1]: the root of the share of the widest layer of
            the network, so that narrow ones are seen.
    """

    layer: str
    before: int
    after: int
    share_before: float
    share_after: float


@dataclass(frozen=True, kw_only=True)
class StripBlock:
    """One block of a network.

    Args:
        name: of the block.
        bars: its layers with filters.
        status: `cut`, `kept`, `removed` or `added`.
        is_end: whether the network ends with it, because all blocks up to the classifier were removed.
        params_before, params_after: parameters of these layers.
    """

    name: str
    bars: tuple[Bar, ...]
    status: str
    is_end: bool
    params_before: int
    params_after: int

    @property
    def widest(self) -> Bar:
        """The layer that was cut most, or else the widest one."""
        return max(
            self.bars, key=lambda bar: (bar.before - bar.after if self.status == "cut" else 0, bar.before)
        )


def strip(widths: Sequence[LayerWidths]) -> list[StripBlock]:
    """The blocks of a network in their order, those that are new before the classifier."""
    blocks: dict[str, list[LayerWidths]] = {}
    for row in widths:
        blocks.setdefault(row.layer.partition(".")[0], []).append(row)
    longest = max((max(row.before or 0, row.after or 0) for row in widths), default=0)
    made = [_block(name, rows, longest) for name, rows in blocks.items()]
    return _with_end(_in_place(made))


def through(first: Sequence[LayerWidths], second: Sequence[LayerWidths]) -> list[LayerWidths]:
    """The widths before the first of two stages and after the second one."""
    later, rows = {row.layer: row for row in second}, []
    for row in first:
        last = later.pop(row.layer, None)
        rows.append(
            replace(
                row,
                after=last.after if last else None,
                params_after=last.params_after if last else None,
                flops_after=last.flops_after if last else None,
            )
        )
    added = [row for row in later.values() if row.after is not None]
    rows += [replace(row, before=None, params_before=None, flops_before=None) for row in added]
    return [row for row in rows if (row.before, row.after) != (None, None)]


def _block(name: str, rows: Sequence[LayerWidths], longest: int) -> StripBlock:
    bars = tuple(
        Bar(
            layer=row.layer,
            before=row.before or 0,
            after=row.after or 0,
            share_before=((row.before or 0) / longest) ** 0.5,
            share_after=((row.after or 0) / longest) ** 0.5,
        )
        for row in rows
    )
    was, now = any(bar.before for bar in bars), any(bar.after for bar in bars)
    changed = any(bar.before != bar.after for bar in bars)
    status = "removed" if not now else "added" if not was else "cut" if changed else "kept"
    return StripBlock(
        name=name,
        bars=bars,
        status=status,
        is_end=False,
        params_before=sum(row.params_before or 0 for row in rows),
        params_after=sum(row.params_after or 0 for row in rows),
    )


def _in_place(blocks: list[StripBlock]) -> list[StripBlock]:
    """Added blocks follow all others in the rows; a network has them at its end, before the classifier."""
    added = [block for block in blocks if block.status == "added"]
    others = [block for block in blocks if block.status != "added"]
    head = others[-1:] if others and others[-1].status != "removed" else []
    return [*others[: len(others) - len(head)], *added, *head]


def _with_end(blocks: list[StripBlock]) -> list[StripBlock]:
    """Mark the block after which everything up to the new layers and the classifier was removed."""
    body = blocks[:-1]
    while body and body[-1].status == "added":
        body.pop()
    last = len(body)
    while last and body[last - 1].status == "removed":
        last -= 1
    if not 0 < last < len(body):
        return blocks
    return [replace(block, is_end=place == last - 1) for place, block in enumerate(blocks)]
