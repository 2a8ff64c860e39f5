"""The command line: in one process where that is quick, in processes of its own where that is the point."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
import types
from functools import partial
from pathlib import Path

import pytest
import yaml

import tascnet
from tascnet import errors
from tascnet.__main__ import start
from tascnet.cli import main as entry
from tascnet.cli.config import STAGES, spelling
from tascnet.errors import DataError, RunFolderError
from tascnet.run.console import log, log_file

# For processes that cannot see this test's objects: it puts stages where the entry imports them.
LAUNCHER = """
import json, os, sys, time, types
from tascnet.cli.main import main
from tascnet.errors import DataError

def show(config):
    facts = {"stage": config.stage, "name": config.name, "seed": config.seed}
    print(json.dumps(facts | {"cwd": os.getcwd()}))

def fail_on_one(config):
    if config.seed == 1:
        raise DataError("seed one has no images", "choose another")
    show(config)

def wait(config):
    print("waiting", flush=True)
    time.sleep(60)

def print_sign(config):
    from tascnet.run.console import output
    output().print("\u00b10 %")

def torch_loaded(config):
    print("torch" in sys.modules)

stub, *arguments = sys.argv[1:]
for name in ("tune", "prune", "full", "pretrain", "compare"):
    module = types.ModuleType(f"tascnet_pipelines.{name}")
    module.run = globals()[stub]
    sys.modules[module.__name__] = module
sys.exit(main(arguments))
"""
# The same for processes that start by themselves: Python imports it. The stage looks for the user's module.
SITE = """
import sys, types

def run(config):
    import importlib.util, json, os, tascnet_conf, tascnet_pipelines
    found = importlib.util.find_spec("own_network") is not None
    facts = {"stage": config.stage, "name": config.name, "seed": config.seed, "found": found}
    print(json.dumps(facts | {"cwd": os.getcwd()}))

