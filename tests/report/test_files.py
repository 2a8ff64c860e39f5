"""docs/files.md is what the records say."""

from dataclasses import dataclass, fields
from pathlib import Path

from tascnet.report.files import described, documented_records, with_fields

PAGE = Path(__file__).parents[2] / "docs" / "files.md"


def test_the_page_has_the_fields_of_the_records() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_fields(text) == text, "run `make docs`"


def test_every_field_has_a_meaning_and_no_other_does() -> None:
    for record in documented_records():
        names = {entry.name for entry in fields(record)}
        inherited = {
            entry.name
            for base in record.__bases__
            for entry in getattr(base, "__dataclass_fields__", {}).values()
        }
        assert set(described(record)[1]) == names - inherited, record.__name__


def test_types_and_meanings_in_words() -> None:
    text = with_fields("a <!-- b -->\nold\n")
    assert text.startswith("a <!-- b -->\n\n## EpochRecord\n\nOne epoch of a training.\n\n| field |")
    for row in (
        "| `val_loss` | number or null | after it; null where there is no validation split |",
        "| `models` | object of [ModelMetrics](#modelmetrics) | by name |",
        "| `latencies` | list of [RuntimeLatency](#runtimelatency) |",
        "| `latency_ms_spread` | list of numbers | 10th and 90th percentile |",
        "| `landed` | object of (numbers or null) or null |",
    ):
        assert row in text
    assert text.count("| `class_weights` |") == 1, "the fields of all stages stand in one place"


def test_a_meaning_of_several_names_and_lines() -> None:
    @dataclass
    class Record:
        """What it is,
        in two lines.

        Args:
            one, two: a meaning
                of two lines.
            three: None.

        Raises:
            ValueError: never.
        """

    meaning = "a meaning of two lines"
    assert described(Record) == (
        "What it is, in two lines.",
        {"one": meaning, "two": meaning, "three": "null"},
    )
