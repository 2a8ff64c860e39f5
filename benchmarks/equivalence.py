"""Whether two clones of this repository give the same results.

    python -m benchmarks.equivalence OLD_CLONE NEW_CLONE [--only NAME ...] [--keep FOLDER] [--weights]

runs the same small commands in both clones, one after the other on one thread, and compares what they leave
in full: accuracies, params and FLOPs of all models, all trials of a search, all iterations of a pruning, the
widths and the shapes of the weights, with `--weights` every bit of them. Samples and weights are drawn by a
seed; no digits are stored. The exit code is 0 where all is equal, 1 where something differs, 2 for a mistake.

Commands are written as the new clone spells its options; `SPELLINGS` holds what the old one calls them, and
`RENAMED` what it calls the names in its results. Nothing that is compared depends on the clock.
"""

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import json
import math
import multiprocessing
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# What an option of `COMMANDS` is called in the old clone; one that is not listed is spelt alike. The key is
# an option with its value, or an option alone, whose value is then handed to each old option without one:
#     "prune.pruning_ratio=0.05": ("prune.percent=5",)      another name and another value
#     "prune.pruning_ratio": ("prune.percent",)             another name, the same value
#     "prune.mode=global": ("prune.scope=global", "prune.per=flops")
#     "prune.mode=global": ()                               the old clone has no such option
SPELLINGS: dict[str, tuple[str, ...]] = {
    "dataset.train": ("dataset.train_fraction",),
    "dataset.val": ("dataset.val_fraction",),
    "tune.algorithm=layerwise": ("tune.freeze=layerwise",),
    "tune.flops_target=0.7": ("tune.objective=constrained", "tune.max_flops=0.7"),
    "tune.objective=pareto_flops": ("tune.objective=pareto",),
    # All epochs of an iteration together; in the old clone those before retraining are the preset's.
    "prune.epochs": ("prune.retrain_epochs=4",),
    "prune.history_epochs": (),
    "prune.optimise_epochs": (),
}
# Names in results (models, keys of a trial's configuration, layers, weights), from new to old.
RENAMED: dict[str, str] = {}
# Packages by name, and where they may lie in a clone; a package that a clone lacks is left out.
PACKAGES = {
    "tascnet": ("tascnet", "src/tascnet"),
    "tascnet_conf": ("conf",),
    "tascnet_pipelines": ("pipelines",),
}


@dataclass(frozen=True)
class Command:
    """One command line.

    Args:
        options: as the new clone spells them; `{data}` stands for the folder of generated samples.
        after: the command whose outputs this one resumes from.
        only_old: further options for the old clone alone, as it spells them.
    """

    options: tuple[str, ...] = ()
    after: str | None = None
    only_old: tuple[str, ...] = ()


SHORT_TRAINING = ("trainer.head.epochs=10", "trainer.trial.epochs=8", "trainer.finetune.epochs=8")
# A search and a pruning that end soon. With fewer first trials than trials the surrogate proposes some.
SHORT_TUNE = (
    "tune.max_trials=6",
    "tune.initial_trials=3",
    "tune.trials_per_depth=3",
    "tune.max_units=2",
    *SHORT_TRAINING,
)
SHORT_PRUNE = ("prune.max_iterations=2", "prune.epochs=6", "prune.tolerance=0.2")
SHORT = (*SHORT_TUNE, *SHORT_PRUNE)
# All trials at the first depth.
FLAT = "tune.trials_per_depth=6"
# For networks that take their time: fewer epochs and clockings, and enough samples to judge by.
SLOW = (
    "dataset.train=0.5",
    "dataset.val=0.25",
    "trainer.finetune.epochs=4",
    "measure.repeats=3",
)
# The network of the digits records a history for three epochs and pulls pairs together for three.
SEED1 = ("seed=1", "name=seed1", *SHORT, "prune.epochs=10")
PHASES = ("prune.history_epochs=3", "prune.optimise_epochs=3")
RESNET = ("dataset=image_folder", "dataset.root={data}/tiles", "backbone=resnet20", "backbone.weights=random")
MOBILENET = (
    "dataset=image_folder",
    "dataset.root={data}/photos",
    "backbone=mobilenet_v2",
    "backbone.weights={data}/mobilenet_v2.safetensors",
    "backbone.size=64",
    "backbone.resize=72",
)
TEXTCNN = ("dataset=text_lines", "dataset.root={data}/texts", "backbone=textcnn", "backbone.weights=random")

