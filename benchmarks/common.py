"""What benchmarks share: their options, rows that are journalled one by one, figures, and files."""

import argparse
import shlex
import shutil
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Self, cast

import torch
import yaml  # type: ignore[import-untyped]
from rich import box
from rich.table import Table
from torch import nn

import tascnet
from tascnet.data import check_samples, open_samples
from tascnet.errors import ConfigError, TascnetError, closest, listed
from tascnet.execute import Lost, opened
from tascnet.measure import describe_device, versions
from tascnet.models.library import check_name
from tascnet.options import (
    Backbone,
    Data,
    Digits,
    ImageBackbone,
    ImageFolder,
    Local,
    Measure,
    PublishedImages,
    Ray,
    Texts,
    Trainer,
    make,
)
from tascnet.presets import preset, preset_names, trainer_for, what_suits
from tascnet.report.numbers import MISSING
from tascnet.run.console import output, progress
from tascnet.run.files import append_jsonl, digest_json, read_jsonl, write_json
from tascnet.run.records import to_json
from tascnet.train import Learner

Row = dict[str, Any]

# As by default in the public functions.
CACHE, LIMIT_GB = Path("outputs/cache"), 20.0
JOURNAL, RUNS = "rows.jsonl", "runs"
# Flags of single options, by section; all others are given by --set.
FLAGS = {
    "root": ("dataset", "folder of the samples"),
    "train": ("dataset", "training samples of each class: a count, or a share below 1"),
    "val": ("dataset", "validation samples of each class, likewise"),
    "weights": ("backbone", "pretrained, random, or a file of weights"),
    "size": ("backbone", "side of the square that the network sees, in pixels"),
    "resize": ("backbone", "shorter side after resizing, in pixels"),
}
SECTIONS = ("dataset", "backbone", "trainer", "tune", "prune", "measure")


