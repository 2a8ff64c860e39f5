"""Jobs in this process and on a local Ray cluster: values, errors, losses, and what is left behind."""

import logging
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import tascnet
from tascnet.errors import ConfigError, DataError
from tascnet.execute import Lost, cluster, opened
from tascnet.execute.workers import Workers
from tascnet.run.events import EpochEvent, emit, watching
from tascnet.run.records import EpochRecord

RAY = pytest.importorskip("ray", reason="Ray is not installed")


def threads():
    import torch

    return torch.get_num_threads()


def fail(error):
    raise error


def killed_until(path, times):
    """Kill this process, but for after so many times."""
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.path.getsize(path)


def slow_until(path, times, seconds):
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) <= times:
        time.sleep(seconds)
    return os.path.getsize(path)


def test_in_this_process_jobs_run_in_turn():
    with opened(tascnet.Local(cpus=1)) as executor:
        executor.submit(5, divmod, 7, 2)
        executor.submit(6, threads)
        assert executor.running == 2
        first, second = executor.next(), executor.next()
    assert (first.key, first.value, second.key, second.value) == (5, (3, 1), 6, 1)
    assert first.worker.endswith(f"/{os.getpid()}")
    assert first.started <= first.ended <= second.started


@pytest.fixture(scope="module")
def running():
    with opened(tascnet.Ray(workers=2, retries=2, trial_timeout=3.0)) as executor:
        yield executor


def test_workers_have_their_threads_and_are_other_processes(running):
    shared = running.share(list(range(10)))
    running.submit(1, sum, shared)
    assert running.next().value == 45
    running.submit(2, threads)
    found = running.next()
    assert found.value == 1
    assert not found.worker.endswith(f"/{os.getpid()}")


def test_what_a_job_raises_is_raised_here(running):
    running.submit(1, fail, ConfigError("there is no such thing", "take another"))
    with pytest.raises(ConfigError, match="there is no such thing: take another"):
        running.next()
    running.submit(2, fail, DataError("the folder is missing"))
    with pytest.raises(DataError, match=r"on the node of .*/\d+: the folder is missing"):
        running.next()
    assert running.running == 0


def test_a_killed_job_is_tried_again(running, tmp_path):
    running.submit(1, killed_until, str(tmp_path / "count"), 2)
    assert running.next().value == 3


def test_a_job_that_is_killed_each_time_is_lost(running, tmp_path):
    running.submit(1, killed_until, str(tmp_path / "count"), 99)
    found = running.next()
    assert isinstance(found.value, Lost)
    assert "the cluster lost it 3 times, or it took longer than 3 s" in found.value.reason
    assert os.path.getsize(tmp_path / "count") == 3


def test_a_lost_job_without_a_time_limit_is_not_said_to_have_taken_too_long(running, tmp_path):
    running.submit(1, killed_until, str(tmp_path / "count"), 99, threads=1)
    assert "took longer" not in running.next().value.reason


def test_a_connection_that_is_there_stays(running):
    with pytest.raises(ConfigError, match="already connected to a Ray cluster"), opened(tascnet.Ray()):
        pass
    running.submit(1, divmod, 7, 2)
    assert running.next().value == (3, 1)


def warn(text):
    logging.getLogger("tascnet").warning("%s of %d", text, 2)
    return text


def test_what_a_job_warns_of_is_said_here(running, caplog):
    running.submit(1, warn, "a lower learning rate")
    assert running.next().value == "a lower learning rate"
    assert caplog.messages == ["a lower learning rate of 2"]


def train(epochs):
    figures = ("train_loss", "val_loss", "val_accuracy", "val_balanced_accuracy", "seconds")
    for number in range(1, epochs + 1):
        record = EpochRecord(epoch=number, **dict.fromkeys(figures, 0.5))
        emit(EpochEvent(training="trial 3", epoch=record))


def test_whoever_watches_here_sees_the_epochs_of_a_job(running):
    seen = []
    running.submit(1, train, 2)
    with watching([seen.append]):
        running.next()
    assert [(event.training, event.epoch.epoch) for event in seen] == [("trial 3", 1), ("trial 3", 2)]