# Every command gets these.
COMMON = ("threads=1", "device=cpu", "outputs={outputs}", "cache_dir={cache}")
COMMANDS: dict[str, Command] = {
    "default": Command(),
    "seed1": Command(("stage=full", *SEED1)),
    "autotune": Command(("stage=tune", "tune=autotune", *SHORT_TUNE)),
    "grow": Command(("stage=tune", "tune.head=grow", *SHORT_TUNE)),
    "layerwise": Command(("stage=tune", "tune.algorithm=layerwise", "tune.max_trials=4", *SHORT_TRAINING)),
    "constrained": Command(
        ("stage=tune", "tune.flops_target=0.7", *SHORT_TUNE, FLAT),
    ),
    "pareto": Command(("stage=tune", "tune.objective=pareto_flops", *SHORT_TUNE)),
    "prune_tascnet": Command(("stage=prune", "prune=tascnet", *SEED1, *PHASES), after="seed1"),
    "prune_magnitude": Command(("stage=prune", "prune=magnitude", *SEED1), after="seed1"),
    "prune_taylor": Command(("stage=prune", "prune=taylor", *SEED1), after="seed1"),
    # The clock says which block goes, or filters in its place. Here it has no say: no group is wide enough
    # to give up filters, and of the part that may change (the deepest unit) one block can go.
    "blocks": Command(
        (
            "stage=full",
            *RESNET,
            *SHORT,
            *SLOW,
            FLAT,
            "tune.max_units=1",
            "tune.remove_blocks=false",
            "prune.blocks=true",
            "prune.where=tail",
            "prune.min_filters=1000",
        ),
    ),
    "textcnn": Command(("stage=full", *TEXTCNN, *SHORT, FLAT)),
    "mobilenet": Command(("stage=full", *MOBILENET, *SHORT, *SLOW, "prune.max_iterations=1")),
    "pretrain": Command(("stage=pretrain", "trainer.pretrain.epochs=5")),
}

# Names under which results may lie, the present one first.
METRICS, TRIALS, ITERATIONS = ("metrics.json",), ("trials.jsonl",), ("iterations.jsonl",)
WEIGHTS = ("model/model.safetensors",)
# Imported once, before the commands: each of them then starts from there.
PRELOADED = (
    "torch",
    "torchvision",
    "safetensors.torch",
    "botorch",
    "botorch.models",
    "botorch.fit",
    "botorch.acquisition",
    "gpytorch",
    "torch_pruning",
    "fvcore.nn",
    "hydra",
    "sklearn.datasets",
    "scipy.stats",
    "matplotlib.figure",
    "jinja2",
    "tokenizers",
)
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONWARNINGS": "ignore::FutureWarning",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
DIFFERENT, MISTAKE = 1, 2
# Exit code of a command that imported a package from elsewhere.
FOREIGN = 70
# So many differences are shown of one command.
SHOWN = 6
ABSENT = "absent"

Figures = dict[str, Any]
Row = Mapping[str, Any]


class Mistake(Exception):
    """Something that the caller can put right."""


class Unreadable(Exception):
    """Results that are not as this script expects them."""


@dataclass(frozen=True)
class Side:
    """One of the two clones, and where its commands write.

    Args:
        name: `old` or `new`.
        clone: the clone's folder.
        folder: for outputs, cache and links to the clone's packages.
        has_old_spelling: whether options are spelt as the old clone does.
    """

    name: str
    clone: Path
    folder: Path
    has_old_spelling: bool

    @property
    def packages(self) -> Path:
        return self.folder / "packages"

    def outputs(self, name: str) -> Path:
        """Those of a command, which later ones may resume from."""
        after = COMMANDS[name].after
        return self.folder / "outputs" / (after or name)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two clones and give the exit code."""
    args = _parser().parse_args(argv)
    try:
        names = with_sources(args.only or list(COMMANDS))
        with work_folder(args.keep) as folder:
            return compare_clones(sides(args, folder), names, folder, bits=args.weights)
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        return MISTAKE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.equivalence",
        description="Whether two clones give the same results.",
        epilog=f"Commands: {', '.join(COMMANDS)}.",
    )
    parser.add_argument("old", type=Path, help="clone with the old options")
    parser.add_argument("new", type=Path, help="clone with the new options")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these commands, and those they resume from"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep samples, outputs and logs here")
    parser.add_argument("--weights", action="store_true", help="compare every bit of the weights")
    spelling = parser.add_mutually_exclusive_group()
    spelling.add_argument("--same-spelling", action="store_true", help="both clones have the new options")
    spelling.add_argument("--old-spelling", action="store_true", help="both clones have the old options")
    return parser


def with_sources(names: Sequence[str]) -> list[str]:
    """The commands and those that they resume from, in the order of `COMMANDS`."""
    unknown = [name for name in names if name not in COMMANDS]
    if unknown:
        raise Mistake(f"there is no command {unknown[0]}: choose of {', '.join(COMMANDS)}")
    wanted = {*names, *(COMMANDS[name].after for name in names)}
    return [name for name in COMMANDS if name in wanted]


@contextlib.contextmanager
def work_folder(keep: Path | None) -> Iterator[Path]:
    """An empty folder, which is removed in the end unless it was named."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="equivalence-") as name:
            yield Path(name).resolve()
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise Mistake(f"{keep} is not an empty folder: give another one")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


