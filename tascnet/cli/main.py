"""`python -m tascnet`: the Hydra entry, which hands the composed config to a stage's pipeline."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, NoReturn

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

import tascnet
from tascnet.cli.check import check_names, check_overrides, normalise
from tascnet.cli.compose import (
    CONFIG_NAME,
    CONFIG_PATH,
    Composed,
    Tree,
    plain,
    presets_of,
    typed,
    with_name,
)
from tascnet.cli.config import Config, as_content, section_options, spelling
from tascnet.cli.ending import BUG, MISTAKE, answer, signals_raise
from tascnet.cli.folders import check_places, is_multirun, outputs_folder, run_folder
from tascnet.cli.help import print_help, print_topic
from tascnet.cli.network_help import print_network, print_networks
from tascnet.cli.networks import register
from tascnet.cli.rules import WATCHED, check_config
from tascnet.errors import ConfigError
from tascnet.run.console import log, output, set_up_logging
from tascnet.run.watching import watched

# Stages of which nothing is kept when they are stopped.
RESTARTING = ("predict", "evaluate", "compare")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code.

    It is 0, 2 for a mistake or a cause outside tascnet, 1 for a bug, 130 when stopped, 143 after SIGTERM.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        with signals_raise():
            return _main(given)
    except BrokenPipeError:
        # The reader, such as `head`, has closed its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        return answer(error, debug=any(text.lstrip("+") in ("debug=true", "debug=True") for text in given))


def _main(argv: Sequence[str]) -> int:
    set_up_logging()
    args = _parse(argv)
    asked = [text for text in args.overrides if "=" not in text] if args.help else []
    args.overrides = [normalise(text) for text in args.overrides if text not in asked]
    if args.hydra_help or args.shell_completion or args.info or args.experimental_rerun:
        return _show(args)
    if args.config_path is not None:
        raise ConfigError("--config-path would replace tascnet's own options", "add yours with --config-dir")
    tree, name = Tree(args.config_dir), args.config_name or CONFIG_NAME
    if args.help:
        return _help(args, tree, name, asked)
    composed = check_overrides(args.overrides, tree, multirun=args.multirun, config_name=name)[0]
    if args.cfg == "job":
        return _print_config(composed, args.package)
    return _show(args) if args.cfg else _start(args, tree, name)


def task(composed: DictConfig) -> int:
    """One job: hand the composed config to the pipeline of its stage; log a failure and return its code."""
    set_up_logging()
    settings = HydraConfig.get()
    if is_multirun():
        shown = ", ".join(text.removeprefix("++") for text in settings.overrides.task)
        log.info(f"job {settings.job.num}: {shown or 'no overrides'}")
    try:
        overrides = [*settings.overrides.hydra, *settings.overrides.task]
        run(composed, overrides, _config_dir(), settings.job.config_name or CONFIG_NAME)
    # Code of the user's own may exit.
    except (Exception, SystemExit) as error:
        return answer(error, debug=bool(composed.get("debug")), outputs=str(composed.get("outputs")))
    return 0


def run(composed: DictConfig, overrides: list[str], config_dir: str | None, config_name: str) -> None:
    """Give the run its name and call the pipeline of its stage."""
    found = typed(composed, presets_of(HydraConfig.get()))
    check_config(found.config)
    config = with_name(found, Tree(config_dir), overrides, config_name)
    if config.debug:
        set_up_logging(logging.DEBUG)
    check_places(config)
    stage = import_module(f"tascnet_pipelines.{config.stage}")
    try:
        with spelling(config.stage if config.stage in ("tune", "prune") else None), _watched(config):
            stage.run(config)
    except KeyboardInterrupt as stop:
        if config.stage in RESTARTING:
            stop.add_note("the same command starts over")
        raise


def _watched(config: Config) -> AbstractContextManager[None]:
    """Stages that train can be watched."""
    if config.stage not in WATCHED:
        return nullcontext()
    folder = run_folder(config)
    return watched(
        config.log,
        folder=folder,
        name=folder.relative_to(outputs_folder(config)).as_posix(),
        # Not where it is watched: an address may hold a password.
        parameters={key: value for key, value in _flat(as_content(config)) if not key.startswith("log.")},
    )


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Options by their names on the command line."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = get_args_parser()
    parser.__class__ = _Parser
    # Hydra's prints its own.
    (own,) = (action for action in parser._actions if action.dest == "version")
    own.version = f"tascnet {tascnet.__version__}"  # type: ignore[attr-defined]
    return parser.parse_intermixed_args(argv)


class _Parser(argparse.ArgumentParser):
    """Hydra's own parser, whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, "python -m tascnet --help lists the flags")


def _help(args: argparse.Namespace, tree: Tree, config_name: str, topics: list[str]) -> int:
    """Help in general, or on some topics, with the values that the overrides give."""
    texts = check_names(args.overrides, tree, multirun=args.multirun)[0]
    composed = tree.load(texts, config_name)
    content = plain(composed)
    for topic in topics:
        if topic == "backbones":
            print_networks()
        else:
            print_topic(content, topic)
    if not topics and any(override.key_or_group == "backbone" for override in tree.parse(texts)):
        print_network(section_options("backbone", content))
    elif not topics:
        print_help(tree.groups())
    return 0


def _print_config(composed: Composed, package: str | None) -> int:
    """The composed config as YAML, defaults included."""
    content = OmegaConf.create(as_content(composed.config))
    part = content if package is None else OmegaConf.select(content, package)
    if not OmegaConf.is_config(part):
        raise ConfigError(f"there is no section {package!r}", "--package takes a section such as tune")
    output().print(OmegaConf.to_yaml(part), markup=False, highlight=False, soft_wrap=True, end="")
    return 0


def _start(args: argparse.Namespace, tree: Tree, config_name: str) -> int:
    """Run one job, or all jobs of a multirun with Hydra's sweeper and launcher; the code of the worst."""
    app = Hydra.create_main_hydra2(task_name="tascnet", config_search_path=tree.search_path)
    start = app.multirun if args.multirun else app.run
    try:
        codes = list(_codes(start(config_name, task, args.overrides)))
    finally:
        GlobalHydra.instance().clear()
    failed = sum(code != 0 for code in codes)
    if failed and len(codes) > 1:
        log.error(f"{failed} of {len(codes)} jobs failed")
    return next((code for code in (BUG, MISTAKE) if code in codes), 0)


def _codes(result: Any) -> Iterator[int]:
    """The codes of a job, or of the batches of jobs that a sweeper returns."""
    if isinstance(result, JobReturn):
        yield result.return_value
    elif isinstance(result, list | tuple):
        for item in result:
            yield from _codes(item)


def _show(args: argparse.Namespace) -> int:
    """Let Hydra show its help or the config, without a run; errors are raised as they are."""
    register()
    entry = hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=CONFIG_NAME)(task)
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = ["tascnet", *_rebuilt(args)]
    try:
        entry()
    except SystemExit as ended:
        return MISTAKE if ended.code else 0
    finally:
        sys.argv = argv
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full
    return 0


def _rebuilt(args: argparse.Namespace) -> list[str]:
    """The command line again, with the overrides in their normal form."""
    flags = [f"--{name.replace('_', '-')}" for name, value in vars(args).items() if value is True]
    valued = [
        f"--{name.replace('_', '-')}={value}" for name, value in vars(args).items() if isinstance(value, str)
    ]
    return [*flags, *valued, *args.overrides]


def _config_dir() -> str | None:
    sources = HydraConfig.get().runtime.config_sources
    return next((source.path for source in sources if source.provider == "command-line"), None)
