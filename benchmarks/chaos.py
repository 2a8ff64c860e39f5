"""A search on a local Ray cluster whose workers and whose driver are killed at random moments.

Each row is one search: a worker is killed once in `--every` trials on average, and the process that searches
`--restarts` times, after which the same command is run again. With `--nodes` the cluster has so many nodes of
one CPU beside its head, one of which is lost in the middle and another added later, and the head's object
store is nearly full. Then every trial is trained once more, one after the other in one process, from the
configurations that were proposed: its accuracy has to be the same.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import common
from benchmarks.common import Row, collect, new_table
from tascnet.errors import TascnetError
from tascnet.execute.cluster import OWN_ENVIRONMENT
from tascnet.run.files import read_jsonl
from tascnet.run.folder import IDENTITY
from tascnet.run.records import Trial, read_trials
from tascnet.tuning.study import proposals_of
from tascnet.tuning.warm import JOURNAL

# Bytes of the head's object store, and the share of it that another driver fills.
STORE, FULL = 80 * 1024**2, 0.9
FILL = """
import time, numpy, ray
ray.init(address="{address}", logging_level="ERROR", log_to_driver=False)
kept = [ray.put(numpy.zeros(1024**2, numpy.uint8)) for _ in range({size} // 1024**2)]
print("full", flush=True)
time.sleep(86400)
"""
PROPOSED = proposals_of(Path(JOURNAL)).name
# Digits, trained for long enough that a kill hits a trial.
WORDS = (
    *("stage=tune", "dataset=digits", "name=run", "threads=1", "tune.promote=false", "tune.patience=100"),
    *("trainer.trial.epochs=25", "trainer.finetune.epochs=1", "measure.runtimes=[eager]", "export=none"),
)
# Seconds between two looks at the processes, and until a command that is not disturbed any more has ended.
LOOK, LIMIT = 0.2, 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, seeds=10)
    parser.add_argument("--trials", type=common.count, default=40, help="trials of a search")
    parser.add_argument("--workers", type=common.count, default=2, help="trials at a time")
    parser.add_argument("--every", type=common.count, default=3, help="trials for one killed worker")
    parser.add_argument("--restarts", type=int, default=3, help="how often the driver is killed")
    parser.add_argument(
        "--nodes", type=int, default=0, help="nodes of a cluster; 0: the search starts its own"
    )


def run(args: argparse.Namespace) -> None:
    """One row for each search."""
    folder = common.open_results(args)
    names = ("trials", "workers", "every", "restarts", "nodes")
    keys: list[Row] = [
        {"seed": seed, **{name: getattr(args, name) for name in names}} for seed in range(args.seeds)
    ]
    rows = collect(folder, keys, lambda key: disturbed(folder / "runs" / str(key["seed"]), key), "searches")
    common.report(args, folder, rows, rows, _table(rows))


def disturbed(folder: Path, key: Row) -> Row:
    """One search, and the same trials alone."""
    shutil.rmtree(folder, ignore_errors=True)
    draw = random.Random(key["seed"])
    words = [
        *WORDS,
        f"seed={key['seed']}",
        f"tune.max_trials={key['trials']}",
        f"cache_dir={folder.parent / 'cache'}",
    ]
    run, started = folder / "ray" / "digits" / "digits_cnn" / f"run-seed{key['seed']}" / "tune", time.time()
    command = [*words, f"outputs={folder / 'ray'}", "executor=ray", f"executor.workers={key['workers']}"]
    # The driver is killed once so many trials have ended, a worker once so many more have.
    ends = sorted(draw.sample(range(2, key["trials"] - 2), key["restarts"]))
    kills, workers_killed, code = 0, 0, None
    due = draw.expovariate(1 / key["every"])
    with ExitStack() as stack:
        nodes = stack.enter_context(_Nodes.started(key["nodes"])) if key["nodes"] else None
        if nodes is not None:
            command.append(f"executor.address={nodes.address}")
        while code is None:
            driver = _start(command)
            while (code := driver.poll()) is None and time.time() - started < LIMIT:
                ended = len(_trials(run))
                if nodes is not None:
                    nodes.change(ended / key["trials"])
                if kills < len(ends) and ended >= ends[kills]:
                    driver.send_signal(signal.SIGKILL)
                    driver.wait()
                    kills += 1
                    break
                if ended >= due and (found := _workers(os.getpid())):
                    os.kill(draw.choice(found), signal.SIGKILL)
                    workers_killed += 1
                    due = ended + draw.expovariate(1 / key["every"])
                time.sleep(LOOK)
            if code is None and time.time() - started >= LIMIT:
                driver.kill()
                raise TascnetError(f"the search of seed {key['seed']} has not ended after {LIMIT:g} s")
    trials, numbers = _trials(run), [row["trial"] for row in read_jsonl(run / JOURNAL)]
    alone = folder / "alone" / "digits" / "digits_cnn" / f"run-seed{key['seed']}" / "tune"
    alone.mkdir(parents=True)
    for name in (IDENTITY, PROPOSED):
        shutil.copy(run / name, alone / name)
    again = _start([*words, f"outputs={folder / 'alone'}", "executor.cpus=1"]).wait()
    values = {trial.trial: trial.value for trial in _trials(alone)}
    return {
        "code": code,
        "alone_code": again,
        "seconds": time.time() - started,
        "workers_killed": workers_killed,
        "drivers_killed": kills,
        "journalled": len(trials),
        "twice": len(numbers) - len(set(numbers)),
        "with_value": sum(trial.value is not None for trial in trials),
        "lost": sum(trial.status == "lost" for trial in trials),
        "other_value": sum(t.value is not None and t.value != values.get(t.trial) for t in trials),
        "left": len(_left(time.time() - started)),
    }


class _Nodes:
    """A cluster of a head without CPUs, whose object store is nearly full, and nodes of one CPU each."""

    def __init__(self, cluster: Any, nodes: list[Any]) -> None:
        self._cluster, self._nodes, self._is_added = cluster, nodes, False
        self.address = str(cluster.address)

    @classmethod
    @contextmanager
    def started(cls, count: int) -> Iterator["_Nodes"]:
        # As where a search starts its own.
        os.environ.update(OWN_ENVIRONMENT)
        from ray.cluster_utils import Cluster

        own = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
        cluster = Cluster(initialize_head=True, head_node_args=own)
        filling: subprocess.Popen[bytes] | None = None
        try:
            nodes = [cluster.add_node(num_cpus=1) for _ in range(count)]
            script = FILL.format(address=cluster.address, size=int(FULL * STORE))
            filling = subprocess.Popen(
                [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert filling.stdout is not None
            assert filling.stdout.readline() == b"full\n", "the object store could not be filled"
            yield cls(cluster, nodes)
        finally:
            if filling is not None:
                filling.kill()
                filling.wait()
            cluster.shutdown()

    def change(self, done: float) -> None:
        """Lose a node once a third of the trials is done, and add one once two thirds are."""
        if done >= 1 / 3 and self._nodes:
            self._cluster.remove_node(self._nodes[0], allow_graceful=False)
            self._nodes = []
        if done >= 2 / 3 and not self._is_added:
            self._cluster.add_node(num_cpus=1)
            self._is_added = True


def _start(words: Sequence[str]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tascnet", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _trials(run: Path) -> list[Trial]:
    return read_trials(run / JOURNAL) if (run / JOURNAL).exists() else []


def _processes() -> dict[int, tuple[int, float, str]]:
    """By number, the parent, the age in seconds and the command of every process."""
    asked = ["ps", "-eo", "pid=,ppid=,etimes=,args="]
    listed = subprocess.run(asked, capture_output=True, text=True, check=True)
    rows = (line.split(None, 3) for line in listed.stdout.splitlines())
    return {int(pid): (int(parent), float(age), more[0] if more else "") for pid, parent, age, *more in rows}


def _workers(root: int) -> list[int]:
    """The processes below a process that train a trial."""
    known = _processes()

    def is_below(pid: int) -> bool:
        while pid in known and pid != root:
            pid = known[pid][0]
        return pid == root

    return [pid for pid, (*_, text) in known.items() if text.startswith("ray::_call") and is_below(pid)]


def _left(seconds: float) -> list[str]:
    """Commands of processes of Ray that began within so many seconds and are still there."""
    young = (text for _, age, text in _processes().values() if age <= seconds)
    return [text for text in young if "raylet" in text or text.startswith("ray::")]


def _table(rows: Sequence[Row]) -> Table:
    names = {
        **{"workers_killed": "workers killed", "drivers_killed": "drivers killed", "journalled": "trials"},
        **{
            "with_value": "with a value",
            "lost": "lost",
            "twice": "twice",
            "other_value": "other value alone",
        },
        **{"left": "processes left", "code": "exit code"},
    }
    table = new_table("searches that were disturbed", [], ("seed", *names.values()))
    for row in rows:
        table.add_row(str(row["seed"]), *(str(row[name]) for name in names))
    return table
