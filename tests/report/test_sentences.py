"""What the search learnt and how fast a pruned network is, in sentences."""

from dataclasses import replace

import pytest

from tascnet.report import fall_lines, insight_lines, reach_lines, speed_lines, uncut_words
from tascnet.report.sentences import class_lines, sample_lines, warnings
from tascnet.run.records import Importance, ModelMetrics, SampleCounts
from tests.report.records import (
    REACH,
    SAMPLES,
    confused,
    insight,
    model,
    prune_metrics,
    sampled,
    timed,
    tune_metrics,
)


def pruned(flops: int, single: float, batch: float) -> dict[str, ModelMetrics]:
    """A network pruned to these figures, from 100 FLOPs, 10 ms and 40 ms."""
    before = model(flops=100, latency_ms=10, latency_ms_batch=40)
    after = model(flops=flops, latency_ms=single, latency_ms_batch=batch)
    return {"before": before, "after": after}


def test_it_says_what_pruning_hands_over() -> None:
    models = {"before": model(val_accuracy=0.85), "after": model(val_accuracy=0.83)}
    found = prune_metrics(models=models, kept_iteration=2, iterations=3)
    begin = "Handed over: the network of iteration 2, 83.0 % on validation, "
    assert fall_lines(found) == [begin + "2.0 points below the unpruned network."]
    models["before"] = model(val_accuracy=0.8)
    assert fall_lines(found) == [begin + "not below the unpruned network (80.0 %)."]
    (line,) = fall_lines(replace(found, models={**models, "after": models["before"]}, kept_iteration=0))
    assert line == (
        "Handed over: the unpruned network, 80.0 % on validation, because no iteration keeps the tolerance."
    )


def test_it_says_when_flops_and_clock_disagree() -> None:
    # Half the FLOPs: the time for one sample fell by a tenth, that for the batch by four tenths.
    (fall, warning) = speed_lines(pruned(50, 9, 24))
    assert fall == (
        "Of the unpruned network's FLOPs 50 % remain, of its latency in eager PyTorch 90 % at batch 1 and "
        "60 % at batch 16."
    )
    assert "Latency in eager PyTorch did not follow the FLOPs at batch 1:" in warning
    assert warning.endswith("not arithmetic. Narrower layers hardly reduce that.")


def test_it_advises_fewer_blocks_where_some_can_go() -> None:
    _, warning = speed_lines(pruned(50, 9, 24), removable_blocks=3)
    assert warning.endswith("Fewer blocks reduce that (`blocks=true`), narrower layers hardly do.")


def test_it_says_nothing_where_they_agree_or_nothing_was_pruned() -> None:
    assert len(speed_lines(pruned(50, 6, 24))) == 1
    assert len(speed_lines(pruned(100, 10.5, 41))) == 1


def test_the_sentence_is_about_the_runtime_that_counts() -> None:
    # In ONNX Runtime half the time is left for half the FLOPs, in eager PyTorch nine tenths.
    exported = [(timed("onnxruntime", ms, 4 * ms),) for ms in (4.0, 2.0)]
    models = {
        name: replace(model, latencies=model.latencies + more)
        for (name, model), more in zip(pruned(50, 9, 36).items(), exported, strict=True)
    }
    (fall,) = speed_lines(models, runtime="onnxruntime")
    assert fall.endswith("of its latency in ONNX Runtime 50 % at batch 1 and 50 % at batch 16.")
    assert len(speed_lines(models)) == 2
    # One of the networks does not run there.
    models["after"] = pruned(50, 9, 36)["after"]
    assert speed_lines(models, runtime="onnxruntime") == speed_lines(models)
    assert "in eager PyTorch" in speed_lines(models, runtime="onnxruntime")[0]


IMPORTANCE = (
    Importance(choice="a.width", rise=0.011, lengthscale=0.3),
    Importance(choice="head.dropout", rise=0.00001, lengthscale=2.0),
    Importance(choice="a.kernel", rise=-0.001, lengthscale=2.0),
)


def test_how_far_pruning_can_go_and_why_not_further() -> None:
    assert reach_lines(REACH) == [
        "Removing filters can take away at most 75.0 % of the FLOPs and 87.5 % of the parameters.",
        "Layers that keep filters: coupled to the network's input (a<b> and 2 others); "
        "spared by `ignore` (e).",
        "Not exact, and therefore last, are cuts of channels that share statistics, as behind a layer "
        "normalisation: stem and 1 other.",
    ]
    # The classes are the outputs of every network.
    plain = replace(REACH, inexact=(), uncut=REACH.uncut[:1])
    assert reach_lines(plain) == reach_lines(REACH)[:1]