def sides(args: argparse.Namespace, folder: Path) -> list[Side]:
    """Both clones, with links to their packages."""
    chosen = [
        Side("old", args.old.resolve(), folder / "old", not args.same_spelling),
        Side("new", args.new.resolve(), folder / "new", args.old_spelling),
    ]
    for side in chosen:
        _link(side)
    return chosen


def _link(side: Side) -> None:
    """A folder that holds the clone's packages under the names by which they are imported."""
    side.packages.mkdir(parents=True)
    (side.folder / "empty").mkdir()
    for package, places in PACKAGES.items():
        found = next((side.clone / place for place in places if (side.clone / place).is_dir()), None)
        if found is not None:
            (side.packages / package).symlink_to(found, target_is_directory=True)
        elif package == "tascnet":
            raise Mistake(f"{side.clone} is no clone of tascnet: it has no folder {' or '.join(places)}")


def compare_clones(both: Sequence[Side], names: Sequence[str], folder: Path, *, bits: bool) -> int:
    """Run and compare the commands, one line for each."""
    context = _start_server()
    write_samples(folder / "data")
    maker = context.Process(target=write_weights, args=(folder / "data",))
    maker.start()
    maker.join()
    same = [compare_command(context, both, name, bits=bits) for name in names]
    print(f"{sum(same)} of {len(same)} commands are equal", flush=True)
    return 0 if all(same) else DIFFERENT