def count(text: str, least: int = 1, most: int = 100_000) -> int:
    """A number of things, or of epochs, that a run can end with; a type of an argument.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < least:
        raise argparse.ArgumentTypeError(f"{text} is below {least}")
    if number > most:
        raise argparse.ArgumentTypeError(f"{text} is above {most}")
    return number


def seed(text: str) -> int:
    """A seed; a type of an argument."""
    return count(text, 0, 10**9)


def add_arguments(
    parser: argparse.ArgumentParser, *, seeds: int | None = None, sections: Sequence[str] = ()
) -> None:
    """The options that benchmarks share.

    Args:
        parser: of a benchmark.
        seeds: default number of repetitions, where there are several.
        sections: what the benchmark reads beside data and network; empty: it takes none of them.
    """
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"), help="folder of results")
    parser.add_argument("--threads", type=count, help="CPU threads, as many as torch has if left out")
    parser.add_argument("--fresh", action="store_true", help="forget earlier rows and runs")
    if seeds is not None:
        parser.add_argument("--seeds", type=count, default=seeds, help="number of repetitions")
    if not sections:
        return
    parser.set_defaults(sections=("dataset", "backbone", *sections))
    parser.add_argument("--data", default="digits", metavar="NAME", help="data set: a name in conf/dataset/")
    parser.add_argument("--backbone", metavar="NAME", help="network: a name in conf/backbone/")
    for name, (section, text) in FLAGS.items():
        parser.add_argument(f"--{name}", help=f"{text} ({section}.{name})")
    parser.add_argument("--seed", type=seed, default=0, help="the first seed")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:<number> or auto")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of decoded samples and features")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        action="extend",
        metavar="OPTION=VALUE",
        help=f"any option of {listed(parser.get_default('sections'))}, such as tune.max_trials=6",
    )


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Data, network and options of a benchmark, and where and how its runs work, as the library takes them.

    `changes` holds by section the options that were given: they hold for every preset.
    """

    data: Data
    backbone: Backbone
    changes: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {section: {} for section in SECTIONS}
    )
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    cache: Path = CACHE

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """What the options of `add_arguments` describe; missing samples are found here.

        Raises:
            ConfigError: an option is unknown, or a value does not fit.
            DataError: the samples are missing.
        """
        changes = _changes(args)
        data = preset("dataset", args.data, **changes["dataset"])
        usual = "textcnn" if isinstance(data, Texts) else "mobilenet_v2"
        network = args.backbone or ("digits_cnn" if isinstance(data, Digits) else usual)
        made = cls(
            data=data,
            backbone=preset("backbone", network, **changes["backbone"]),
            changes=changes,
            seed=args.seed,
            device=args.device,
            threads=args.threads,
            cache=args.cache,
        )
        check_samples(data, made.cache)
        return made

    def options(self, group: str, name: str, **more: Any) -> Any:
        """A preset of stage options with what suits the network, what was given, and `more`."""
        changes = {**self.changes[group], **more}
        known = {entry.name for entry in fields(preset(group, name, **changes))}
        stated = _file(group, name)
        own = stated.get(group, stated)
        suits = what_suits(self.backbone.name).get(group, {})
        suited = {key: value for key, value in suits.items() if key in known - own.keys()}
        return preset(group, name, **suited | changes)

    def trainer(self, tune: str = "tascnet") -> Trainer:
        """The recipes that suit the data, with those of a preset of tune, and what was given."""
        values: Mapping[str, Any] = asdict(trainer_for(self.data))
        for changes in (_file("tune", tune).get("trainer", {}), self.changes["trainer"]):
            values = _merged(values, changes)
        made: Trainer = make(Trainer, values)
        return made

    @property
    def measure(self) -> Measure:
        """How latency is measured: in eager PyTorch alone, if no other runtime is asked for."""
        made: Measure = preset("measure", "default", **{"runtimes": ("eager",), **self.changes["measure"]})
        return made

    @property
    def place(self) -> dict[str, Any]:
        """The arguments of the public functions that say where and how they work."""
        names = ("measure", "seed", "device", "threads", "cache")
        return {name: getattr(self, name) for name in names}

    def with_backbone(self, name: str) -> Self:
        """The same with another network, of random weights unless it is this one's own."""
        if name == self.backbone.name:
            return self
        shared = {entry.name: getattr(self.backbone, entry.name) for entry in fields(ImageBackbone)}
        return replace(self, backbone=ImageBackbone(**{**shared, "name": name, "weights": "random"}))

    def network(self) -> nn.Sequential:
        """The network with its weights."""
        return tascnet.backbone(self.backbone, cache=self.cache)

    def learner(
        self, network: nn.Sequential, device: torch.device, *, grow_vocabulary: bool = False
    ) -> Learner:
        """What trains networks on the data set, split as it is for this network."""
        samples = open_samples(
            self.data,
            cast(Any, network).preprocessing,
            seed=self.seed,
            cache=self.cache,
            cache_limit_gb=LIMIT_GB,
            grow_vocabulary=grow_vocabulary,
        )
        return Learner(samples=samples, device=device, trainer=self.trainer(), seed=self.seed)

    def digest(self, *parts: Any) -> str:
        """A digest of what changes rows beside their keys."""
        content = [self.data, self.backbone, *parts, self.device, self.threads]
        return digest_json([to_json(part) for part in content])[:12]


def check_networks(names: Iterable[str]) -> None:
    """Refuse, by a `ConfigError`, a network that is neither a preset nor in a library."""
    for name in set(names) - set(preset_names("backbone")):
        check_name(name, preset_names("backbone"))


