"""Sweeps through Hydra's launchers, in processes of their own, give what the runs alone give."""

import pytest

from tests.pipelines.commands import TINY, command, without_times
from tests.reading import read_json

SMALL = [*TINY, "stage=tune", "tune.max_trials=1", "tune.initial_trials=1", "threads=1", "name=run"]
# Each with its option and the seeds of the sweep.
LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "hydra.launcher.n_jobs=2", (0, 1)),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "hydra.launcher.timeout_min=5", (0,)),
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
    plugin, option, seeds = LAUNCHERS[name]
    pytest.importorskip(plugin)
    launcher = [f"hydra/launcher={name}", option, f"seed={','.join(map(str, seeds))}"]
    assert command("-m", *SMALL, *launcher, f"outputs={tmp_path}", f"cache_dir={cache}") == 0
    first, *others = (figures(tmp_path, seed) for seed in seeds)
    assert first == alone
    assert alone not in others
