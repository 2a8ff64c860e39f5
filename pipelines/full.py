"""Both stages, one after the other, and one table and plot of what each of them gained."""

from dataclasses import replace

import torch
from torch import Tensor, nn

import tascnet
from tascnet.cli.config import Config, spelling
from tascnet.cli.folders import cache_folder, run_folder, stage_folder
from tascnet.data import check_samples
from tascnet.measure import measure_models
from tascnet.models.info import info_of
from tascnet.options import Texts
from tascnet.pruning import check_options
from tascnet.report import models_plot, models_table
from tascnet.run.console import output
from tascnet.run.files import write_text
from tascnet.run.records import ModelMetrics, PruneMetrics, TuneMetrics, read_record
from tascnet.train.setting import computing
from tascnet.train.transfer import outputs_of
from tascnet.tuning import may_widen
from tascnet.tuning.rivals import examples_of

from . import prune, tune


def run(config: Config) -> None:
    """Run stage `tune`, then stage `prune` on its network.

    Raises:
        ConfigError: the network does not take the data, or stage `prune` would refuse its options after the
            search.
    """
    check_samples(config.dataset, cache_folder(config))
    with computing(config.device, config.threads):
        network = tascnet.backbone(config.backbone, seed=config.seed, cache=cache_folder(config))
        example = _example(config, network)
        outputs_of(network, example)
        with spelling("prune"):
            widens = may_widen(config.tune, config.prune.min_filters)
            check_options(config.prune, network, example, widens)
    with spelling("tune", is_alone=False):
        tune.run(config)
    with spelling("prune", is_alone=False):
        prune.run(config)
    models = _models(config, example)
    title = "From the baseline to the pruned network"
    output().print(models_table(models, title=title, metric=config.metric))
    write_text(run_folder(config) / "models.svg", models_plot(models, config.metric))


def _example(config: Config, network: nn.Sequential) -> Tensor:
    """One sample of zeros, as the networks of this run take it."""
    if isinstance(config.dataset, Texts):
        return torch.zeros(1, config.dataset.max_tokens, dtype=torch.int64)
    return torch.zeros(info_of(network).preprocessing.example_shape)


def _models(config: Config, example: Tensor) -> dict[str, ModelMetrics]:
    """What both stages measured, but for latency, which compares only where it is measured side by side."""
    tuned, pruned, search = (stage_folder(config, stage) for stage in ("tune", "prune", "search"))
    metrics = read_record(tuned / "metrics.json", TuneMetrics)
    after = read_record(pruned / "metrics.json", PruneMetrics).models["after"]
    records = {
        "baseline": metrics.models["baseline"],
        "conventional": metrics.models["conventional"],
        **{rival.row: metrics.models[rival.row] for rival in metrics.rivals},
        "tuned": metrics.models["after"],
        "pruned": after,
    }
    folders = {name: search / place for name, place in metrics.archives.items()}
    folders |= {"tuned": tuned / "model", "pruned": pruned / "model"}
    with computing(config.device, config.threads) as device:
        networks = {name: tascnet.load(folders[name], device=device) for name in records}
        measure = config.measure
        examples = examples_of(networks, metrics.rivals, example)
        costs = measure_models(networks, examples, batch=measure.batch, repeats=measure.repeats)
    latencies = {
        name: {key: value for key, value in cost.items() if key.startswith("latency")}
        for name, cost in costs.items()
    }
    return {name: replace(record, **latencies[name]) for name, record in records.items()}
