"""`python -m tascnet`: the Hydra entry, which hands the composed config to a stage's pipeline."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tascnet.check import check_config, check_overrides, normalise
from tascnet.compose import CONFIG_NAME, CONFIG_PATH, Tree, default_name, one_line, register, to_config
from tascnet.console import log, set_up_logging
from tascnet.errors import ConfigError, TascnetError

__all__ = ["JobFailed", "main", "task"]

MISTAKE, BUG, STOPPED = 2, 1, 130


class JobFailed(Exception):
    """A job ended with this exit code, and its reason has been said."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code: 0, 2 for a mistake, 1 for a bug, 130 when stopped."""
    set_up_logging()
    debug = False
    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        debug = any(text.lstrip("+") in ("debug=true", "debug=True") for text in args.overrides)
        args.overrides = [normalise(text) for text in args.overrides]
        if not (args.hydra_help or args.shell_completion or args.info or args.experimental_rerun):
            _check(args)
        _run_hydra(args)
    except JobFailed as failure:
        return failure.code
    except TascnetError as error:
        return _mistake(error, debug)
    except (HydraException, OmegaConfBaseException) as error:
        return _mistake(ConfigError(one_line(error)), debug)
    except KeyboardInterrupt:
        log.error("stopped: the same command resumes, without fresh=true if that was given")
        return STOPPED
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        log.error(traceback.format_exc())
        return BUG
    return 0


def task(composed: DictConfig) -> None:
    """One job: the composed config goes to its stage's pipeline; a failure is said and carried as a code."""
    set_up_logging()
    debug = bool(composed.get("debug"))
    settings = HydraConfig.get()
    if settings.mode == RunMode.MULTIRUN:
        log.info(f"job {settings.job.num}: {settings.job.override_dirname or 'no overrides'}")
    try:
        run(composed, list(settings.overrides.task), _config_dir(), settings.job.config_name or CONFIG_NAME)
    except TascnetError as error:
        raise JobFailed(_mistake(error, debug)) from error
    except Exception as error:
        log.error(traceback.format_exc())
        raise JobFailed(BUG) from error


def run(composed: DictConfig, overrides: list[str], config_dir: str | None, config_name: str) -> None:
    """Give the run its name and call the pipeline that its stage names."""
    config = to_config(composed)
    check_config(config)
    config.name = default_name(config, Tree(config_dir), overrides, config_name)
    if config.debug:
        set_up_logging(logging.DEBUG)
    _function(config.stage._target_)(config)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = get_args_parser()
    parser.__class__ = _Parser
    return parser.parse_intermixed_args(argv)


class _Parser(argparse.ArgumentParser):
    """Hydra's own parser, with mistakes told as ours."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, "python -m tascnet --help shows what can be given")


def _check(args: argparse.Namespace) -> None:
    if args.config_path is not None:
        raise ConfigError("--config-path would replace tascnet's own options", "add yours with --config-dir")
    tree = Tree(args.config_dir)
    check_overrides(args.overrides, tree, multirun=args.multirun, config_name=args.config_name or CONFIG_NAME)


def _run_hydra(args: argparse.Namespace) -> None:
    """Let Hydra run the checked command line; errors come out as they are."""
    register()
    entry = hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=CONFIG_NAME)(task)
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = ["tascnet", *_rebuilt(args)]
    try:
        entry()
    finally:
        sys.argv = argv
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


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


def _function(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        if isinstance(error, ImportError) and error.name not in (module, module.partition(".")[0]):
            raise
        raise ConfigError(
            f"there is no function {target}", "stage and benchmark files name it as _target_"
        ) from error


def _mistake(error: TascnetError, debug: bool) -> int:
    if debug:
        log.error("".join(traceback.format_exception(error)).rstrip())
    log.error(" ".join(str(error).split()))
    return MISTAKE


if __name__ == "__main__":
    # Launchers pickle the task: it belongs to a module that every process can import, not to __main__.
    sys.exit(import_module("tascnet.__main__").main())