def _start_server() -> Any:
    """What starts a process for each command, with the heavy libraries of others imported already."""
    os.environ.update(ENVIRONMENT)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def compare_command(context: Any, both: Sequence[Side], name: str, *, bits: bool) -> bool:
    """Run one command in both clones; tell whether the results are equal, and what differs."""
    figures: list[Figures] = []
    took: list[float] = []
    for side in both:
        started = time.perf_counter()
        known = _written(side.outputs(name))
        code, log = run_command(context, side, name)
        took.append(time.perf_counter() - started)
        if code:
            print(f"{name}: fails in the {side.name} clone with code {code}: {_tail(log)}", flush=True)
            return False
        try:
            figures.append(read_outputs(side.outputs(name), known, bits=bits))
        except (Unreadable, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"{name}: results of the {side.name} clone cannot be read: {error!r}", flush=True)
            return False
    told = differences(*figures)
    seconds = " and ".join(f"{one:.1f} s" for one in took)
    if told:
        more = [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
        print(f"{name}: {len(told)} differ: {'; '.join([*told[:SHOWN], *more])}", flush=True)
    else:
        print(f"{name}: equal, {len(figures[0])} figures, {seconds}", flush=True)
    return not told


def _tail(log: Path) -> str:
    """The last line that a command said."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was said"


# Running.


def spelt(option: str, has_old_spelling: bool) -> tuple[str, ...]:
    """An option as a clone spells it."""
    if not has_old_spelling:
        return (option,)
    if option in SPELLINGS:
        return SPELLINGS[option]
    key, _, value = option.partition("=")
    return tuple(name if "=" in name else f"{name}={value}" for name in SPELLINGS.get(key, (key,)))


def command_line(side: Side, name: str) -> list[str]:
    """The options of a command as this clone is given them; of those given twice the last counts."""
    command = COMMANDS[name]
    options = {option.partition("=")[0]: option for option in (*COMMON, *command.options)}
    spelled = [one for option in options.values() for one in spelt(option, side.has_old_spelling)]
    if side.has_old_spelling:
        spelled += command.only_old
    places = {
        "{data}": side.folder.parent / "data",
        "{outputs}": side.outputs(name),
        "{cache}": side.folder / "cache",
    }
    for mark, place in places.items():
        spelled = [option.replace(mark, str(place)) for option in spelled]
    return spelled


def run_command(context: Any, side: Side, name: str) -> tuple[int, Path]:
    """Run a command in a process of its own; its exit code, and the file of what it said."""
    log = side.folder / "logs" / f"{name}.txt"
    log.parent.mkdir(exist_ok=True)
    process = context.Process(target=_run, args=(side, command_line(side, name), log))
    process.start()
    process.join()
    return process.exitcode, log


def _run(side: Side, options: list[str], log: Path) -> None:
    """In the new process: `python -m tascnet` with the clone's packages before all others."""
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(stream, number)
    here = Path.cwd()
    os.chdir(side.folder / "empty")
    sys.path[:] = [str(side.packages), *(place for place in sys.path if _is_elsewhere(place, here))]
    # An installed tascnet must not stand in for what the clone lacks.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in _module_of(finder)]
    importlib.invalidate_caches()
    _check_imports(side, ["tascnet"], found=True)
    sys.argv = ["tascnet", *options]
    try:
        runpy.run_module("tascnet", run_name="__main__", alter_sys=True)
    finally:
        _check_imports(side, [name for name in sys.modules if name.partition(".")[0] in PACKAGES])


def _is_elsewhere(place: str, here: Path) -> bool:
    """Whether an entry of the import path is another than the folder that the script was started in."""
    return bool(place) and Path(place).resolve() != here


def _module_of(finder: Any) -> str:
    return str(getattr(finder, "__module__", ""))


def _check_imports(side: Side, names: Sequence[str], *, found: bool = False) -> None:
    """End with the code `FOREIGN` where a module is not the clone's own."""
    for name in names:
        spec = importlib.util.find_spec(name) if found else getattr(sys.modules[name], "__spec__", None)
        origin = getattr(spec, "origin", None)
        if origin and not Path(origin).resolve().is_relative_to(side.clone):
            print(f"{name} was imported from {origin}", file=sys.stderr)
            sys.exit(FOREIGN)


# Reading results. Each function takes one place or format and gives figures by name; where a later version
# keeps them elsewhere or calls them otherwise, it learns both.


def _written(outputs: Path) -> dict[Path, int]:
    """Files of metrics and when they were written."""
    found = (path for name in METRICS for path in outputs.rglob(name))
    return {path: path.stat().st_mtime_ns for path in found}


def read_outputs(outputs: Path, known: Mapping[Path, int], *, bits: bool) -> Figures:
    """The figures of all stages that wrote metrics since `known`."""
    written = [path for path, when in _written(outputs).items() if known.get(path) != when]
    if not written:
        raise Unreadable(f"there is no {' or '.join(METRICS)} in {outputs}")
    figures: Figures = {}
    for path in sorted(written, key=lambda path: path.stat().st_mtime_ns):
        stage, found = read_stage(path, bits=bits)
        if any(name.startswith(f"{stage}.") for name in figures):
            raise Unreadable(f"more than one stage {stage} in {outputs}")
        figures.update({f"{stage}.{name}": value for name, value in found.items()})
    return figures


def read_stage(path: Path, *, bits: bool) -> tuple[str, Figures]:
    """Which stage wrote metrics, and its figures."""
    metrics = json.loads(path.read_text("utf-8"))
    folder = path.parent
    figures = {**read_models(metrics), **read_weights(_place(folder, WEIGHTS), bits=bits)}
    if any((folder / name).exists() for name in TRIALS):
        return "tune", {**figures, **read_tune(metrics, _place(folder, TRIALS))}
    if any((folder / name).exists() for name in ITERATIONS):
        return "prune", {**figures, **read_prune(metrics, _place(folder, ITERATIONS))}
    return "pretrain", figures


def read_models(metrics: Row) -> Figures:
    """What the metrics of any stage hold of each model."""
    fields = ("val_accuracy", "test_accuracy", "params", "flops")
    models = [(name, model) for name, model in metrics["models"].items() if isinstance(model, Mapping)]
    if not models:
        raise Unreadable("the metrics hold no model")
    return {f"{_old(name)}.{field}": take(model, field) for name, model in models for field in fields}


def read_tune(metrics: Row, journal: Path) -> Figures:
    """The trials of a search and which of them won."""
    figures: Figures = {"winner": take(metrics, "winner")}
    for number, row in enumerate(_rows(journal)):
        for field in ("value", "val_accuracy", "val_loss", "params", "flops", "status"):
            figures[f"trials.{number}.{field}"] = take(row, field)
        for choice, value in take(row, "config").items():
            figures[f"trials.{number}.config.{_old(choice)}"] = value
    return figures


def read_prune(metrics: Row, journal: Path) -> Figures:
    """The iterations of a pruning, which of them was kept, and its widths."""
    figures: Figures = {"kept_iteration": take(metrics, "kept_iteration")}
    for number, row in enumerate(_rows(journal)):
        for field in ("val_accuracy", "val_loss", "params", "flops"):
            figures[f"iterations.{number}.{field}"] = take(row, field)
        figures[f"iterations.{number}.block"] = row.get("block")
    for row in take(metrics, "widths"):
        figures[f"widths.{_old(row['layer'])}"] = [take(row, "before"), take(row, "after")]
    return figures


def read_weights(path: Path, *, bits: bool) -> Figures:
    """Shapes of all weights of a file in the format of safetensors, and with `bits` their digests."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    figures: Figures = {}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        figures[f"shapes.{_old(name)}"] = tensor["shape"]
        if bits:
            first, end = tensor["data_offsets"]
            digest = hashlib.sha256(content[start + first : start + end])
            figures[f"bits.{_old(name)}"] = digest.hexdigest()[:12]
    return figures


def take(row: Row, *names: str) -> Any:
    """The first of these fields that a row has; one must be there, though it may hold nothing."""
    for name in names:
        if name in row:
            return row[name]
    raise Unreadable(f"no {' or '.join(names)} among {', '.join(row)}")


def _old(name: str) -> str:
    return RENAMED.get(name, name)


def _place(folder: Path, names: Sequence[str]) -> Path:
    """The first of these files that is there."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise Unreadable(f"no {' or '.join(names)} in {folder}")


def _rows(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text("utf-8").splitlines() if line]


# Comparing.


def differences(old: Figures, new: Figures) -> list[str]:
    """What is not the same, with both values."""
    names = [*old, *(name for name in new if name not in old)]
    pairs = ((name, old.get(name, ABSENT), new.get(name, ABSENT)) for name in names)
    return [f"{name} {before!r} -> {after!r}" for name, before, after in pairs if not is_same(before, after)]


def is_same(old: Any, new: Any) -> bool:
    """Whether two values are equal; what is not a number equals its like."""
    both_floats = isinstance(old, float) and isinstance(new, float)
    return bool(old == new) or (both_floats and math.isnan(old) and math.isnan(new))


# Samples.

WORDS = 60


def write_samples(folder: Path) -> None:
    """All that the commands read: small PNGs, larger JPEGs and texts, drawn by a seed."""
    _write_images(folder / "tiles", side=32, classes=4, count=30, suffix=".png")
    _write_images(folder / "photos", side=80, classes=3, count=24, suffix=".jpg")
    _write_texts(folder / "texts", classes=2, count=120)


def _write_images(folder: Path, *, side: int, classes: int, count: int, suffix: str) -> None:
    """Waves whose direction tells the class, at any phase and in any colour, under noise."""
    generator = np.random.default_rng(0)
    down, right = np.mgrid[0:side, 0:side] / side
    for number in range(classes):
        place = folder / f"class{number}"
        place.mkdir(parents=True)
        angle = np.pi * number / classes
        for index in range(count):
            phase, waves = generator.uniform(0, 2 * np.pi), generator.uniform(3, 5)
            along = right * np.cos(angle) + down * np.sin(angle)
            wave = np.sin(2 * np.pi * waves * along + phase)[:, :, None]
            colour, noise = generator.uniform(20, 60, 3), generator.normal(0, 40, (side, side, 3))
            pixels = np.clip(128 + wave * colour + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{index:03d}{suffix}")


def _write_texts(folder: Path, *, classes: int, count: int) -> None:
    """Lines of words, of which each class prefers some."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(classes):
        weights = np.ones(WORDS)
        weights[number::classes] = 1.6
        lines = [
            " ".join(f"word{word}" for word in generator.choice(WORDS, length, p=weights / weights.sum()))
            for length in generator.integers(8, 20, count)
        ]
        (folder / f"class{number}.txt").write_text("\n".join(lines) + "\n", "utf-8")


def write_weights(folder: Path) -> None:
    """A MobileNetV2 drawn by a seed, its batch-norm measured on the photos: else nothing comes through it."""
    import torch
    import torchvision
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2()
    images = [np.asarray(Image.open(path)) for path in sorted((folder / "photos").rglob("*.jpg"))]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255.0 - 0.5
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            # The plain mean over all batches: of one, what it is.
            layer.momentum = None
    with torch.no_grad():
        network.train()(pixels)
    save_file(network.state_dict(), folder / "mobilenet_v2.safetensors")


if __name__ == "__main__":
    sys.exit(main())
