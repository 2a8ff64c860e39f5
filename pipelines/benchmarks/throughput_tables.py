"""What `benchmark=trial_throughput` prints."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from .journal import Row


def timing_table(summary: Sequence[Row]) -> Table:
    """Trials an hour of both ways, their ratio and its bounds, and what the cache costs."""
    images = ", ".join(sorted({str(row["timed_images"]) for row in summary}))
    table = _table(
        "Trials an hour: as published, and through the feature cache",
        ("network", "k", "publ.", "cached", "ratio", "bound", "sample", "asked", "cache", "pays"),
        caption=f"k: units that are trained. publ.: one epoch timed on {images} images after a warm-up, "
        "scaled linearly to all images and epochs. bound: of the ratio by FLOPs for the work timed; sample: "
        "for a training sample alone. cache: seconds to compute it once for all trials; pays: after so many.",
    )
    for row in summary:
        table.add_row(
            row["backbone"],
            str(row["depth"]),
            f"{row['published_per_hour']:.1f}",
            f"{row['cached_per_hour']:.0f}",
            f"{row['ratio']:.1f}",
            f"{row['bound']:.1f}",
            f"{row['bound_of_a_sample']:.1f}",
            f"{row['needed']:.1f} {'ok' if row['is_enough'] else 'low'}",
            f"{row['cache_seconds']:.0f}",
            "never" if row["pays_after"] is None else str(row["pays_after"]),
        )
    return table


def full_table(rows: Sequence[Row]) -> Table:
    """Whole trials of both ways: seconds, validation accuracy and peak memory of each process."""
    differences = ", ".join(f"{100 * row['val_accuracy_difference']:.2f}" for row in rows)
    table = _table(
        "Whole trials, each in its own process",
        ("network", "k", "", "seconds", "val acc.", "peak memory"),
        caption=f"difference in validation accuracy: {differences} points",
    )
    titles = {"cache": "the cache", "cached": "through the cache", "published": "as published"}
    for row in rows:
        for name, title in titles.items():
            part = row[name]
            accuracy = "" if part["val_accuracy"] is None else f"{100 * part['val_accuracy']:.2f} %"
            peak = f"{part['peak_bytes'] / 2**20:.0f} MiB"
            table.add_row(row["backbone"], str(row["depth"]), title, f"{part['seconds']:.1f}", accuracy, peak)
    return table


def _table(title: str, columns: Sequence[str], caption: str) -> Table:
    table = Table(title=title, box=box.SIMPLE, caption=caption, caption_justify="left", padding=0)
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    return table
