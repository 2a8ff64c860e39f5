"""`python -m tascnet`: the Hydra entry, which hands the composed config to a stage's pipeline."""

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, NoReturn

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tascnet.cli.check import check_config, check_overrides, normalise
from tascnet.cli.compose import CONFIG_NAME, CONFIG_PATH, Tree, default_name, one_line, register, to_config
from tascnet.errors import ConfigError, TascnetError
from tascnet.run.console import log, set_up_logging

MISTAKE, BUG, STOPPED = 2, 1, 130
# What the system says of a place that cannot be used: nothing that a traceback would explain.
PLACES = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code: 0, 2 for a mistake, 1 for a bug, 130 when stopped."""
    set_up_logging()
    debug = False
    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        debug = any(text.lstrip("+") in ("debug=true", "debug=True") for text in args.overrides)
        args.overrides = [normalise(text) for text in args.overrides]
        if args.hydra_help or args.shell_completion or args.info or args.experimental_rerun:
            return _show(args)
        tree = _check(args)
        return _show(args) if args.help or args.cfg else _start(args, tree)
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
    except Exception as error:
        return _other(error, debug)


def script() -> int:
    """The command `tascnet`, which finds a user's own modules where `python -m tascnet` does."""
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())
    return main()


def task(composed: DictConfig) -> int:
    """One job: the composed config goes to its stage's pipeline; a failure is said and given as a code."""
    set_up_logging()
    debug = bool(composed.get("debug"))
    settings = HydraConfig.get()
    # A single run has no number.
    if not OmegaConf.is_missing(settings.job, "num"):
        log.info(f"job {settings.job.num}: {settings.job.override_dirname or 'no overrides'}")
    try:
        run(composed, list(settings.overrides.task), _config_dir(), settings.job.config_name or CONFIG_NAME)
    except TascnetError as error:
        return _mistake(error, debug)
    except Exception as error:
        return _other(error, debug)
    return 0


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


def _check(args: argparse.Namespace) -> Tree:
    if args.config_path is not None:
        raise ConfigError("--config-path would replace tascnet's own options", "add yours with --config-dir")
    tree = Tree(args.config_dir)
    check_overrides(args.overrides, tree, multirun=args.multirun, config_name=args.config_name or CONFIG_NAME)
    return tree


def _start(args: argparse.Namespace, tree: Tree) -> int:
    """Run one job, or all jobs of a multirun with Hydra's sweeper and launcher; the code of the worst."""
    app = Hydra.create_main_hydra2(task_name="tascnet", config_search_path=tree.search_path)
    start = app.multirun if args.multirun else app.run
    try:
        codes = list(_codes(start(args.config_name or CONFIG_NAME, task, args.overrides)))
    finally:
        GlobalHydra.instance().clear()
    failed = sum(code != 0 for code in codes)
    if failed and len(codes) > 1:
        log.error(f"{failed} of {len(codes)} jobs failed")
    return next((code for code in (BUG, MISTAKE) if code in codes), 0)


def _codes(result: Any) -> Iterator[int]:
    """The codes of a job, or of the batches of jobs that a sweeper gives back."""
    if isinstance(result, JobReturn):
        yield result.return_value
    elif isinstance(result, list | tuple):
        for item in result:
            yield from _codes(item)


def _show(args: argparse.Namespace) -> int:
    """Let Hydra show its help or the config, where nothing is run; errors come out as they are."""
    register()
    entry = hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=CONFIG_NAME)(task)
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = ["tascnet", *_rebuilt(args)]
    try:
        entry()
    except SystemExit as ended:
        return int(ended.code or 0)
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


def _other(error: Exception, debug: bool) -> int:
    """The code of an error that is not ours: a place that cannot be used is a mistake, the rest are bugs."""
    if isinstance(error, OSError) and error.errno in PLACES and error.filename is not None:
        told = ConfigError(
            f"{error.filename} cannot be used ({error.strerror})",
            "see to its permissions and the space left, or choose other folders with outputs= and cache_dir=",
        )
        return _mistake(told, debug)
    log.error("".join(traceback.format_exception(error)))
    return BUG


def _mistake(error: TascnetError, debug: bool) -> int:
    if debug:
        log.error("".join(traceback.format_exception(error)).rstrip())
    log.error(" ".join(str(error).split()))
    return MISTAKE
