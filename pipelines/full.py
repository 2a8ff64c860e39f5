"""Both stages and the export, one after the other, and one table and page of what each of them gained."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

import tascnet
from tascnet.cli.config import Config, spelling
from tascnet.cli.folders import cache_folder, run_folder, stage_folder
from tascnet.data import check_samples, open_samples
from tascnet.measure import measure_models
from tascnet.models.info import info_of
from tascnet.options import Texts
from tascnet.pruning import check_options
from tascnet.report import latency_table, models_plot, models_table, recommendation_lines
from tascnet.report.full import full_report
from tascnet.report.mistakes import Mistakes, find_mistakes
from tascnet.run.console import output
from tascnet.run.files import write_text
from tascnet.run.records import (
    ExportMetrics,
    Iteration,
    ModelMetrics,
    PruneMetrics,
    Trial,
    TuneMetrics,
    read_record,
    read_records,
)
from tascnet.train.export import formats_of, judge_file
from tascnet.train.setting import computing
from tascnet.train.transfer import outputs_of
from tascnet.tuning import may_widen
from tascnet.tuning.rivals import examples_of

from . import export, prune, tune


def run(config: Config) -> None:
    """Run stage `tune`, stage `prune` on its network, and export the pruned one.

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
        tune.run(config, network)
    with spelling("prune", is_alone=False):
        prune.run(config)
    exported = None
    if formats_of(config.export):
        exported = export.write(config, stage_folder(config, "prune") / "model")
    _conclude(config, example, exported)


def _example(config: Config, network: nn.Sequential) -> Tensor:
    """One sample of zeros, as the networks of this run take it."""
    if isinstance(config.dataset, Texts):
        return torch.zeros(1, config.dataset.max_tokens, dtype=torch.int64)
    return torch.zeros(info_of(network).preprocessing.example_shape)


def _conclude(config: Config, example: Tensor, exported: ExportMetrics | None) -> None:
    """Print and write what the whole run achieved."""
    search, tuned, pruned = (stage_folder(config, stage) for stage in ("search", "tune", "prune"))
    tuning = read_record(tuned / "metrics.json", TuneMetrics)
    pruning = read_record(pruned / "metrics.json", PruneMetrics)
    models = _models(config, example, tuning, pruning)
    advice = recommendation_lines(models)
    if exported is not None and any(file.format == "onnx_int8" for file in exported.files):
        models["pruned int8"] = _int8(config, models["pruned"])
    output().print(models_table(models, title="From the baseline to the export", metric=config.metric))
    output().print(latency_table(models, title="Latency in each runtime"))
    for line in advice:
        output().print(line)
    write_text(run_folder(config) / "models.svg", models_plot(models, config.metric))
    full_report(
        run_folder(config) / "report.html",
        tuning,
        pruning,
        read_records(search / "trials.jsonl", Trial),
        read_records(pruned / "iterations.jsonl", Iteration),
        models,
        exported,
        _mistakes(config, models),
    )


def _models(
    config: Config, example: Tensor, tuning: TuneMetrics, pruning: PruneMetrics
) -> dict[str, ModelMetrics]:
    """What both stages measured, but for latency, which compares only where it is measured side by side."""
    tuned, pruned, search = (stage_folder(config, stage) for stage in ("tune", "prune", "search"))
    records = {
        "baseline": tuning.models["baseline"],
        "conventional": tuning.models["conventional"],
        **{rival.row: tuning.models[rival.row] for rival in tuning.rivals},
        "tuned": tuning.models["after"],
        "pruned": pruning.models["after"],
    }
    folders = {name: search / place for name, place in tuning.archives.items()}
    folders |= {"tuned": tuned / "model", "pruned": pruned / "model"}
    with computing(config.device, config.threads) as device:
        networks = {name: tascnet.load(folders[name], device=device) for name in records}
        examples, cache = examples_of(networks, tuning.rivals, example), cache_folder(config)
        costs = measure_models(networks, examples, measure=config.measure, cache=cache)
    timed = ("latencies", "batch", "threads")
    return {
        name: replace(record, **{key: costs[name][key] for key in timed}) for name, record in records.items()
    }


def _int8(config: Config, pruned: ModelMetrics) -> ModelMetrics:
    """The int8 file on validation and test samples."""
    return judge_file(
        stage_folder(config, "prune") / "export" / "model_int8.onnx",
        *(config.dataset, pruned),
        seed=config.seed,
        threads=config.threads,
        cache=cache_folder(config),
        cache_limit_gb=config.cache_limit_gb,
    )


def _mistakes(config: Config, models: Mapping[str, ModelMetrics]) -> Mistakes:
    """What the pruned network gets wrong and the conventional one does not."""
    network = tascnet.load(stage_folder(config, "prune") / "model")
    samples = open_samples(
        config.dataset,
        info_of(network).preprocessing,
        seed=config.seed,
        cache=cache_folder(config),
        cache_limit_gb=config.cache_limit_gb,
    )
    before, after = "conventional", "pruned"
    return find_mistakes((before, models[before]), (after, models[after]), samples.test)
