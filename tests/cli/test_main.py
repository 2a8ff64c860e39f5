"""The command line: in one process where that is quick, in processes of its own where that is the point."""

import errno
import json
import os
import signal
import subprocess
import sys
import tomllib
import types
from functools import partial
from pathlib import Path

import pytest
import yaml

from tascnet.cli import main as entry
from tascnet.cli.config import STAGES, spelling
from tascnet.errors import DataError, RunFolderError
from tascnet.run.console import log

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
    monkeypatch.chdir(tmp_path)
    handlers, level = list(log.handlers), log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


@pytest.fixture
def ran(monkeypatch):
    """The configs that the pipelines got, in order; seed 1 fails with our error, seed 2 with a bug."""
    configs = []

    def run(config):
        configs.append(config)
        if config.seed == 1:
            raise DataError("seed one has no images", "choose another seed")
        if config.seed == 2:
            raise ZeroDivisionError("a bug")
        if config.seed == 3:
            raise KeyboardInterrupt

    for name in STAGES:
        with_stage(monkeypatch, name, run)
    return configs


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
    assert entry.main([f"stage={stage}", "tune.round_to=16", "outputs=out"]) == 0
    (config,) = ran
    assert config.stage == stage
    assert config.tune.round_to == 16
    assert config.name == "tascnet-round_to=16"
    assert os.listdir(tmp_path) == []


def test_full_is_the_default(ran):
    assert entry.main([]) == 0
    assert ran[0].stage == "full"


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


def test_a_bug_shows_its_traceback_and_gives_code_1(ran, capsys):
    assert entry.main(["seed=2"]) == 1
    assert "ZeroDivisionError: a bug" in capsys.readouterr().err


def test_stopping_says_how_to_resume(ran, capsys):
    assert entry.main(["seed=3"]) == 130
    assert "run the same command again to resume" in capsys.readouterr().err


def test_a_file_that_cannot_be_used_is_a_mistake(monkeypatch, capsys):
    def run(config):
        raise PermissionError(errno.EACCES, "Permission denied", "/outputs/log.txt")

    with_stage(monkeypatch, "full", run)
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
    def run(config):
        import a_module_that_is_missing  # noqa: F401

    with_stage(monkeypatch, "full", run)
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
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["multirun"]


def test_overrides_may_stand_before_and_after_flags(ran):
    assert entry.main(["seed=0,4", "-m", "stage=tune"]) == 0
    assert [config.seed for config in ran] == [0, 4]


def test_the_factory_of_a_custom_network_reaches_the_job(ran):
    assert entry.main(["backbone=custom", "backbone.factory=a.b", "backbone.size=8"]) == 0
    assert (ran[0].backbone.factory, ran[0].backbone.size) == ("a.b", 8)


def test_a_config_folder_of_the_users_own_reaches_the_job(ran, tmp_path):
    (tmp_path / "own" / "tune").mkdir(parents=True)
    (tmp_path / "own" / "tune" / "wide.yaml").write_text("widths: [0.5, 1.0]\n")
    assert entry.main(["--config-dir", "own", "tune=wide", "tune.kernels=[3]"]) == 0
    assert ran[0].tune.widths == (0.5, 1.0)
    assert ran[0].name == "wide-kernels=3"


def test_the_environment_is_left_as_it_was(ran, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before = list(sys.argv)
    entry.main(["seed=1"])
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert sys.argv == before


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
    assert yaml.safe_load(capsys.readouterr().out) == {"batch": 16, "repeats": 30}
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


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    with launched(tmp_path, "show", "--help") as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert errors == ""