def check_names(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuse, by a `ConfigError`, a name that is not known."""
    for name in given:
        if name not in known:
            raise ConfigError(f"there is no {what} {name!r}", f"take some of {', '.join(known)}")


def check_image_files(data: Data) -> None:
    """Refuse, by a `ConfigError`, a data set whose images are not in a file each."""
    # The files of CIFAR-10 hold thousands of images each.
    if not isinstance(data, ImageFolder | PublishedImages) or data.name == "cifar10":
        raise ConfigError(
            f"image files are decoded, but the samples of --data {data.name} are in none",
            "take --data image_folder or a data set of photographs",
        )


def open_results(args: argparse.Namespace) -> Path:
    """The folder of a benchmark's results; with `--fresh` its rows and the runs behind them are removed."""
    folder: Path = args.out / args.name
    if args.fresh:
        (folder / JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(folder / RUNS, ignore_errors=True)
    return folder


def collect(
    folder: Path,
    keys: Sequence[Row],
    work: Callable[[Row], Row],
    description: str = "rows",
    *,
    executor: Local = Local(),
) -> list[Row]:
    """The rows of all keys, in their order; those in the journal are not computed again.

    A row holds all of its key, which distinguishes it, and what `work` gives for that, in JSON values. An
    `executor` of several workers computes as many rows at a time.
    """
    known: list[Row] = read_jsonl(folder / JOURNAL)
    rows = [next((row for row in known if row.items() >= key.items()), None) for key in keys]
    left = [at for at, row in enumerate(rows) if row is None]
    with (
        progress(description, total=len(keys), done=len(keys) - len(left)) as bar,
        opened(executor if left else Local()) as running,
    ):
        while left or running.running:
            if left and running.running < running.slots:
                at = left.pop(0)
                running.submit(at, work, keys[at])
                continue
            outcome = running.next()
            if isinstance(outcome.value, (Lost, MemoryError)):
                raise TascnetError(f"a row was not computed ({outcome.value})", "run the same command again")
            row = {**keys[outcome.key], **outcome.value}
            append_jsonl(folder / JOURNAL, row)
            rows[outcome.key] = row
            bar.advance(1)
    return [row for row in rows if row is not None]


def side_by_side(args: argparse.Namespace) -> Local:
    """The executor of `--jobs`."""
    return Ray(workers=args.jobs, cpus=args.threads or 1) if args.jobs > 1 else Local()


def grouped(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by their values of these names, in the order of their first rows."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def mean(rows: Iterable[Row], name: str) -> float:
    """The mean of one of the rows' figures."""
    return statistics.fmean(row[name] for row in rows)


def standard_error(values: Sequence[float]) -> float | None:
    """The standard error of a mean; None for a single value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def points(value: float | None, digits: int = 1) -> str:
    """A fraction in points."""
    return MISSING if value is None else f"{100 * value:.{digits}f}"


def report(
    args: argparse.Namespace,
    folder: Path,
    rows: Sequence[Row],
    summary: Any,
    *tables: Table,
    device: torch.device | str = "cpu",
    **facts: Any,
) -> None:
    """Write `metrics.json` (rows, summary, facts, machine, versions and the command), and print tables."""
    metrics = {
        "rows": list(rows),
        "summary": summary,
        **facts,
        "machine": to_json(describe_device(device)),
        "versions": versions(),
        "command": shlex.join(args.command),
    }
    write_json(folder / "metrics.json", metrics)
    console = output()
    for table in tables:
        if not console.is_terminal:
            # In a file nothing is shortened.
            whole = console.measure(table, options=console.options.update(max_width=1000))
            console.width = max(console.width, whole.maximum)
        console.print(table)


def new_table(title: str, texts: Sequence[str], numbers: Sequence[str], caption: str | None = None) -> Table:
    """A table whose first columns hold texts and whose others hold numbers."""
    table = Table(title=title, box=box.SIMPLE, caption=caption, caption_justify="left")
    for name in texts:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _changes(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The options that were given, by section, nested as their classes are."""
    changes: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, (section, _) in FLAGS.items():
        if (value := getattr(args, name)) is not None:
            changes[section][name] = value if name in ("root", "weights") else _value(value)
    for entry in args.set:
        path, sign, value = entry.partition("=")
        section, *names = path.split(".")
        if section not in args.sections or not sign or not names:
            likely = closest(section, args.sections)
            hint = f"did you mean {likely}?" if likely else f"give an option of {listed(args.sections)}"
            raise ConfigError(f"--set {entry} sets no option that this benchmark reads", hint)
        inner = changes[section]
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
        inner[names[-1]] = _value(value)
    return changes


def _value(text: str) -> Any:
    """A value as YAML, with exponents that need no decimal point."""
    value = yaml.safe_load(text)
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    nested = {key: {**base[key], **value} for key, value in changes.items() if isinstance(value, Mapping)}
    return {**base, **changes, **nested}


def _file(group: str, name: str) -> dict[str, Any]:
    """What the file of a preset holds."""
    path = resources.files("tascnet_conf") / group / f"{name}.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return content
