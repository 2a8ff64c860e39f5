"""Records: what is written as JSON comes back as it was, and damage is named."""

import json
import math
import os
import re
import types
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tascnet.errors import DamagedFile, RunFolderError
from tascnet.run import files, records
from tascnet.run.files import digest_json, write_checked
from tascnet.run.records import (
    SCHEMA,
    STATUSES,
    EpochRecord,
    Iteration,
    ModelMetrics,
    RuntimeLatency,
    StepRecord,
    TrainingRecord,
    Trial,
    TuneMetrics,
    append_record,
    from_json,
    made_once,
    measured_once,
    read_record,
    read_records,
    to_json,
    write_record,
    write_records,
)

RECORDS = sorted(
    (one for one in vars(records).values() if is_dataclass(one) and one.__module__ == records.__name__),
    key=lambda cls: cls.__name__,
)
numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
EPOCH = EpochRecord(
    epoch=1, train_loss=0.5, val_loss=None, val_accuracy=0.75, val_balanced_accuracy=0.5, seconds=1.5
)
TRAINING = TrainingRecord(
    val_accuracy=0.75,
    val_balanced_accuracy=0.5,
    val_loss=None,
    best_epoch=1,
    seconds=1.5,
    epochs=(EPOCH,),
)

ITERATION = Iteration(
    iteration=1,
    start=0,
    step=0.5,
    state="1",
    landed={"flops": 0.5, "params": None},
    val_accuracy=0.5,
    val_balanced_accuracy=0.25,
    val_loss=1.0,
    params=7,
    flops=11,
    size_bytes=13,
    inside=True,
    removed={"conv": 4},
    pending={},
    seconds=1.0,
)
METRICS = ModelMetrics(
    val_accuracy=0.5,
    test_accuracy=0.5,
    val_balanced_accuracy=0.25,
    test_balanced_accuracy=0.25,
    test_top5_accuracy=None,
    classes=(),
    confusion=((0, 1, 3),),
    params=7,
    trainable_params=7,
    flops=11,
    flops_counted="all",
    size_bytes=13,
    predictions=(1, 1, 1),
    batch=16,
    threads=1,
    latencies=(
        RuntimeLatency(
            runtime="eager",
            threads=1,
            device="cpu",
            latency_ms=1.0,
            latency_ms_spread=(0.5, 1.5),
            latency_ms_batch=2.0,
            latency_ms_batch_spread=(1.5, 2.5),
        ),
    ),
)
TRIAL = Trial(trial=0, depth=1, config={"width": 0.5}, status="ok", value=0.5, val_accuracy=0.5)


