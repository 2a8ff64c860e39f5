"""Faults and kills at random moments, injected into small runs: tracebacks, hangs and silent differences.

Each injection copies a prepared run, injects a fault of one of the kinds in `faults` and `faulty_inputs` into
the copy, and runs the command line on it. It passes where the command ends in time, without a traceback, an
escape code or much more memory, with exit code 0 or 2, and, if it is 0, with the results of the undisturbed
run (all figures but times, and all weights) or with a warning. A kill ends the command by a signal at a
random moment; the same command again must give the undisturbed results. `--only` repeats one of them, prints
what the command printed, and keeps its folder.
"""

import argparse
import csv
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from rich.table import Table

from benchmarks import common, faults, faulty_inputs
from benchmarks.common import Row, collect, grouped, new_table
from benchmarks.faults import ANSWERED, EQUAL, WARNED, Fault, Impossible, Kind
from benchmarks.forked import Ending, Kill, import_all, run_command
from tascnet.errors import TascnetError
from tascnet.run.console import log
from tascnet.run.files import digest_file, parse_json, read_bytes, read_jsonl

KINDS = (*faults.KINDS, *faulty_inputs.KINDS)
# Of a command that is disturbed, beyond the undisturbed one: seconds and bytes. Of one that is not: seconds.
PATIENCE, MEMORY, LONGEST = 20.0, 1.5e9, 600.0
# As little of everything as shows that a run is complete.
SMALL: Mapping[str, Any] = {
    **{"tune.initial_trials": 1, "tune.trials_per_depth": 1, "tune.patience": 1, "tune.max_trials": 2},
    **{"trainer.head.epochs": 1, "trainer.trial.epochs": 1, "trainer.finetune.epochs": 2, "prune.epochs": 1},
    **{"prune.pruning_ratio": 0.2, "prune.max_iterations": 1, "prune.tolerance": 1, "measure.batch": 1},
    **{"measure.repeats": 3, "threads": 1, "device": "cpu", "outputs": "outputs", "cache_dir": "cache"},
}
SCENES: Mapping[str, Mapping[str, Any]] = {
    "digits": {},
    "photos": {
        **{"dataset": "image_folder", "dataset.root": "photos", "backbone": "resnet20"},
        **{"backbone.weights": "random", "backbone.size": 16, "backbone.resize": 20},
    },
    "texts": {
        **{"dataset": "text_lines", "dataset.root": "texts", "backbone": "textcnn", "backbone.filters": 8},
        **{"prune.min_filters": 4},
    },
}
# What a run that has come less far lacks of a finished one.
STARTS = {
    "done": (),
    "tuned": ("outputs/*/*/*/prune",),
    "pruning": ("outputs/*/*/*/prune/metrics.json", "outputs/*/*/*/prune/model"),
    "half": ("outputs/*/*/*/prune", "outputs/*/*/*/tune/metrics.json", "outputs/*/*/*/tune/model"),
    "warm": ("outputs",),
    "decoded": ("outputs", "cache/features"),
    "fresh": ("outputs", "cache"),
}
# Those whose search is still to be done.
UNTUNED = ("warm", "decoded", "fresh", "training")
# What is killed.
KILLED = tuple(product(("digits", "photos"), ("fresh", "warm", "half", "tuned", "pruning")))
SIGNALS = (*(signal.SIGKILL,) * 3, signal.SIGTERM, signal.SIGINT)
# Verdicts. Those that are no failures: `changed` is a result that differs, with a warning.
PASSED = ("equal", "warned", "changed", "answered", "refused", "impossible")
FAILED = (
    *("traceback", "hang", "bug", "escape code", "no sentence", "memory", "differs", "accepted"),
    *("not resumed", "left behind", "formula"),
)

# How names of figures begin that differ from run to run.
TIMES = ("seconds", "latency", "digest", "check", "worker", "started", "ended")

