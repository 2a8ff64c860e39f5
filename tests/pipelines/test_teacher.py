"""The teacher of stage prune in a run: stage tune's conventional network, where it is the better one."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import prune
from tascnet.run.records import write_record
from tests.report.records import tune_metrics


def config(*, source: str | None = None, distill: float = 0.5) -> Any:
    return SimpleNamespace(
        prune_run=SimpleNamespace(source=source),
        prune=SimpleNamespace(distill=distill),
        metric="accuracy",
    )


@pytest.mark.parametrize(
    ("usual", "tuned", "own", "expected"),
    [
        (0.86, 0.85, {}, "state/conventional-0"),
        (0.85, 0.85, {}, None),
        (0.86, 0.85, {"source": "elsewhere"}, None),
        (0.86, 0.85, {"distill": 0.0}, None),
    ],
)
def test_the_conventional_network_teaches_where_it_is_better(
    usual: float, tuned: float, own: dict[str, Any], expected: str | None, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(prune, "stage_folder", lambda _, stage: tmp_path / stage)
    metrics = tune_metrics()
    models = {
        name: replace(metrics.models[name], val_accuracy=value)
        for name, value in (("conventional", usual), ("after", tuned))
    }
    archives = {"conventional": "state/conventional-0"}
    (tmp_path / "tune").mkdir()
    write_record(
        tmp_path / "tune" / "metrics.json",
        replace(metrics, models=metrics.models | models, archives=archives),
    )
    found = prune._teaching(config(**own))
    assert found == (None if expected is None else tmp_path / "search" / expected)