def test_of_many_reasons_those_of_most_layers_are_named() -> None:
    reasons = [(f"reason {n}", ["x"] * n) for n in (1, 4, 2, 3)]
    assert uncut_words(reasons) == (
        "reason 4 (x and 3 others); reason 3 (x and 2 others); reason 2 (x and 1 other); 1 other reason"
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


UNEVEN = sampled([(3, 1, 2), (42, 12, 18), (6, 2, 2)])
LOST = confused([[0, 2, 0], [0, 18, 0], [0, 2, 0]])
KNOWN = confused([[1, 1, 0], [0, 18, 0], [0, 0, 2]])


MEAN = "`metric=balanced_accuracy` chooses epochs, trials and networks by the mean recall of all classes; "
WEIGHTS = "`class_weights=balanced` gives rare classes more weight in training; "
MORE = "more samples of rare classes help."


def test_the_warning_names_lost_classes_and_both_remedies() -> None:
    lost, weak, remedies = warnings(prune_metrics(models={"before": KNOWN, "after": LOST}, samples=UNEVEN))
    assert lost == "2 of 3 classes are never found in the test samples: iris, tulip."
    # 18 of 22.
    assert weak == (
        "By test accuracy after (81.8 %) is no better than always naming the largest class, rose (81.8 %). "
        "The result names rose for 22 of 22 test samples."
    )
    assert remedies == f"Remedies: {MEAN}{WEIGHTS}{MORE}"


@pytest.mark.parametrize(
    ("metric", "weights", "samples", "remedies"),
    [
        ("accuracy", "balanced", UNEVEN, MEAN + MORE),
        ("balanced_accuracy", "none", UNEVEN, WEIGHTS + MORE),
        ("balanced_accuracy", "balanced", UNEVEN, "longer training, more samples of rare classes."),
        ("accuracy", "none", sampled([(6, 2, 2)] * 3), "longer training, a check of the labels."),
    ],
)
def test_remedies_that_are_taken_or_do_not_apply_are_left_out(
    metric: str, weights: str, samples: SampleCounts, remedies: str
) -> None:
    metrics = prune_metrics(models={"before": KNOWN, "after": LOST}, samples=samples)
    found = warnings(replace(metrics, metric=metric, class_weights=weights))
    assert found[-1] == f"Remedies: {remedies}"


def test_no_warning_where_the_result_finds_every_class() -> None:
    for before in (KNOWN, LOST):
        assert warnings(prune_metrics(models={"before": before, "after": KNOWN}, samples=UNEVEN)) == []


def test_by_balanced_accuracy_the_largest_class_alone_has_one_of_three() -> None:
    # It finds all classes but is right for 12 of 22, fewer than the 18 of the largest class.
    fair = confused([[2, 0, 0], [5, 8, 5], [0, 0, 2]])
    metrics = prune_metrics(models={"before": fair, "after": fair}, samples=UNEVEN)
    assert warnings(replace(metrics, metric="balanced_accuracy")) == []
    assert "before (54.5 %) and after (54.5 %) are no better" in warnings(metrics)[0]
    assert "The result names" not in warnings(metrics)[0]
    lost = replace(metrics, models={"before": fair, "after": LOST}, metric="balanced_accuracy")
    assert "By test balanced accuracy after (33.3 %) is no better" in warnings(lost)[1]


def test_leaked_samples_may_make_accuracies_too_high() -> None:
    (said,) = warnings(prune_metrics(samples=replace(SAMPLES, leaked=2)))
    assert said == (
        "2 of 6,150 validation and test samples have a copy in another part of the split: accuracies may be "
        "too high."
    )


def test_of_many_lost_classes_five_are_named() -> None:
    names = [f"n{i}" for i in range(9)]
    counts = [[1, *[0] * 8]] * 9
    model = confused(counts, names)
    metrics = tune_metrics(models={"after": model}, samples=sampled([(1, 1, 1)] * 9, names))
    assert warnings(metrics)[0].endswith("8 of 9 classes are never found in the test samples: "
                                         "n1, n2, n3, n4, n5 and 3 more.")  # fmt: skip


def test_figures_over_the_classes() -> None:
    first, second = class_lines(prune_metrics(models={"before": KNOWN, "after": LOST}, samples=UNEVEN))
    assert first == "On the test samples: balanced accuracy (mean recall) 33.3 % (before: 83.3 %)."
    assert second == "Always naming the largest class, rose, has an accuracy of 81.8 %."
    with_top5 = tune_metrics(models={"after": replace(LOST, test_top5_accuracy=0.9)}, samples=UNEVEN)
    assert class_lines(with_top5)[0].endswith("33.3 %, top-5 accuracy 90.0 %.")


def test_of_many_classes_the_worst_mistakes_are_named() -> None:
    names = [f"n{i}" for i in range(11)]
    counts = [[3 * (j == i) for j in range(11)] for i in range(11)]
    samples = sampled([(3, 3, 3)] * 11, names)
    assert len(class_lines(tune_metrics(models={"after": confused(counts, names)}, samples=samples))) == 2
    for true, predicted, count in ((0, 1, 1), (2, 3, 2), (4, 5, 1), (6, 7, 3)):
        counts[true][true] -= count
        counts[true][predicted] = count
    third = class_lines(tune_metrics(models={"after": confused(counts, names)}, samples=samples))[-1]
    assert third == "Most frequent mistakes: n6 taken for n7 (3), n2 taken for n3 (2), n0 taken for n1 (1)."


def test_names_of_classes_are_cut_and_escaped_alike() -> None:
    names = ("\x1b[31m" + "a" * 50, "rose", "tulip")
    metrics = prune_metrics(
        models={"before": KNOWN, "after": confused([[0, 2, 0], [0, 18, 0], [0, 2, 0]], names)},
        samples=sampled([(42, 1, 2), (3, 12, 18), (6, 2, 2)], names),
    )
    shown = r"\x1b[31m" + "a" * 31 + "…"
    lines = (warnings(metrics)[0], *class_lines(metrics)[1:], sample_lines(metrics.samples)[0])
    assert all(shown in line for line in lines)
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"copies": 1}, ["1 sample is a copy of an earlier one."]),
        ({"near_duplicates": 0}, ["None of 6150 validation and test samples look like a training sample."]),
        ({"near_duplicates": 1}, ["1 of 6150 validation and test samples looks like a training sample."]),
        (
            {"passed_over": {".a\x1b": 1, "without ending": 2}},
            [r"Files passed over, of no known image format, by ending: 2 without ending, 1 .a\x1b."],
        ),
    ],
)
def test_sentences_on_the_samples(changes: dict[str, object], expected: list[str]) -> None:
    first, *lines = sample_lines(replace(SAMPLES, **changes))  # type: ignore[arg-type]
    assert first == "Every class has 2730 samples."
    assert lines == expected