def of_kind(kind):
    """Values of a type, records among them."""
    if kind is Any:
        return json_values
    if is_dataclass(kind):
        return of_record(kind)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return st.one_of(map(of_kind, inner))
    if origin is tuple and inner[-1] is not Ellipsis:
        return st.tuples(*map(of_kind, inner))
    if origin is tuple:
        return st.lists(of_kind(inner[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(max_size=3), of_kind(inner[1]), max_size=2)
    return {int: st.integers(), float: numbers, bool: st.booleans(), str: st.text(max_size=5)}.get(
        kind, st.none()
    )


def of_record(cls):
    """Records of a class, with their optional fields and without."""
    hints = get_type_hints(cls)
    kinds = {entry.name: of_kind(hints[entry.name]) for entry in fields(cls)}
    required = {
        entry.name for entry in fields(cls) if entry.default is MISSING and entry.default_factory is MISSING
    }
    if cls is Trial:
        return st.fixed_dictionaries({name: kinds[name] for name in required - {"status"}}).flatmap(trials)
    return st.fixed_dictionaries(
        {name: kinds[name] for name in required},
        optional={name: kind for name, kind in kinds.items() if name not in required},
    ).map(lambda values: cls(**values))


def trials(values):
    """Trials of each status with these values."""
    ran = st.builds(
        Trial,
        status=st.sampled_from(["ok", "stopped"]),
        value=numbers,
        val_accuracy=numbers,
        curve=st.none() | st.lists(numbers, max_size=3).map(tuple),
        **{name: st.just(value) for name, value in values.items()},
    )
    failed = st.text(min_size=1, max_size=5).map(
        lambda reason: Trial(**values, status="failed", reason=reason)
    )
    return ran | failed


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_a_record_comes_back_as_it_was(cls):
    @settings(max_examples=25)
    @given(of_record(cls))
    def comes_back(record):
        text = json.dumps(to_json(record), allow_nan=False)
        assert from_json(cls, json.loads(text)) == record

    comes_back()


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_records_are_frozen_and_take_keywords_alone(cls):
    assert cls.__dataclass_params__.frozen
    assert all(entry.kw_only for entry in fields(cls))


def test_a_file_holds_the_version_and_what_was_written(tmp_path):
    path = tmp_path / "folder" / "record.json"
    record = StepRecord(seconds=2.0, training=TRAINING, frozen=("a", "b"))
    write_record(path, record)
    content = json.loads(path.read_text())
    assert content["schema"] == SCHEMA
    assert content["digest"] == digest_json({key: item for key, item in content.items() if key != "digest"})
    assert content["training"]["epochs"] == [
        {
            "epoch": 1,
            "train_loss": 0.5,
            "val_loss": None,
            "val_accuracy": 0.75,
            "val_balanced_accuracy": 0.5,
            "seconds": 1.5,
        }
    ]
    assert read_record(path, StepRecord) == record


def test_fields_with_a_default_may_be_missing_in_a_file(tmp_path):
    path = tmp_path / "record.json"
    write_checked(path, {"schema": SCHEMA, "seconds": 1})
    assert read_record(path, StepRecord) == StepRecord(seconds=1.0)


def broken(path, content, cls):
    """What is said of a file: of bytes as they are, of other content with its right digest."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_checked(path, content)
    with pytest.raises(DamagedFile) as caught:
        read_record(path, cls)
    text = str(caught.value)
    assert text.startswith(f"{path} cannot be read (")
    assert text.endswith("restore it, or start the stage over with `fresh=true`")
    assert "\n" not in text
    return text


def step(**changes):
    return {"schema": SCHEMA, **to_json(StepRecord(seconds=2.0, training=TRAINING)), **changes}


def without(content, key):
    return {name: value for name, value in content.items() if name != key}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (step(schema=SCHEMA - 1), f"its schema is {SCHEMA - 1}, expected {SCHEMA}"),
        (step(schema=str(SCHEMA)), f"its schema is '{SCHEMA}', expected {SCHEMA}"),
        (without(step(), "schema"), f"its schema is None, expected {SCHEMA}"),
        (without(step(), "seconds"), "StepRecord lacks 'seconds'"),
        (step(training=without(to_json(TRAINING), "epochs")), "StepRecord.training lacks 'epochs'"),
        (step(speed=1), "StepRecord has the unknown field 'speed'"),
        (step(training={**to_json(TRAINING), "x": 1}), "StepRecord.training has the unknown field 'x'"),
        (step(seconds="2"), 'StepRecord.seconds is "2", expected float'),
        (step(seconds=None), "StepRecord.seconds is null, expected float"),
        (step(seconds=True), "StepRecord.seconds is true, expected float"),
        (step(first_trained=1.5), "StepRecord.first_trained is 1.5, expected int"),
        (step(frozen="a"), 'StepRecord.frozen is "a", expected a list'),
        (step(frozen=[1]), "StepRecord.frozen is 1, expected str"),
        (step(training=[]), "StepRecord.training is [], expected an object"),
        (step(training={**to_json(TRAINING), "epochs": [3]}), "StepRecord.training.epochs is 3, expected an"),
        (step(seconds=10**400), "StepRecord.seconds is 1000000000"),
        (b"[]", "it is no JSON object"),
        (b"null", "it is no JSON object"),
        (b"5", "it is no JSON object"),
        (b"{}", "it has no digest"),
        (b'{"seconds": 1, "schema": 3}', "it has no digest"),
        (b"{", "it is not JSON: Expecting property name"),
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (b'{"seconds": 1', "it is not JSON: Expecting"),
        ('{"block": "Stra\xdfe"}'.encode("latin-1"), "it is not in UTF-8"),
        (b"\x00\x00", "it is not JSON"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a": ' * 100_000, "it is nested too deeply"),
        (b'{"digest": "x", "a": ' + b"[" * 900 + b"]" * 900 + b"}", "it was changed or damaged"),
        (b'{"seconds": 1e999}', "it holds a number that is not finite"),
        (b'{"seconds": NaN}', "it holds a number that is not finite"),
        (b'{"seconds": -Infinity}', "it holds a number that is not finite"),
        (b'{"seconds": 1' + b"0" * 5000 + b"}", "has thousands of digits"),
        (b'{"seconds": 1, "digest": []}', "it was changed or damaged after it was written"),
    ],
)
def test_damage_is_named_with_its_field(content, says, tmp_path):
    assert says in broken(tmp_path / "record.json", content, StepRecord)


def test_whatever_is_changed_in_a_record_is_found(tmp_path):
    path = tmp_path / "record.json"
    write_record(path, StepRecord(seconds=2.5, training=TRAINING, frozen=("a", "b")))
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytes([whole[place] ^ 1])
        # Only the space between the tokens may change.
        if not whole[place : place + 1].isspace():
            path.write_bytes(whole[:place] + changed + whole[place + 1 :])
            with pytest.raises(DamagedFile):
                read_record(path, StepRecord)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"metrics\.json cannot be read \(it does not exist\)"):
        read_record(tmp_path / "metrics.json", TuneMetrics)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (os.mkfifo, "cannot be read (it is a pipe or a device, not a file)"),
        (os.mkdir, "cannot be read (it is a folder)"),
        (lambda path: path.symlink_to("/dev/zero"), "cannot be read (it is a pipe or a device, not a file)"),
        (lambda path: path.symlink_to(path), "cannot be read (too many levels of symbolic links)"),
    ],
)
def test_what_is_no_regular_file_is_refused_before_it_is_opened(make, says, tmp_path):
    path = tmp_path / "trials.jsonl"
    make(path)
    for read in (read_record, read_records):
        with pytest.raises(RunFolderError, match=re.escape(f"{path} {says}")):
            read(path, Trial)


def test_a_file_that_may_not_be_read_is_called_unreadable(tmp_path, monkeypatch):
    path = tmp_path / "trials.jsonl"
    path.touch()
    # The superuser may read everything.
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    for read in (read_record, read_records):
        with pytest.raises(RunFolderError, match=re.escape(f"{path} is unreadable (permission denied)")):
            read(path, Trial)


def test_what_is_made_once_is_read_back_and_made_again_where_it_is_damaged(tmp_path, caplog):
    path = tmp_path / "state" / "latency.json"
    values = iter([2.5, 3.5])

    def made():
        return made_once(path, dict[str, float], lambda: {"original_ms": next(values)})["original_ms"]

    assert [made(), made()] == [2.5, 2.5]
    assert caplog.messages == []
    path.write_text(path.read_text().replace("2.5", "1.5"))
    assert [made(), made()] == [3.5, 3.5]
    (said,) = caplog.messages
    assert said == f"{path} cannot be read (it was changed or damaged after it was written): it is made again"


def test_an_item_of_a_mapping_is_named():
    with pytest.raises(ValueError, match=r'Iteration\.removed\.conv is "4", expected int'):
        from_json(Iteration, to_json(ITERATION) | {"removed": {"conv": "4"}})


def test_a_pair_has_two_items():
    assert from_json(ModelMetrics, to_json(METRICS)) == METRICS
    timed = to_json(METRICS.eager)
    for spread in ([0.5], [0.5, 0.75, 1.0], []):
        with pytest.raises(
            ValueError, match=r"RuntimeLatency\.latency_ms_spread is .*, expected a list of 2"
        ):
            from_json(RuntimeLatency, timed | {"latency_ms_spread": spread})


def test_what_was_measured_once_is_not_measured_again_where_it_is_damaged(tmp_path):
    path = tmp_path / "latency.json"
    values = iter([2.5, 3.5])

    def measured():
        return measured_once(path, lambda: {"original_ms": next(values)})

    assert [measured(), measured()] == [{"original_ms": 2.5}] * 2
    path.write_text(path.read_text().replace("2.5", "1.5"))
    with pytest.raises(DamagedFile, match=r"latency\.json cannot be read \(it was changed .*or delete it"):
        measured()
    path.unlink()
    assert measured() == {"original_ms": 3.5}


# Journals.


def test_a_journal_gives_its_records_back_in_order(tmp_path):
    path = tmp_path / "folder" / "iterations.jsonl"
    assert read_records(path, Iteration) == []
    rows = [replace(ITERATION, iteration=0), replace(ITERATION, landed=None)]
    for row in rows:
        append_record(path, row)
    assert read_records(path, Iteration) == rows
    write_records(path, rows[:1])
    assert read_records(path, Iteration) == rows[:1]


def test_a_torn_last_line_is_ignored_and_cut_off_by_the_next_record(tmp_path):
    path = tmp_path / "trials.jsonl"
    append_record(path, TRIAL)
    with open(path, "a") as file:
        file.write('{"trial": 1, "dep')
    assert read_records(path, Trial) == [TRIAL]
    append_record(path, replace(TRIAL, trial=1))
    assert [trial.trial for trial in read_records(path, Trial)] == [0, 1]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense", "it is not JSON: Expecting value"),
        ("[1]", "it is no JSON object"),
        ("[" * 100_000, "it is nested too deeply"),
        ({"trial": 1}, "Trial lacks 'depth'"),
        (to_json(TRIAL) | {"status": "done"}, "the status 'done', expected one of ok, failed"),
        (to_json(TRIAL) | {"speed": 1}, "Trial has the unknown field 'speed'"),
        (to_json(TRIAL) | {"value": "high"}, 'Trial.value is "high", expected float'),
        (to_json(TRIAL), "it is trial 0, expected trial 1"),
        (to_json(TRIAL) | {"trial": 2}, "it is trial 2, expected trial 1"),
        (json.dumps(to_json(TRIAL) | {"trial": 1}), "it was changed or damaged after it was written"),
    ],
)
def test_a_corrupt_line_is_refused_with_its_number(line, says, tmp_path):
    """Content has its right check, a text none."""
    path = tmp_path / "trials.jsonl"
    append_record(path, TRIAL)
    with open(path, "a") as file:
        file.write(f"{line}\n" if isinstance(line, str) else "")
    if not isinstance(line, str):
        append_record(path, line)
    append_record(path, replace(TRIAL, trial=2))
    with pytest.raises(RunFolderError) as caught:
        read_records(path, Trial)
    assert f"line 2 of {path} is corrupt (" in str(caught.value)
    assert says in str(caught.value)
    assert "delete it and all lines after it" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda rows: [rows[0], rows[0], *rows[1:]], 2),
        (lambda rows: [rows[1], rows[0], rows[2]], 1),
        (lambda rows: [rows[0], rows[2]], 2),
        (lambda rows: rows[1:], 1),
        (lambda rows: [rows[0], rows[1].replace(b'"trial": 1', b'"trial": 9'), rows[2]], 2),
        (lambda rows: [rows[0], rows[1].replace(b"0.5", b"0.7"), rows[2]], 2),
        (lambda rows: [*rows[:2], rows[2].replace(b'"depth": 1', b'"depth": 2')], 3),
    ],
    ids=["duplicated", "reordered", "lost", "first lost", "renumbered", "edited", "last edited"],
)
def test_rows_that_were_changed_are_refused(change, line, tmp_path):
    path = tmp_path / "trials.jsonl"
    write_records(path, [replace(TRIAL, trial=number) for number in range(3)])
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(RunFolderError, match=rf"line {line} of .*trials\.jsonl is corrupt"):
        read_records(path, Trial)


def test_numbers_that_json_cannot_hold_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path / "record.json", StepRecord(seconds=math.nan))
    assert not (tmp_path / "record.json").exists()


# Trials.


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"status": "done"}, "the status 'done'"),
        ({"value": None}, "value None, expected a finite number"),
        ({"value": math.nan}, "value nan, expected a finite number"),
        ({"val_accuracy": None}, "val_accuracy None, expected a finite number"),
        ({"status": "failed"}, "value 0.5, expected a reason and no value, because it is failed"),
        ({"status": "failed", "value": None, "val_accuracy": None}, "no reason, expected one"),
        (
            {"status": "infeasible", "value": None, "val_accuracy": None, "reason": "slow"},
            "no latency_ms, expected the one that makes it infeasible",
        ),
    ],
)
def test_the_fields_of_a_trial_agree_with_its_status(values, says):
    with pytest.raises(ValueError, match="trial 0 has") as caught:
        replace(TRIAL, **values)
    assert says in str(caught.value)


@pytest.mark.parametrize("status", STATUSES)
def test_only_trials_with_a_value_are_trained(status):
    without_value = {"value": None, "val_accuracy": None, "reason": "why", "latency_ms": 3.0}
    is_trained = status in ("ok", "stopped")
    trial = replace(TRIAL, status=status, **({} if is_trained else without_value))
    assert trial.is_trained is is_trained
