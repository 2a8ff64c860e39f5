"""Both stages, one after the other, and one table of what each of them gained."""

from dataclasses import asdict
from typing import Any, cast

from tascnet.errors import ConfigError
from tascnet.measure import measure_models
from tascnet.models.archive import load
from tascnet.models.info import ModelInfo
from tascnet.options import Config
from tascnet.report import models_table
from tascnet.run.console import output
from tascnet.run.files import read_json
from tascnet.run.folder import stage_folder

from . import prune, tune
from .pruning.early import check_before_search
from .session import example_input, resolve_device, user_factory


def run(config: Config) -> None:
    """Run stage `tune`, then stage `prune` on what it left.

    Raises:
        ConfigError: `prune.source` names another model, or stage `prune` would refuse its options later.
    """
    if config.prune.source is not None:
        raise ConfigError(
            "stage=full prunes what it has tuned, but prune.source names another model",
            "leave prune.source out or take stage=prune",
        )
    tune.run(config, check=check_before_search)
    prune.run(config)
    output().print(models_table(_models(config), title="From the baseline to the pruned network"))


def _models(config: Config) -> dict[str, dict[str, Any]]:
    """What both stages measured, but for latency, which is only comparable when measured side by side."""
    tuned, pruned = (stage_folder(config, stage) for stage in ("tune", "prune"))
    metrics = read_json(tuned / "metrics.json")
    records = {
        "baseline": metrics["models"]["baseline"],
        "conventional": metrics["models"]["conventional"],
        "tuned": metrics["models"]["after"],
        "pruned": read_json(pruned / "metrics.json")["models"]["after"],
    }
    search = stage_folder(config, "search")
    folders = {
        "baseline": search / metrics["archives"]["baseline"],
        "conventional": search / metrics["archives"]["conventional"],
        "tuned": tuned / "model",
        "pruned": pruned / "model",
    }
    device = resolve_device(config)
    networks = {name: load(folder, factory=user_factory(config)) for name, folder in folders.items()}
    measured = measure_models(
        {name: network.to(device) for name, network in networks.items()},
        example_input(cast(ModelInfo, networks["tuned"].info).preprocessing),
        **asdict(config.measure),
    )
    return {name: {**record, **_latencies(measured[name])} for name, record in records.items()}


def _latencies(measured: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in measured.items() if key.startswith("latency")}