module = types.ModuleType("tascnet_pipelines.tune")
module.run = run
sys.modules[module.__name__] = module
"""


@pytest.fixture(autouse=True)
def _logging_as_before(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    handlers, level = list(log.handlers), log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


@pytest.fixture
def ran(monkeypatch):
    """The configs that the pipelines got, in order; seed 1 fails with our error, seed 2 with a bug."""
    configs, bug = [], within_tascnet("raise ZeroDivisionError('a bug')")

    def run(config):
        configs.append(config)
        if config.seed == 1:
            raise DataError("seed one has no images", "choose another seed")
        if config.seed == 2:
            bug()
        if config.seed == 3:
            raise KeyboardInterrupt

    for name in STAGES:
        with_stage(monkeypatch, name, run)
    return configs


def within_tascnet(body):
    """A function of a pipeline."""
    names = {"__name__": "tascnet_pipelines.full"}
    exec(f"def run(config=None):\n    {body}", names)
    return names["run"]


def with_stage(monkeypatch, name, run):
    """Put a function in the place of a stage."""
    module = types.ModuleType(f"tascnet_pipelines.{name}")
    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)


def launched(folder, stub, *arguments, **options):
    """The command line in a process of its own, whose stages are a function of the launcher."""
    launcher = folder / "launcher.py"
    launcher.write_text(LAUNCHER)
    return subprocess.Popen(
        [sys.executable, str(launcher), stub, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("stage", STAGES)
def test_the_stage_gets_the_typed_config(ran, tmp_path, stage):
    needed = {"export": ["export.formats=[pt2]"], "predict": ["predict.input=-"]}
    assert entry.main([f"stage={stage}", "tune.round_to=16", "outputs=out", *needed.get(stage, [])]) == 0
    (config,) = ran
    assert config.stage == stage
    assert config.tune.round_to == 16
    assert config.name == "tascnet-round_to=16"
    assert os.listdir(tmp_path) == ["temporary"]


def test_full_is_the_default(ran):
    assert entry.main([]) == 0
    assert ran[0].stage == "full"


def test_the_version_is_that_of_tascnet(capsys):
    with pytest.raises(SystemExit) as ended:
        entry.main(["--version"])
    assert ended.value.code in (None, 0)
    assert capsys.readouterr().out == f"tascnet {tascnet.__version__}\n"


def test_a_mistake_is_one_sentence_and_code_2(ran, capsys):
    assert entry.main(["tune.pateince=3"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "there is no option tune.pateince: did you mean tune.patience?\n"
    assert captured.out == ""
    assert ran == []


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["--cfg"], ["--config-dir=missing"], ["--config-path=x"]]
)
def test_wrong_flags_are_mistakes_too(ran, capsys, arguments):
    assert entry.main(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert ran == []


def test_an_error_of_ours_in_a_job_is_one_sentence_and_code_2(ran, capsys):
    assert entry.main(["seed=1"]) == 2
    assert capsys.readouterr().err == "seed one has no images: choose another seed\n"


def test_debug_shows_the_traceback(ran, capsys):
    assert entry.main(["seed=1", "debug=true"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert entry.main(["tune.pateince=3", "debug=true"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_one_sentence_with_the_place_of_its_traceback_and_code_1(ran, capsys, tmp_path):
    assert entry.main(["seed=2"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    (file,) = tmp_path.glob("temporary/tascnet-error-*.txt")
    assert said == (
        "tascnet has a bug, or does not know this error of another library (ZeroDivisionError: a bug): "
        f"the full traceback is in {file}; report it to the maintainers with that file and your command line"
    )
    assert file.read_text().startswith("Traceback (most recent call last):\n")
    assert file.read_text().endswith("ZeroDivisionError: a bug\n")
    # With a folder of runs it is there, and `debug` shows it.
    (tmp_path / "out").mkdir()
    assert entry.main(["seed=2", "outputs=out", "debug=true"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert [
        f"the full traceback is in {path};" in err for path in tmp_path.glob("out/tascnet-error-*.txt")
    ] == [True]


def test_the_log_of_a_claimed_run_holds_the_traceback_of_a_bug(ran, monkeypatch, capsys, tmp_path):
    bug = within_tascnet("raise ZeroDivisionError('a bug')")

    def run(config):
        with log_file(tmp_path / "log.txt"):
            bug()

    with_stage(monkeypatch, "full", run)
    assert entry.main([]) == 1
    assert f"the full traceback is in {tmp_path / 'log.txt'}; report it" in capsys.readouterr().err
    assert "ZeroDivisionError: a bug" in (tmp_path / "log.txt").read_text()
    assert not list(tmp_path.glob("temporary/*"))


def test_code_of_the_users_own_that_fails_is_named_with_its_line(monkeypatch, capsys, tmp_path):
    own = tmp_path / "own_network.py"
    own.write_text("def chain(classes):\n    return [][classes]\n")
    names = {"__name__": "own_network"}
    exec(compile(own.read_text(), str(own), "exec"), names)
    with_stage(monkeypatch, "full", lambda config: names["chain"](3))
    assert entry.main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"your own code failed with IndexError: list index out of range ({own}, line 2): correct it; "
    )
    # A file of tascnet that is no module, such as a template.
    template = Path(errors.__file__).parent / "report" / "templates" / "page.html"
    exec(compile("def chain(classes):\n    return [][classes]\n", str(template), "exec"), names)
    assert entry.main([]) == 1
    assert capsys.readouterr().err.startswith("tascnet has a bug")
    # A module that exits ends no run without a word.
    with_stage(monkeypatch, "full", lambda config: sys.exit(0))
    assert entry.main([]) == 2
    assert "SystemExit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("MemoryError()", "memory is too small (MemoryError): lower trainer.batch_size, measure.batch or"),
        ("RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", "memory is too small (CUDA out of"),
        (
            "RuntimeError('[enforce fail] DefaultCPUAllocator: can\\'t allocate memory')",
            "memory is too small",
        ),
        (
            "RuntimeError('unable to open shared memory object </torch_1>')",
            "enlarge /dev/shm, in a container",
        ),
        ("RuntimeError('PytorchStreamWriter failed writing file data/0')", "the disk is full (PytorchStream"),
        ("ValueError('I/O error: No space left on device (os error 28)')", "the disk is full (I/O error"),
        ("OSError(28, 'No space left on device')", "the disk is full (No space left on device): free space"),
        ("OSError('No space left on device')", "the disk is full (No space left on device): free space"),
        (
            "OSError(28, 'No space left', 'x.pt')",
            "the disk is full (No space left, x.pt): free space",
        ),
        (
            "OSError(24, 'Too many open files')",
            "a file cannot be used (Too many open files): raise the limit",
        ),
        ("OSError()", "the system refused an operation (OSError): check the disk, the folders and the"),
        ("OSError(5, 'Input/output error', 'a.pt')", "a.pt cannot be used (Input/output error): check its"),
        ("FileExistsError(17, 'File exists', 'a')", "a cannot be used (File exists): check its permissions"),
        ("PermissionError('permission denied')", "a file cannot be used (permission denied): check its"),
        (
            "ConnectionResetError(104, 'Connection reset by peer')",
            "a connection failed (Connection reset by peer): check the network",
        ),
        ("OSError(101, 'Network is unreachable')", "a connection failed (Network is unreachable): check"),
        ("__import__('urllib.error').error.URLError('x')", "a connection failed (<urlopen error x>): check"),
        ("__import__('socket').gaierror(-2, 'Name or service not known')", "a connection failed (Name or"),
        ("TimeoutError('timed out')", "a connection failed (timed out): check the network"),
        ('RuntimeError("can\'t start new thread")', "no further thread could be started"),
    ],
)
def test_causes_outside_are_mistakes_with_what_to_do(monkeypatch, capsys, error, says):
    with_stage(monkeypatch, "full", within_tascnet(f"raise {error}"))
    assert entry.main([]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert says in said
    assert "Traceback" not in said
    assert "the full traceback is in " in said


def test_a_file_that_tascnet_itself_misses_is_a_bug(monkeypatch, capsys):
    with_stage(monkeypatch, "full", within_tascnet("open('missing.json')"))
    assert entry.main([]) == 1
    assert "tascnet has a bug" in (said := capsys.readouterr().err)
    assert "FileNotFoundError: [Errno 2] No such file or directory: 'missing.json'" in said


def test_a_file_that_the_users_own_code_misses_is_named_with_the_line(monkeypatch, capsys, tmp_path):
    own = tmp_path / "own_network.py"
    names = {"__name__": "own_network"}
    exec(compile("def chain(classes):\n    open('weights.pt')\n", str(own), "exec"), names)
    with_stage(monkeypatch, "full", lambda config: names["chain"](3))
    assert entry.main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("your own code failed with FileNotFoundError: [Errno 2] No such file")
    assert f"({own}, line 2): correct it; the full traceback is in " in said


def test_the_file_of_an_error_has_the_permissions_of_the_umask(ran, tmp_path):
    before = os.umask(0o027)
    try:
        assert entry.main(["seed=2"]) == 1
    finally:
        os.umask(before)
    (file,) = tmp_path.glob("temporary/tascnet-error-*.txt")
    assert file.stat().st_mode & 0o777 == 0o640


def test_escape_codes_reach_neither_terminal_nor_log(monkeypatch, capsys, tmp_path):
    # Else pytest keeps the raw lines, which pytest-xdist cannot encode.
    monkeypatch.setattr(log, "propagate", False)
    evil = "\x1b[31m\x07\u202ea\x9b2J[bold]\udcff"

    def run(config):
        with log_file(tmp_path / "log.txt"):
            log.info("decoded %s", evil)
            raise DataError(f"{evil} is no image")

    with_stage(monkeypatch, "full", run)
    assert entry.main([]) == 2
    seen = r"\x1b[31m\x07\u202ea\x9b2J[bold]\udcff"
    assert capsys.readouterr().err.splitlines() == [f"decoded {seen}", f"{seen} is no image"]
    assert (tmp_path / "log.txt").read_text().count(seen) == 2


def test_stopping_says_how_to_resume(ran, capsys):
    assert entry.main(["seed=3"]) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    assert entry.main(["seed=3", "stage=predict", "predict.input=-"]) == 130
    assert capsys.readouterr().err == "stopped: the same command starts over\n"


def test_a_file_that_cannot_be_used_is_a_mistake(monkeypatch, capsys):
    denied = f"raise PermissionError({errno.EACCES}, 'Permission denied', '/outputs/log.txt')"
    with_stage(monkeypatch, "full", within_tascnet(denied))
    assert entry.main([]) == 2
    assert capsys.readouterr().err.startswith("/outputs/log.txt cannot be used (Permission denied): check")


def test_options_in_errors_of_the_library_are_spelled_as_here(monkeypatch, capsys):
    def run(config):
        raise DataError(
            "`min_filters=128` leaves no group", "lower `min_filters`, or start with `fresh=true`"
        )

    for stage in ("prune", "tune"):
        with_stage(monkeypatch, stage, run)
        assert entry.main([f"stage={stage}"]) == 2
        assert capsys.readouterr().err == (
            "prune.min_filters=128 leaves no group: lower prune.min_filters, or start with fresh=true\n"
        )


def test_options_in_log_lines_are_spelled_as_here_and_those_of_a_part_as_its_own(monkeypatch, capsys):
    def run(config):
        log.info("`tolerance=%g` is wide", 0.5)
        with spelling("prune", is_alone=False):
            log.info("`tolerance=%g` is wide", 0.5)
            raise RunFolderError("x is another's", "give another `run`, or start over with `fresh=true`")

    with_stage(monkeypatch, "full", run)
    assert entry.main([]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "tune.tolerance=0.5 is wide",
        "prune.tolerance=0.5 is wide",
        "x is another's: give another prune.name, or start over with stage=prune fresh=true",
    ]
    assert log.filters == []


def test_an_import_that_fails_within_a_stage_is_a_bug(monkeypatch, capsys):
    with_stage(monkeypatch, "full", within_tascnet("import a_module_that_is_missing"))
    assert entry.main([]) == 1
    assert "a_module_that_is_missing" in capsys.readouterr().err


def test_in_a_multirun_one_failed_job_does_not_end_the_others(ran, capsys, tmp_path):
    assert entry.main(["-m", "seed=0,1,4", "backbone=digits_cnn,resnet20", "outputs=out"]) == 2
    assert [(config.seed, config.backbone.name) for config in ran] == [
        (seed, backbone) for seed in (0, 1, 4) for backbone in ("digits_cnn", "resnet20")
    ]
    captured = capsys.readouterr()
    assert captured.err.count("seed one has no images") == 2
    assert captured.err.splitlines()[-1] == "2 of 6 jobs failed"
    assert "Traceback" not in captured.err
    assert sorted(os.listdir(tmp_path)) == ["out", "temporary"]
    assert os.listdir(tmp_path / "out") == ["multirun"]


def test_overrides_may_stand_before_and_after_flags(ran):
    assert entry.main(["seed=0,4", "-m", "stage=tune"]) == 0
    assert [config.seed for config in ran] == [0, 4]


def test_a_network_without_a_file_reaches_the_job(ran, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_nets.py").write_text("raise SystemExit('imported')\n")
    images = ["dataset=image_folder", f"dataset.root={tmp_path}"]
    assert entry.main([*images, "-m", "backbone=my_nets.Net,resnet34", "backbone.size=32"]) == 0
    assert [config.backbone.name for config in ran] == ["my_nets.Net", "resnet34"]
    assert entry.main([*images, "backbone=resnt34"]) == 2
    assert "did you mean backbone=resnet34?" in capsys.readouterr().err


@pytest.mark.parametrize("how", [["--config-dir", "own"], ["hydra.searchpath=[file://{}/own]"]])
def test_a_config_folder_of_the_users_own_reaches_the_job(how, ran, tmp_path):
    (tmp_path / "own" / "tune").mkdir(parents=True)
    (tmp_path / "own" / "tune" / "wide.yaml").write_text("widths: [0.5, 1.0]\n")
    own = [text.format(tmp_path) for text in how]
    assert entry.main([*own, "tune=wide", "tune.kernels=[3]"]) == 0
    assert ran[0].tune.widths == (0.5, 1.0)
    assert ran[0].name == "wide-kernels=3"


def test_the_environment_is_left_as_it_was(ran, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before = list(sys.argv)
    entry.main(["seed=1"])
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert sys.argv == before


MEASURE = {"batch": 16, "repeats": 30, "runtimes": None, "target": None, "table": None}


def test_cfg_shows_the_composed_config_and_runs_nothing(ran, capsys):
    assert entry.main(["--cfg", "job", "tune.max_trials=5"]) == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert content["stage"] == "full"
    assert content["tune"]["max_trials"] == 5
    # Defaults are shown, and of recipes what differs from the base.
    assert content["tune"]["importance"] == "magnitude"
    assert content["trainer"]["recover"] == {"lr": 0.0005}
    assert content["prune"]["name"] == "reconstruction"
    assert entry.main(["--cfg", "job", "--package", "measure"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == MEASURE
    assert ran == []


@pytest.mark.parametrize("package", ["seed", "nothing", "tune.patience"])
def test_a_package_that_is_no_section_is_a_mistake(ran, capsys, package):
    assert entry.main(["--cfg", "job", "--package", package]) == 2
    assert (
        capsys.readouterr().err
        == f"there is no section {package!r}: --package takes a section such as tune\n"
    )


@pytest.mark.parametrize(
    ("flags", "shows"),
    [
        (["--cfg", "hydra"], "launcher"),
        (["--hydra-help"], "hydra/launcher"),
        (["--info", "defaults"], "tune/tascnet"),
    ],
)
def test_hydra_shows_its_own(tmp_path, flags, shows):
    # In a process of its own, for Hydra sets up its log then.
    process = launched(tmp_path, "show", *flags, "tune.patience=2")
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert shows in output
    assert "seed" not in output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--help", "trainer"], 0),
        (["--cfg", "job"], 0),
        (["tune.pateince=3"], 2),
        (["seed=x"], 2),
        (["dataset=image_folder", "dataset.root=missing"], 2),
        (["dataset=text_lines", "dataset.root=missing"], 2),
        (["prune.criterion=magnitud"], 2),
    ],
)
def test_help_and_mistakes_wait_for_no_large_library(tmp_path, arguments, code):
    """Each of these takes seconds to import."""
    large = ("torch", "torchvision", "sklearn", "botorch", "torch_pruning", "fvcore", "matplotlib", "numpy")
    asked = f"import sys; from tascnet.cli.main import main; code = main({arguments})"
    report = f"print([name for name in {large} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    process = subprocess.run(
        [sys.executable, "-c", f"{asked}; {report}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == code
    assert process.stderr.splitlines()[-1] == "[]"
    assert len(process.stderr.splitlines()) == (1 if code == 0 else 2)


def test_torch_is_not_imported_before_the_pipeline(tmp_path):
    process = launched(tmp_path, "torch_loaded")
    output, errors = process.communicate()
    assert (output, errors, process.returncode) == ("False\n", "", 0)


@pytest.fixture(params=["python -m tascnet", "tascnet"])
def entered(request, tmp_path_factory):
    """Both ways to start it: as a module, and by the script that an installer makes of the entry point."""
    if request.param == "python -m tascnet":
        return [sys.executable, "-m", "tascnet"]
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["tascnet"].partition(":")
    script = tmp_path_factory.mktemp("bin") / "tascnet"
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    return [sys.executable, str(script)]


def with_own_module(entered, folder, site, **environment):
    """What the stage `tune` found, started in a folder with a module of the user's own."""
    (site / "sitecustomize.py").write_text(SITE)
    (folder / "own_network.py").write_text("")
    ended = subprocess.run(
        [*entered, "stage=tune"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site), **environment},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_waiting_threads_leave_their_cpus_to_others_unless_the_user_says_how_they_wait(
    given, spins, monkeypatch
):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        # Set first, so that what `start` adds is undone as well.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(entry, "main", lambda: os.environ.get("GOMP_SPINCOUNT"))
    before = signal.getsignal(signal.SIGINT)
    try:
        assert start() == spins
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_finds_the_users_own_module_in_a_folder_with_its_own_conf_and_pipelines(
    entered, tmp_path, tmp_path_factory
):
    for name in ("conf", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not the one that is meant')")
    (tmp_path / "conf" / "config.yaml").write_text("nonsense: 1\n")
    assert with_own_module(entered, tmp_path, tmp_path_factory.mktemp("site")) == {
        **{"stage": "tune", "name": "tascnet", "seed": 0, "found": True},
        "cwd": str(tmp_path),
    }
    assert "outputs" not in os.listdir(tmp_path)


def test_a_safe_path_keeps_the_working_folder_out(entered, tmp_path, tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    assert not with_own_module(entered, tmp_path, site, PYTHONSAFEPATH="1")["found"]


def test_a_multirun_in_a_process_of_its_own(tmp_path):
    process = launched(tmp_path, "fail_on_one", "-m", "seed=0,1,2")
    output, errors = process.communicate()
    assert process.returncode == 2
    assert [json.loads(line)["seed"] for line in output.splitlines()] == [0, 2]
    said = errors.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        *("job 0", "job 1", "seed one has no images", "job 2", "1 of 3 jobs failed"),
    ]


def test_ctrl_c_ends_with_130_and_one_sentence(tmp_path):
    # A suite that was started in the background would pass on that SIGINT is ignored.
    hear = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with launched(tmp_path, "wait", preexec_fn=hear) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "stopped: run the same command again to resume, without fresh=true if you gave it\n"


def test_a_request_to_end_is_answered_as_an_interrupt_with_143(tmp_path):
    for arguments in ((), ("-m", "seed=0,1")):
        with launched(tmp_path, "wait", *arguments) as process:
            assert process.stdout.readline() == "waiting\n"
            process.terminate()
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 143
        assert errors.splitlines()[-1].startswith("stopped: run the same command again to resume")
        assert "Traceback" not in errors


def test_signals_are_left_as_they_were(ran):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert entry.main(["seed=1"]) == 2
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_interrupt_while_libraries_are_imported_ends_without_a_word(tmp_path):
    # A package of this name comes first, and waits in the place of Hydra.
    (tmp_path / "hydra").mkdir()
    (tmp_path / "hydra" / "__init__.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    )
    hear = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "tascnet", "--help"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, preexec_fn=hear, **pipes) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (130, "", "")


def test_an_encoding_without_our_signs_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with launched(tmp_path, "print_sign") as process:
        output, errors = process.communicate()
    assert (process.returncode, output, errors) == (0, "?0 %\n", "")


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    with launched(tmp_path, "show", "--help") as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert errors == ""


@pytest.mark.parametrize(
    ("option", "package"), [("tensorboard=true", "tensorboard"), ("mlflow=runs", "mlflow")]
)
def test_a_package_for_watching_is_missed_before_the_stage_begins(
    option, package, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tascnet.run.watching.find_spec", lambda name: None)
    assert entry.main(["stage=tune", "dataset=digits", f"log.{option}"]) == 2
    said = capsys.readouterr().err
    assert f"log.{package} needs the package {package}" in said
    assert "pip install" in said
