"""A network as its blocks: what was cut, removed and added, and where it ends."""

from dataclasses import replace

import pytest

from tascnet.report.strip import Bar, strip, through
from tests.report.records import widths

ROWS = (
    widths("stem", 16, 16),
    widths("stage1.conv_a", 64, 16),
    widths("stage1.conv_b", 16, 16),
    widths("stage2.conv", 64, None),
    widths("stage3.conv", 32, None),
    widths("classifier", 3, 3),
    widths("dense", None, 8),
)


def test_blocks_in_order_with_what_became_of_them() -> None:
    blocks = strip(ROWS)
    assert [(block.name, block.status) for block in blocks] == [
        ("stem", "kept"),
        ("stage1", "cut"),
        ("stage2", "removed"),
        ("stage3", "removed"),
        ("dense", "added"),
        ("classifier", "kept"),
    ]
    assert [block.name for block in blocks if block.is_end] == ["stage1"]


def test_bars_are_as_high_as_the_root_of_the_width() -> None:
    stem, stage1 = strip(ROWS)[:2]
    assert stem.bars == (Bar(layer="stem", before=16, after=16, share_before=0.5, share_after=0.5),)
    assert [(bar.share_before, bar.share_after) for bar in stage1.bars] == [(1.0, 0.5), (0.5, 0.5)]
    assert stage1.widest.layer == "stage1.conv_a"


@pytest.mark.parametrize(
    "rows",
    [
        (),
        (widths("only", 4, 4),),
        # A removed block in the middle is no new end.
        (widths("a", 4, 4), widths("b", 4, None), widths("c", 4, 4), widths("classifier", 3, 3)),
        # Nothing is left before the classifier.
        (widths("a", 4, None), widths("classifier", 3, 3)),
    ],
)
def test_a_network_that_ends_where_it_ended(rows: tuple) -> None:  # type: ignore[type-arg]
    assert not any(block.is_end for block in strip(rows))


def test_two_stages_as_one() -> None:
    first = (widths("a", 8, 6), widths("b", 8, None), widths("c", 8, 8), widths("d", None, 5))
    second = (widths("a", 6, 2), widths("c", 8, None), widths("d", 5, 4), widths("e", None, 3))
    rows = [(row.layer, row.before, row.after) for row in through(first, second)]
    assert rows == [("a", 8, 2), ("b", 8, None), ("c", 8, None), ("d", None, 4), ("e", None, 3)]
    # A layer that came and went is none.
    gone = (replace(second[0]), replace(second[1]), widths("d", 5, None))
    assert [row.layer for row in through(first, gone)] == ["a", "b", "c"]
