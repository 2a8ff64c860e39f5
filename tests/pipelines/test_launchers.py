"""Sweeps through Hydra's launchers, in processes of their own, give what the runs alone give."""

import pytest

from tests.pipelines.commands import TINY, command, without_times
from tests.reading import read_json

SMALL = [*TINY, "stage=tune", "tune.max_trials=1", "tune.initial_trials=1", "threads=1", "name=run"]
LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "hydra.launcher.timeout_min=5"),
}


def figures(outputs, seed):
    found = read_json(outputs / "digits" / "digits_cnn" / f"run-seed{seed}" / "tune" / "metrics.json")
    return without_times({name: found[name] for name in ("models", "trials", "best_config", "handed_over")})


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    outputs = tmp_path_factory.mktemp("alone")
    assert command(*SMALL, f"outputs={outputs}", f"cache_dir={cache}") == 0
    return figures(outputs, 0)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_sweep_through_a_launcher_is_that_of_the_runs_alone(name, alone, cache, tmp_path):
    plugin, option = LAUNCHERS[name]
    pytest.importorskip(plugin)
    launcher = [f"hydra/launcher={name}", option]
    assert command("-m", *SMALL, *launcher, "seed=0,1", f"outputs={tmp_path}", f"cache_dir={cache}") == 0
    assert figures(tmp_path, 0) == alone != figures(tmp_path, 1)