# The figures and weights of a run, by file.
Results: TypeAlias = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser)
    parser.add_argument("--injections", type=int, default=520, help="number of faults")
    parser.add_argument("--kills", type=int, default=30, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--kind", help="faults of this kind alone")
    parser.add_argument(
        "--only", metavar="NUMBER", help="repeat one fault, such as 17, or kill, such as kill-3"
    )


def run(args: argparse.Namespace) -> None:
    """Inject all faults and kills, and print how the commands ended, by kind.

    Raises:
        TascnetError: some did not pass.
    """
    if args.kind:
        common.check_names("kind", [args.kind], {kind.name for kind in KINDS})
    import_all()
    with tempfile.TemporaryDirectory(prefix="reliability-") as place:
        bench = Bench(Path(place), args.seed, args.kind)
        if args.only:
            bench.repeat(args.only)
            return
        folder = common.open_results(args)
        numbers = [*map(str, range(args.injections)), *(f"kill-{index}" for index in range(args.kills))]
        keys: list[Row] = [{"number": number, "seed": args.seed, "of": args.kind} for number in numbers]
        rows = collect(folder, keys, lambda key: bench.row(key["number"]), "injections")
    common.report(args, folder, rows, summarise(rows), _table(rows))
    failed = [row for row in rows if row["verdict"] in FAILED]
    for row in failed:
        log.error("%s: %s, %s: %s: %s", *(row[key] for key in ("number", "verdict", "kind", "fault", "says")))
    if failed:
        raise TascnetError(f"{len(failed)} of {len(rows)} failed", "--only <number> repeats one of them")


def summarise(rows: Sequence[Row]) -> list[Row]:
    """How many there were of each kind, and of each verdict."""
    counts = {kind: Counter(row["verdict"] for row in own) for (kind,), own in grouped(rows, "kind").items()}
    return [{"kind": kind, "count": counts[kind].total(), **counts[kind]} for kind in sorted(counts)]


class Bench:
    """Prepared runs, and what happens to their copies.

    Args:
        place: an empty folder.
        seed: of what is drawn.
        kind: of all faults; None: each is of one that is drawn.
    """

    def __init__(self, place: Path, seed: int, kind: str | None = None) -> None:
        self.seed, self.kinds = seed, [one for one in KINDS if kind in (None, one.name)]
        self._place, self._copy = place, place / "copy"
        self._prepared: dict[str, Path] = {}
        self._undisturbed: dict[tuple[str, str, str], tuple[Ending, Results]] = {}

    def row(self, number: str) -> Row:
        """The verdict on one injection or kill."""
        draw = random.Random(f"{self.seed} {number}")
        return self._killed(draw) if number.startswith("kill") else self._injected(draw)

    def repeat(self, number: str) -> None:
        """Repeat one, print its verdict and what the last command printed, and keep its folder."""
        row = self.row(number)
        kept = Path(tempfile.mkdtemp(prefix=f"injection-{number}-"))
        shutil.move(self._copy, kept)
        print(self._copy.with_name("copy.printed").read_text(encoding="utf-8", errors="backslashreplace"))
        log.info("%s, %s: %s", *(row[key] for key in ("verdict", "kind", "fault")))
        log.info("%s %s", kept / "copy", " ".join(row["words"]))

    def _injected(self, draw: random.Random) -> Row:
        kind = draw.choice(self.kinds)
        start = draw.choice(kind.starts.split())
        stage = kind.stage or stage_of(start)
        usual, results = self._usual(kind.scene, start, stage)
        self._make_copy(kind.scene, start)
        try:
            fault = kind.inject(self._copy, draw)
        except Impossible as error:
            return {"kind": kind.name, "verdict": "impossible", "fault": str(error), "says": "", "words": []}
        if isinstance(fault, str):
            fault = Fault(text=fault)
        words, limit = command(kind.scene, stage, fault.options), usual.seconds + PATIENCE
        try:
            ended = run_command(self._copy, words, limit=limit, unprivileged=fault.unprivileged)
            verdict = judge(kind, ended, usual, are_equal=results == self._results(start))
            if verdict in PASSED and has_formula(self._copy):
                verdict = "formula"
            if verdict in PASSED and fault.heal is not None:
                fault.heal()
                again = run_command(self._copy, words, limit=limit)
                if again.code != 0 or results != self._results(start):
                    verdict, ended = "not resumed", again
            if verdict in PASSED and ended.code == 0 and any(self._copy.rglob(".*.tmp")):
                verdict = "left behind"
        finally:
            fault.clean()
        return _row(kind.name, verdict, f"{kind.scene} {start}: {fault.text}", ended, words)

    def _killed(self, draw: random.Random) -> Row:
        (scene, start), number = draw.choice(KILLED), draw.choice(SIGNALS)
        usual, results = self._usual(scene, start, stage_of(start))
        words, limit = command(scene, stage_of(start)), usual.seconds + PATIENCE
        kill = Kill(number=number, seconds=draw.uniform(0, usual.seconds))
        self._make_copy(scene, start)
        ended = run_command(self._copy, words, limit=limit, kill=kill)
        if ended.code is None or ended.has_traceback:
            verdict = "hang" if ended.code is None else "traceback"
        elif ended.code not in (0, -number, 128 + number):
            verdict = "bug"
        else:
            ended = run_command(self._copy, words, limit=limit)
            is_right = ended.code == 0 and results == self._results(start)
            verdict = "equal" if is_right else "not resumed"
            if is_right and any(self._copy.rglob(".*.tmp")):
                verdict = "left behind"
        text = f"{scene} {start}: {number.name} after {kill.seconds:.2f} s"
        return _row(f"kill by {number.name}", verdict, text, ended, words)

    def _usual(self, scene: str, start: str, stage: str) -> tuple[Ending, Results]:
        """How the command ends on a run that nobody disturbs, and its results."""
        key = scene, start, stage
        if key not in self._undisturbed:
            self._make_copy(scene, start)
            ended = self._complete(self._copy, scene, stage)
            self._undisturbed[key] = ended, self._results(start)
        return self._undisturbed[key]

    def _results(self, start: str) -> Results:
        """Of the copy; its steps count where the command makes them, and may be damaged elsewhere."""
        return results_of(self._copy, steps=start in UNTUNED)

    def _make_copy(self, scene: str, start: str) -> None:
        """Make a copy of a run that has come so far."""
        shutil.rmtree(self._copy, ignore_errors=True)
        if start == "fresh":
            write_samples(self._copy)
            return
        if scene not in self._prepared:
            write_samples(self._place / scene)
            self._complete(self._place / scene, scene, "full")
            self._prepared[scene] = self._place / scene
        if start == "training":
            known = self._prepared.get(f"{scene} {start}") or self._make_training(scene)
            self._prepared[f"{scene} {start}"] = known
        else:
            known = self._prepared[scene]
        shutil.copytree(known, self._copy)
        for pattern in STARTS.get(start, ()):
            for path in list(self._copy.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _make_training(self, scene: str) -> Path:
        """A run that was killed while a checkpoint was there."""
        kill = Kill(number=signal.SIGKILL, file="outputs/**/*.pt")
        for _ in range(20):
            self._make_copy(scene, "warm")
            run_command(self._copy, command(scene, "tune"), limit=LONGEST, kill=kill)
            if any(self._copy.glob("outputs/**/*.pt")):
                return Path(shutil.move(self._copy, self._place / f"{scene}-training"))
        raise TascnetError("no run was killed while it held a checkpoint")

    def _complete(self, folder: Path, scene: str, stage: str) -> Ending:
        ended = run_command(folder, command(scene, stage), limit=LONGEST)
        if ended.code != 0:
            raise TascnetError(f"the undisturbed {stage} of the {scene} failed", ended.says)
        return ended


def _row(kind: str, verdict: str, fault: str, ended: Ending, words: Sequence[str]) -> Row:
    more = {"code": ended.code, "seconds": ended.seconds, "says": ended.says, "words": list(words)}
    return {"kind": kind, "verdict": verdict, "fault": fault, **more}


def stage_of(start: str) -> str:
    """The stage that resumes a run that has come so far, and reads most of what there is."""
    return "tune" if start in UNTUNED else "full"


def command(scene: str, stage: str, options: Sequence[str] = ()) -> list[str]:
    """The words of a command; the last ones replace others of the same name."""
    names = {text.partition("=")[0] for text in options}
    usual = {**SMALL, **SCENES[scene], "stage": stage}
    return [*(f"{name}={value}" for name, value in usual.items() if name not in names), *options]


def judge(kind: Kind, ended: Ending, usual: Ending, *, are_equal: bool) -> str:
    """The verdict on a command that met a fault."""
    problems = {
        "hang": ended.code is None,
        "traceback": ended.has_traceback,
        # No code here is the user's.
        "bug": ended.code not in (0, 2) or "your own code" in ended.text,
        "escape code": "\x1b" in ended.text,
        "no sentence": ended.code == 2 and " " not in ended.says,
        "memory": ended.bytes > usual.bytes + MEMORY,
    }
    if any(problems.values()):
        return next(name for name, is_so in problems.items() if is_so)
    if ended.code == 2:
        return "refused"
    has_warned = bool(ended.warnings - usual.warnings)
    if kind.promise == EQUAL:
        return ("warned" if has_warned else "equal") if are_equal else "changed" if has_warned else "differs"
    if kind.promise == ANSWERED or (kind.promise == WARNED and ended.warnings):
        return "warned" if has_warned else "answered"
    return "accepted"


def results_of(folder: Path, *, steps: bool = True) -> Results:
    """The figures of the stages of a run, but for times, and digests of their networks' weights.

    With `steps` the figures of all steps, trials and iterations too.
    """
    found: Results = {}
    for path in sorted(folder.glob("outputs/*/*/*/*/*.jsonl")) if steps else ():
        found[str(path.relative_to(folder))] = _without_times(read_jsonl(path))
    for path in sorted(folder.glob("outputs/*/*/*/*/state/*/record.json")) if steps else ():
        found[str(path.relative_to(folder))] = _without_times(parse_json(read_bytes(path)))
    for path in sorted(folder.glob("outputs/*/*/*/*/metrics.json")):
        weights = path.parent / "model" / "model.safetensors"
        try:
            # A pipe would be waited for.
            content = [
                _without_times(parse_json(read_bytes(path))),
                digest_file(weights) if weights.is_file() else None,
            ]
        except (OSError, ValueError) as error:
            content = [str(error)]
        found[str(path.parent.relative_to(folder))] = content
    return found


def has_formula(folder: Path) -> bool:
    """Whether a table of runs has a cell that begins like a formula, or that holds an escape code."""
    path = folder / "outputs" / "compare" / "comparison.csv"
    if not path.exists():
        return False
    with path.open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    return any(cell.startswith(("=", "@")) or "\x1b" in cell for cell in cells)


def _without_times(content: Any) -> Any:
    """Nor what depends on them: the digests of records and of lines of journals."""
    if isinstance(content, dict):
        names = (name for name in content if not name.startswith(TIMES))
        return {name: _without_times(content[name]) for name in names}
    return [_without_times(item) for item in content] if isinstance(content, list) else content


def write_samples(folder: Path) -> None:
    """Write ten images and six texts each of two classes."""
    noise = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(10):
            pixels = noise.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{index}.png")
    (folder / "texts").mkdir()
    for name in ("bad", "good"):
        lines = (f"a {name} text of {'many ' * index}words\n" for index in range(6))
        (folder / "texts" / f"{name}.txt").write_text("".join(lines), encoding="utf-8")


def _table(rows: Sequence[Row]) -> Table:
    verdicts = [name for name in (*PASSED, *FAILED) if any(row["verdict"] == name for row in rows)]
    table = new_table("Faults by kind, and how the command ended", ["kind"], ["count", *verdicts])
    for line in (*summarise(rows), *_total(rows)):
        table.add_row(line["kind"], *(str(line.get(name) or "") for name in ("count", *verdicts)))
    return table


def _total(rows: Sequence[Row]) -> Iterator[Row]:
    yield from summarise([{**row, "kind": "all"} for row in rows])
