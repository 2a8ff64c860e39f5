"""Our criteria against torch-pruning's own pruner from one network, at the same FLOPs and the same epochs.

A network is fine-tuned once a seed. Every method cuts it to the same shares of its FLOPs (fvcore, widths
not rounded); the batch-norm statistics are measured again after every cut. Reported are the cut alone,
without training, and the whole schedule: all methods train for the same epochs in all (history and
optimisation among them) by the same recipe. How torch-pruning's pruner is used (every layer alike or all in
competition, at once or in steps) is chosen for each criterion by the validation accuracy of its whole
schedule with the first seed at the middle budget.
"""

import argparse
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

import tascnet
from benchmarks import common
from benchmarks.common import RUNS, Row, Setup, check_names, collect, points, standard_error
from benchmarks.conventional import accuracies, fine_tune_all
from benchmarks.stock import CRITERIA, VARIANTS, Variant, stock_cut
from tascnet.errors import ConfigError, plural
from tascnet.measure import WidthCosts, complexity, measure_models
from tascnet.options import HistoryPrune, Prune
from tascnet.pruning.allocate import removable, share_of
from tascnet.report.numbers import count, percent
from tascnet.surgery import width_groups
from tascnet.train import Distillation, Learner, reestimate_batchnorm
from tascnet.train.setting import computing

log = logging.getLogger("tascnet")

OURS = ("reconstruction", "tascnet", "isomorphic")
# Methods of ours that are another preset with options of their own: each kind of layers ranked by itself.
CHANGED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "isomorphic": ("reconstruction", {"scope": "isomorphic"})
}
KINDS = {"cut": "The cut alone, without training", "full": "The whole schedule"}
FIGURES = ("val_accuracy", "test_accuracy", "params", "flops_ratio", "latency_ratio", "latency_ratio_batch")
# A cut this near to its budget, relatively, is comparable.
NEAR = 0.01
# Pairs are half of a group at most, other criteria may take more of it at once.
PAIRED_STEP, STEP = 0.5, 0.8
# History, optimisation and retraining have one at least.
LEAST_EPOCHS = 3
# Added to the percentage of a step, so that pairs do not fall short of the goal by rounding.
MARGIN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, seeds=3, sections=("trainer", "prune", "measure"))
    parser.add_argument(
        "--epochs", type=common.count, default=8, help="epochs of a method, all phases together"
    )
    parser.add_argument(
        "--budgets", nargs="+", type=float, default=[0.7, 0.5, 0.35], help="shares of the FLOPs"
    )
    known = [*OURS, *CRITERIA]
    parser.add_argument("--methods", nargs="+", default=known, help="criteria that are compared")


def run(args: argparse.Namespace) -> None:
    """Prune by every method, with every seed and budget: one row for each.

    Raises:
        ConfigError: an unknown method, a budget that is no share or out of reach, or too few epochs.
    """
    check_names("method", args.methods, (*OURS, *CRITERIA))
    if not all(0 < budget < 1 for budget in args.budgets):
        raise ConfigError(f"--budgets {args.budgets} are no shares of the FLOPs", "give such as 0.7 0.5")
    setup = Setup.of(args)
    folder = common.open_results(args)
    parts = [setup.trainer(), setup.changes["prune"], setup.measure, args.epochs]
    shared = {"settings": setup.digest(*parts), "backbone": setup.backbone.name}
    runs = folder / RUNS / shared["settings"]

    def cutter(seed: int, device: torch.device) -> Cutter:
        """What cuts the network of a seed, which is fine-tuned here if it has not been."""
        own, place = replace(setup, seed=seed), runs / f"seed{seed}"
        key = {"kind": "unpruned", "seed": seed, **shared}
        (row,) = collect(folder, [key], lambda _: fine_tune_all(own, place, device), "conventional")
        network = tascnet.load(place / "state" / f"all-{row['epochs']}")
        learner = own.learner(network, device)
        return Cutter(own, learner, learner.place(network), place, args.epochs)

    with computing(setup.device, setup.threads) as device:
        first = cutter(setup.seed, device)
        for method in (name for name in args.methods if name in OURS):
            for budget in args.budgets:
                # Refuses what is out of reach before anything is pruned.
                first.options(method, budget)
        middle = sorted(args.budgets)[len(args.budgets) // 2]
        variants = {}
        for method in (name for name in args.methods if name in CRITERIA):
            known = {"kind": "choice", "method": method, "budget": middle, "seed": setup.seed, **shared}
            keys = [{**known, "variant": variant.name} for variant in VARIANTS]
            choices = collect(folder, keys, first.row, f"use of {method}")
            # Of equally accurate ones that which is nearer the budget.
            best = max(choices, key=lambda row: (row["val_accuracy"], -abs(row["flops_ratio"] - middle)))
            variants[method] = best["variant"]
        rows: list[Row] = []
        for seed in range(setup.seed, setup.seed + args.seeds):
            keys = [
                {"kind": kind, "method": method, "variant": variants.get(method, ""), "budget": budget}
                for kind in KINDS
                for budget in args.budgets
                for method in args.methods
            ]
            own = first if seed == setup.seed else cutter(seed, device)
            rows += collect(folder, [{**key, "seed": seed, **shared} for key in keys], own.row)
    summary = summarise(rows)
    found = {kind: verdict([row for row in rows if row["kind"] == kind]) for kind in KINDS}
    tables = [_table(kind, summary, found[kind], args.epochs) for kind in KINDS]
    common.report(args, folder, rows, summary, *tables, device=device, verdict=found)


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One entry for each kind, budget and method: means over the seeds and standard errors of accuracies."""
    summary: list[Row] = []
    for (kind, budget, method), own in common.grouped(rows, "kind", "budget", "method").items():
        means = {name: common.mean(own, name) for name in FIGURES}
        errors = {f"{name}_error": standard_error([row[name] for row in own]) for name in FIGURES[:2]}
        entry = {"kind": kind, "budget": budget, "method": method, "variant": own[0]["variant"]}
        summary.append({**entry, "seeds": len(own), **means, **errors})
    return summary


def verdict(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Each of ours against the better of torch-pruning's criteria: paired differences of test accuracy.

    Returns:
        By method of ours, one entry a budget and a last one over all of them, whose budget is None: `rival`,
        `difference` (mean over seeds, of fractions) and `error` (its standard error).
    """
    found: dict[str, list[Row]] = {}
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] in OURS):
        entries, by_seed = [], dict[int, list[float]]()
        for (budget,), own in common.grouped(rows, "budget").items():
            here = {(row["method"], row["seed"]): row["test_accuracy"] for row in own}
            seeds = [seed for name, seed in here if name == method]
            rivals = [name for name in CRITERIA if all((name, seed) in here for seed in seeds)]
            if not rivals:
                continue
            rival = max(rivals, key=lambda name: statistics.fmean(here[name, seed] for seed in seeds))
            differences = {seed: here[method, seed] - here[rival, seed] for seed in seeds}
            for seed, difference in differences.items():
                by_seed.setdefault(seed, []).append(difference)
            entries.append(_difference(budget, rival, list(differences.values())))
        if entries:
            # The budgets of a seed share its network: they count as one observation.
            every = [statistics.fmean(values) for values in by_seed.values()]
            found[method] = [*entries, _difference(None, "", every)]
    return found