def test_a_job_that_hangs_is_tried_again(running, tmp_path):
    running.submit(1, slow_until, str(tmp_path / "count"), 1, 60)
    assert running.next().value == 2


def test_a_node_of_other_versions_that_joins_later_is_refused(running, monkeypatch):
    monkeypatch.setattr(running, "_versions", running._versions | {"torch": "0.1"})
    running.submit(1, threads)
    with pytest.raises(ConfigError, match=r"the node .* has torch .*, here 0\.1: install the same versions"):
        running.next()


class Nodes:
    """What is asked of Ray about nodes of so many CPUs and GPUs."""

    def __init__(self, *sizes):
        self._sizes = sizes

    def nodes(self):
        return [
            {"Alive": True, "NodeID": "0" * 56, "NodeManagerHostname": "a", "Resources": {"CPU": c, "GPU": g}}
            for c, g in self._sizes
        ]

    def remote(self, **_):
        return lambda function: SimpleNamespace(remote=lambda: function)

    def get(self, task, timeout):
        return task()


def test_more_workers_than_there_is_room_for_are_reported(caplog):
    options = tascnet.Ray(workers=4, cpus=2, gpus=0.5)
    # Two trials on the GPU of the first node, none on the second, one on the third for want of CPUs.
    cluster._check_nodes(Nodes((8, 1), (16, 0), (3, 4)), options)
    assert "has room for 3 trials at a time, but `executor.workers=4`" in caplog.text
    caplog.clear()
    cluster._check_nodes(Nodes((8, 2)), options)
    assert not caplog.messages
    with pytest.raises(ConfigError, match="the largest node of the Ray cluster has 16 and 1"):
        cluster._check_nodes(Nodes((1, 1), (16, 0)), options)


def test_it_listens_on_this_machine_alone_and_writes_nothing_at_home(tmp_path):
    script = (
        "import sys, tascnet, ray\n"
        # As some packages leave it.
        "sys.modules['odd'] = None\n"
        # Ray brings it.
        "import psutil\n"
        "from tascnet.execute import opened\n"
        # What a killed process left.
        "import pathlib, subprocess, tempfile; from tascnet.run.files import temporary_suffix\n"
        "dead = subprocess.Popen(['true']); dead.wait()\n"
        "end = temporary_suffix().replace(f'{psutil.Process().pid}.tmp', f'{dead.pid}.tmp')\n"
        "left = pathlib.Path(tempfile.mkdtemp(prefix='ray-')); (left / f'tascnet{end}').touch()\n"
        # Ray has one that exits.
        "import signal; signal.signal(signal.SIGTERM, handler := lambda number, frame: None)\n"
        "with opened(tascnet.Ray(workers=1)) as executor:\n"
        "    executor.submit(0, divmod, 7, 2)\n"
        "    assert executor.next().value == (3, 1)\n"
        "    assert signal.getsignal(signal.SIGTERM) is handler and not left.exists()\n"
        "    own = [psutil.Process(), *psutil.Process().children(recursive=True)]\n"
        "    found = [one for process in own for one in process.net_connections('inet')]\n"
        "    assert {one.laddr.ip.removeprefix('::ffff:') for one in found} == {'127.0.0.1'}\n"
    )
    env = os.environ | {"HOME": str(tmp_path)}
    python = [sys.executable, "-c", script]
    done = subprocess.run(python, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_other_processes_find_the_files_from_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tascnet.image_folder("photos")
    with Workers(tascnet.Ray(), data) as workers:
        assert workers.data.root == str(tmp_path / "photos")
    with Workers(tascnet.Local(), data) as workers:
        assert workers.data is data


def test_a_cluster_that_is_not_there_is_named():
    message = r"no Ray cluster at 127\.0\.0\.1:1 .*executor.address"
    with pytest.raises(ConfigError, match=message), opened(tascnet.Ray(address="127.0.0.1:1")):
        pass
