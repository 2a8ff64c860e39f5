"""The command line: in one process where that is quick, in processes of its own where that is the point."""

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

from tascnet.cli import main as entry
from tascnet.errors import DataError
from tascnet.run.console import log

# A pipeline in a module of its own, for processes that cannot see this test's objects.
STUB = """
import json, os, time, sys
from tascnet.errors import DataError

def show(config):
    facts = {"stage": config.stage.name, "name": config.name, "seed": config.seed}
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

    for name in ("tune", "prune", "full", "compare", "benchmark"):
        module = types.ModuleType(f"tascnet_pipelines.{name}")
        module.run = run
        monkeypatch.setitem(sys.modules, f"tascnet_pipelines.{name}", module)
    return configs


def in_process(folder, *arguments, **options):
    (folder / "stub_pipeline.py").write_text(STUB)
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "tascnet", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("stage", ["tune", "prune", "full", "compare", "benchmark"])
def test_the_stage_gets_the_typed_config(ran, tmp_path, stage):
    assert entry.main([f"stage={stage}", "tune.round_to=16", "outputs=out"]) == 0
    (config,) = ran
    assert config.stage.name == stage
    assert config.tune.round_to == 16
    assert config.name == "tascnet-round_to=16"
    assert os.listdir(tmp_path) == []


def test_full_is_the_default(ran):
    assert entry.main([]) == 0
    assert ran[0].stage.name == "full"


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
    assert "the same command resumes" in capsys.readouterr().err


def test_a_target_that_does_not_exist_is_a_mistake(capsys):
    assert entry.main(["stage._target_=tascnet_pipelines.nothing.run"]) == 2
    assert "there is no function tascnet_pipelines.nothing.run" in capsys.readouterr().err


def test_an_import_that_fails_within_a_pipeline_is_a_bug(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_pipeline.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert entry.main(["stage._target_=broken_pipeline.run"]) == 1
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


def test_options_of_a_custom_factory_reach_the_job(ran):
    custom = ["backbone=custom", "backbone.factory=a.b", "dataset.digits=null"]
    assert entry.main([*custom, "backbone.options.depth=3"]) == 0
    assert ran[0].backbone.options == {"depth": 3}


def test_a_config_folder_of_the_users_own_reaches_the_job(ran, tmp_path):
    (tmp_path / "own" / "tune").mkdir(parents=True)
    (tmp_path / "own" / "tune" / "wide.yaml").write_text("name: wide\nwidths: [0.5, 1.0]\n")
    assert entry.main(["--config-dir", "own", "tune=wide", "tune.kernels=[3]"]) == 0
    assert ran[0].tune.widths == [0.5, 1.0]
    assert ran[0].name == "wide-kernels=3"


def test_the_environment_is_left_as_it_was(ran, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before = list(sys.argv)
    entry.main(["seed=1"])
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert sys.argv == before


def test_cfg_and_help_show_options_and_run_nothing(ran, capsys):
    assert entry.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "backbone: custom, densenet121" in text
    assert "max_trials" in text
    assert "python -m tascnet stage=pretrain" in text
    assert entry.main(["--cfg", "job", "tune.max_trials=5"]) == 0
    assert "max_trials: 5" in capsys.readouterr().out
    assert ran == []


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["tune.pateince=3"], 2), (["seed=x"], 2)])
def test_help_and_mistakes_wait_for_no_large_library(tmp_path, arguments, code):
    """Each of these takes seconds to import."""
    large = ("torch", "torchvision", "sklearn", "botorch", "torch_pruning", "fvcore", "matplotlib")
    asked = f"import sys; from tascnet.cli.main import main; code = main({arguments})"
    told = f"print([name for name in {large} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    process = subprocess.run(
        [sys.executable, "-c", f"{asked}; {told}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == code
    assert process.stderr.splitlines()[-1] == "[]"


def test_torch_is_not_imported_before_the_pipeline(tmp_path):
    process = in_process(tmp_path, "stage._target_=stub_pipeline.torch_loaded")
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


def test_it_finds_the_users_own_module_in_a_folder_with_its_own_conf_and_pipelines(entered, tmp_path):
    (tmp_path / "stub_pipeline.py").write_text(STUB)
    for name in ("conf", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not the one that is meant')")
    (tmp_path / "conf" / "config.yaml").write_text("nonsense: 1\n")
    command = [*entered, "stage=tune", "stage._target_=stub_pipeline.show"]
    ended = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout) == {"stage": "tune", "name": "tascnet", "seed": 0, "cwd": str(tmp_path)}
    assert "outputs" not in os.listdir(tmp_path)


def test_a_safe_path_keeps_the_working_folder_out(entered, tmp_path):
    (tmp_path / "stub_pipeline.py").write_text(STUB)
    command = [*entered, "stage=tune", "stage._target_=stub_pipeline.show"]
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "there is no function stub_pipeline.show" in ended.stderr


def test_a_multirun_in_a_process_of_its_own(tmp_path):
    process = in_process(tmp_path, "-m", "seed=0,1,2", "stage._target_=stub_pipeline.fail_on_one")
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
    with in_process(tmp_path, "stage._target_=stub_pipeline.wait", preexec_fn=hear) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "stopped: the same command resumes, without fresh=true if that was given\n"


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    with in_process(tmp_path, "--help") as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert errors == ""