def _difference(budget: float | None, rival: str, values: Sequence[float]) -> Row:
    figures = {"difference": statistics.fmean(values), "error": standard_error(values)}
    return {"budget": budget, "rival": rival, **figures}


@dataclass(frozen=True)
class Cutter:
    """Prunes one fine-tuned network, which is on the device, with so many epochs a method in all."""

    setup: Setup
    learner: Learner
    unpruned: nn.Sequential
    folder: Path
    epochs: int

    def row(self, key: Row) -> Row:
        """Accuracies of one pruned network, and its costs beside those of the unpruned one."""
        networks = {"before": self.unpruned, "after": self._pruned(key)}
        costs = measure_models(networks, self.learner.samples.example, measure=self.setup.measure)
        before, after = costs["before"], costs["after"]
        was, now = (cost["latencies"][0] for cost in (before, after))
        flops_ratio = after["flops"] / before["flops"]
        if abs(flops_ratio / key["budget"] - 1) > NEAR:
            log.warning("%s has %.1f %% of the FLOPs", key, 100 * flops_ratio)
        return {
            **accuracies(self.learner, networks["after"]),
            "params": after["params"],
            "flops": after["flops"],
            "flops_ratio": flops_ratio,
            "latency_ratio": now.latency_ms / was.latency_ms,
            "latency_ratio_batch": now.latency_ms_batch / was.latency_ms_batch,
        }

    def options(self, method: str, budget: float) -> Prune:
        """Options of `tascnet.prune` that reach a budget in as few iterations as the criterion can.

        Raises:
            ConfigError: the budget is out of reach, or there are too few epochs.
        """
        step = PAIRED_STEP if method == "tascnet" else STEP
        fixed = {"round_to": 1, "flops_target": budget, "tolerance": 1.0, "retries": 0}
        preset, own = CHANGED.get(method, (method, {}))
        options: Prune = self.setup.options("prune", preset, max_pruning_ratio=step, **fixed, **own)
        ratio, iterations = self._steps(options, budget)
        each = self.epochs // iterations
        # A second round would follow more than one final epoch.
        final = min(1, self.epochs - each * iterations)
        options = replace(
            options, pruning_ratio=ratio, max_iterations=iterations, epochs=each, final_epochs=final
        )
        if not isinstance(options, HistoryPrune):
            return options
        if each < LEAST_EPOCHS:
            raise ConfigError(
                f"--epochs {self.epochs} is too few for {plural(iterations, 'iteration')}",
                f"give at least {LEAST_EPOCHS * iterations}",
            )
        return replace(options, history_epochs=1, optimise_epochs=max(1, (each - 1) // 3))

    def _steps(self, options: Prune, budget: float) -> tuple[float, int]:
        """Share of the filters and number of iterations that reach a budget."""
        example = self.learner.samples.example
        groups = [g for g in width_groups(self.unpruned, example) if g.channels >= options.min_filters]
        widths = {group.name: group.width for group in groups}
        costs = WidthCosts(self.unpruned, example, groups)

        def reaches(removed: dict[str, int]) -> bool:
            return costs(removed)[1] <= budget * costs.flops

        if not isinstance(options, HistoryPrune):
            if reaches({name: removable(width, share_of(width, STEP), 1) for name, width in widths.items()}):
                return 0.95, 1
            raise _out_of_reach(f"a cut of {STEP:.0%} of every group leaves", budget, options)
        # Pairs are equal shares of all groups.
        for iterations in (1, 2, 3):
            for percentage in range(1, 51):
                left = (1 - percentage / 100) ** iterations
                if reaches({name: int(width * (1 - left)) for name, width in widths.items()}):
                    return min(percentage + MARGIN, 50) / 100, iterations
        raise _out_of_reach("three iterations of pairs leave", budget, options)

    def _pruned(self, key: Row) -> nn.Sequential:
        """The network of a row, on the device."""
        method, budget = key["method"], key["budget"]
        if method in CRITERIA:
            variant = next(variant for variant in VARIANTS if variant.name == key["variant"])
            return self._by_torch_pruning(method, budget, variant, trained=key["kind"] != "cut")
        options, trainer = self.options(method, budget), self.learner.trainer
        if key["kind"] == "cut":
            # One epoch of one batch that changes nothing; a history is that of the filters as they are.
            still: Any = {"lr": 0.0, "min_lr": 0.0, "batchnorm": "frozen"}
            trainer = replace(trainer, epoch_share=0.001, recover=replace(trainer.recover, **still))
            phases: Any = {"history_epochs": 0, "optimise_epochs": 0} if method == "tascnet" else {}
            options = replace(options, max_iterations=10, epochs=1, final_epochs=0, distill=0.0, **phases)
        result = tascnet.prune(
            self.unpruned,
            self.setup.data,
            options,
            trainer=trainer,
            run=self.folder / f"{method}-{key['kind']}-{budget:g}",
            **self.setup.place,
        )
        return self.learner.place(result.network)

    def _by_torch_pruning(
        self, criterion: str, budget: float, variant: Variant, *, trained: bool
    ) -> nn.Sequential:
        """torch-pruning's cut, in steps with training between them; without training in one step."""
        network, learner, example = self.unpruned, self.learner, self.learner.samples.example
        whole = complexity(network, example).flops
        distill = self.setup.options("prune", "reconstruction").distill
        teacher = Distillation(teacher=self.unpruned, weight=distill) if distill else None
        steps = variant.steps if trained else 1
        folder = self.folder / f"{criterion}-{variant.folder}-{budget:g}"
        for step in range(1, steps + 1):
            goal = whole * budget ** (step / steps)
            network = stock_cut(network, example, criterion, variant.is_global, goal, learner.batches())
            learner.place(network).requires_grad_(True)
            reestimate_batchnorm(network, learner.samples.train, device=learner.device)
            if trained:
                learner.fit(
                    network,
                    "recover",
                    epochs=self.epochs // steps + (self.epochs % steps if step == steps else 0),
                    checkpoint=folder / f"step{step}.pt",
                    distillation=teacher,
                )
        return network


def _out_of_reach(what: str, budget: float, options: Prune) -> ConfigError:
    return ConfigError(
        f"{what} more than {budget:g} of the FLOPs with prune.min_filters={options.min_filters}",
        "lower it, or raise --budgets",
    )


def _table(kind: str, summary: Sequence[Row], found: Mapping[str, Sequence[Row]], epochs: int) -> Table:
    own = [entry for entry in summary if entry["kind"] == kind]
    title = KINDS[kind] if kind == "cut" else f"{KINDS[kind]}, {plural(epochs, 'epoch')} in all"
    seeds = plural(max((entry["seeds"] for entry in own), default=0), "seed")
    caption = "\n".join(_sentence(method, entries) for method, entries in found.items())
    numbers = ("test\nacc.", "±", "val\nacc.", "params", "time\nof 1", "time of\na batch")
    table = common.new_table(f"{title}; means of {seeds}", ["FLOPs", "method"], numbers, caption)
    for entry in own:
        table.add_row(
            f"{entry['flops_ratio']:.3f}",
            "\n".join(filter(None, (entry["method"], entry["variant"]))),
            percent(entry["test_accuracy"]),
            points(entry["test_accuracy_error"]),
            percent(entry["val_accuracy"]),
            count(round(entry["params"])),
            *(f"{entry[name]:.2f}" for name in FIGURES[-2:]),
        )
    return table


def _sentence(method: str, entries: Sequence[Row]) -> str:
    """The paired differences in points of test accuracy."""
    shown = [
        f"{100 * entry['difference']:+.1f} ± {points(entry['error'])} "
        + ("over all" if entry["budget"] is None else f"at {entry['budget']:g} ({entry['rival']})")
        for entry in entries
    ]
    return f"{method} against the better of torch-pruning's, in points: {', '.join(shown)}"
