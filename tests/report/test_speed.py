from tascnet.report import speed_lines


def record(flops: float, single: float, batch: float) -> dict[str, float]:
    return {"flops": flops, "latency_ms": single, "latency_ms_batch": batch, "batch": 16}


def test_it_says_when_flops_and_clock_disagree() -> None:
    # Half the FLOPs: the time for one sample fell by a tenth, that for the batch by four tenths.
    (told, warned) = speed_lines({"before": record(100, 10, 40), "after": record(50, 9, 24)})
    assert told == "Of what they were FLOPs are 0.50, latency 0.90 at batch 1 and 0.60 at batch 16."
    assert "disagree at batch 1:" in warned
    assert warned.endswith("not arithmetic. Narrower layers hardly save it.")


def test_it_advises_fewer_blocks_where_some_can_go() -> None:
    _, warned = speed_lines({"before": record(100, 10, 40), "after": record(50, 9, 24)}, removable_blocks=3)
    assert warned.endswith("Fewer blocks save it (prune.blocks=true), narrower layers hardly do.")


def test_it_says_nothing_where_they_agree_or_nothing_was_pruned() -> None:
    assert len(speed_lines({"before": record(100, 10, 40), "after": record(50, 6, 24)})) == 1
    assert len(speed_lines({"before": record(100, 10, 40), "after": record(100, 10.5, 41)})) == 1
    assert speed_lines({"before": record(100, 10, 40)}) == []
