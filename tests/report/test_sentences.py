"""What the search learnt and how fast a pruned network is, in sentences."""

from tascnet.report import insight_lines, speed_lines
from tascnet.run.records import Importance, ModelMetrics
from tests.report.records import insight, model


def pruned(flops: int, single: float, batch: float) -> dict[str, ModelMetrics]:
    """A network pruned to these figures, from 100 FLOPs, 10 ms and 40 ms."""
    before = model(flops=100, latency_ms=10, latency_ms_batch=40)
    after = model(flops=flops, latency_ms=single, latency_ms_batch=batch)
    return {"before": before, "after": after}


def test_it_says_when_flops_and_clock_disagree() -> None:
    # Half the FLOPs: the time for one sample fell by a tenth, that for the batch by four tenths.
    (fall, warning) = speed_lines(pruned(50, 9, 24))
    assert fall == (
        "Of the unpruned network's FLOPs 50 % remain, of its latency 90 % at batch 1 and 60 % at batch 16."
    )
    assert "did not follow the FLOPs at batch 1:" in warning
    assert warning.endswith("not arithmetic. Narrower layers hardly reduce that.")


def test_it_advises_fewer_blocks_where_some_can_go() -> None:
    _, warning = speed_lines(pruned(50, 9, 24), removable_blocks=3)
    assert warning.endswith("Fewer blocks reduce that (`blocks=true`), narrower layers hardly do.")


def test_it_says_nothing_where_they_agree_or_nothing_was_pruned() -> None:
    assert len(speed_lines(pruned(50, 6, 24))) == 1
    assert len(speed_lines(pruned(100, 10.5, 41))) == 1


IMPORTANCE = (
    Importance(choice="a.width", rise=0.011, lengthscale=0.3),
    Importance(choice="head.dropout", rise=0.00001, lengthscale=2.0),
    Importance(choice="a.kernel", rise=-0.001, lengthscale=2.0),
)


def test_what_the_search_learnt_in_sentences() -> None:
    assert insight_lines(insight(importance=IMPORTANCE)) == [
        "It explains half.",
        "leave-one-out error (RMSE): 1.25 pp; standard deviation of the results: 2.50 pp; "
        "R², leave-one-out: 0.75; R², refitted: 0.50; rank correlation, refitted: 0.61.",
        "Rise of the leave-one-out error without a choice: a.width +1.10 pp.",
    ]


def test_choices_are_not_named_where_nothing_was_learnt() -> None:
    nothing = insight(learnt=False, target="val_loss", refitted_rank_correlation=None)
    assert insight_lines(nothing)[1:] == [
        "leave-one-out error (RMSE): 0.013; standard deviation of the results: 0.025; "
        "R², leave-one-out: 0.75; R², refitted: 0.50; rank correlation, refitted: –."
    ]
    (line,) = insight_lines(None)
    assert line.startswith("Too few")
