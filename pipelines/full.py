"""Both stages and the export, one after the other, and one table and page of what each of them gained."""

import logging
from typing import Any

from torch import Tensor

import tascnet
from tascnet.cli.config import Config, spelling
from tascnet.cli.folders import cache_folder, run_folder, stage_folder
from tascnet.data import check_samples
from tascnet.errors import ExportError
from tascnet.measure import measured_again
from tascnet.options import TUNING
from tascnet.pruning import check_options
from tascnet.report import full_report, latency_table, models_plot, models_table, recommendation_lines
from tascnet.report.card import update_card
from tascnet.report.full import rows_of
from tascnet.report.mistakes import mistakes_in
from tascnet.run.console import output
from tascnet.run.files import write_text
from tascnet.run.records import (
    ExportedFile,
    ExportMetrics,
    Iteration,
    ModelMetrics,
    PruneMetrics,
    TuneMetrics,
    read_record,
    read_records,
    read_trials,
)
from tascnet.train import check_trainer
from tascnet.train.export import FILES, formats_of, judge_file
from tascnet.train.setting import computing
from tascnet.train.transfer import example_for, outputs_of
from tascnet.tuning import may_widen
from tascnet.tuning.rivals import examples_of

from . import export, prune, tune

log = logging.getLogger("tascnet")


def run(config: Config) -> None:
    """Run stage `tune`, stage `prune` on its network, and export the pruned one.

    Raises:
        ConfigError: the network does not take the data, or stage `prune` would refuse its options after the
            search.
        ExportError: a format is refused, after all else is done.
    """
    check_samples(config.dataset, cache_folder(config))
    with computing(config.device, config.threads) as device:
        check_trainer(config.trainer, device, (*TUNING, "recover"))
        network = tascnet.backbone(config.backbone, seed=config.seed, cache=cache_folder(config))
        example = example_for(network, config.dataset)
        outputs_of(network, example)
        with spelling("prune"):
            widens = may_widen(config.tune, config.prune.min_filters)
            check_options(config.prune, network, example, widens)
    with spelling("tune", is_alone=False):
        tune.run(config, network)
    with spelling("prune", is_alone=False):
        prune.run(config)
    exported, refused = None, None
    if formats_of(config.export):
        try:
            exported = export.write(config, stage_folder(config, "prune") / "model")
        # After all that work the page is written first.
        except ExportError as error:
            refused = error
            if (kept := stage_folder(config, "prune") / "export" / "metrics.json").exists():
                exported = read_record(kept, ExportMetrics)
    _conclude(config, example, exported)
    if refused is not None:
        raise refused


def _conclude(config: Config, example: Tensor, exported: ExportMetrics | None) -> None:
    """Print and write what the whole run achieved."""
    folder = run_folder(config)
    search, tuned, pruned = (stage_folder(config, stage) for stage in ("search", "tune", "prune"))
    tuning = read_record(tuned / "metrics.json", TuneMetrics)
    pruning = read_record(pruned / "metrics.json", PruneMetrics)
    int8 = next((file for file in exported.files if file.format == "onnx_int8"), None) if exported else None
    models = _measured(config, example, tuning, pruning, int8)
    reading: dict[str, Any] = {
        "seed": config.seed,
        "cache": cache_folder(config),
        "cache_limit_gb": config.cache_limit_gb,
    }
    if int8 is not None:
        file = pruned / "export" / FILES["onnx_int8"]
        models["pruned int8"] = judge_file(
            file, config.dataset, models["pruned"], threads=config.threads, **reading
        )
    advice = recommendation_lines(models["pruned"], exported, config.metric, models.get("pruned int8"))
    for part in (
        models_table(models, "From the baseline to the export", config.metric, against="conventional"),
        latency_table(models, "Latency in each runtime"),
        *advice,
    ):
        output().print(part)
    before, after = ((name, models[name]) for name in ("conventional", "pruned"))
    network = tascnet.load(pruned / "model")
    write_text(folder / "models.svg", models_plot(models, config.metric))
    update_card(pruned, network, models["pruned"], models.get("pruned int8"))
    full_report(
        folder / "report.html",
        tuning,
        pruning,
        read_trials(search / "trials.jsonl"),
        read_records(pruned / "iterations.jsonl", Iteration),
        models,
        exported,
        mistakes_in(config.dataset, network, before, after, **reading),
    )
    log.info("report: %s", folder / "report.html")


def _measured(
    config: Config, example: Tensor, tuning: TuneMetrics, pruning: PruneMetrics, int8: ExportedFile | None
) -> dict[str, ModelMetrics]:
    """What both stages measured, but for latency, which compares only where it is measured side by side.

    In int8 the pruned network is timed with the layers in float that the file has.
    """
    records = rows_of(tuning, pruning)
    folders = {name: stage_folder(config, "search") / place for name, place in tuning.archives.items()}
    folders |= {"tuned": stage_folder(config, "tune") / "model"}
    folders |= {"pruned": stage_folder(config, "prune") / "model"}
    with computing(config.device, config.threads) as device:
        networks = {name: tascnet.load(folders[name], device=device) for name in records}
        examples = examples_of(networks, example)
        return measured_again(
            *(records, networks, examples),
            measure=config.measure,
            cache=cache_folder(config),
            float_layers={"pruned": int8.float_layers} if int8 else None,
        )
