"""`python -m benchmarks <name> ...` runs a benchmark; without a name it lists them."""

import argparse
import ast
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from tascnet.cli.ending import BUG, MISTAKE, STOPPED, answer
from tascnet.errors import ConfigError, TascnetError, closest, users_place
from tascnet.run.console import log, set_up_logging

# A module each, with `add_arguments(parser)` and `run(args)`.
BENCHMARKS = (
    *("trial_throughput", "search_quality", "suggest_time", "pareto", "methods", "results"),
    *(
        "pruning",
        "pruning_cost",
        "loading",
        "finetuning",
        "many_images",
        "workers",
        "simulate",
        "chaos",
        "reliability",
        "checks",
    ),
    "make_table",
    *("backbones", "exports", "inside", "layer_times", "pipelines", "predicting"),
)
# Has a command line of its own.
EQUIVALENCE = "equivalence"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a benchmark and give the exit code: 0, 2 for a mistake, 1 for a bug, 130 when stopped."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        print(overview())
        return 0
    name, *rest = given
    if name == EQUIVALENCE:
        from benchmarks import equivalence

        return equivalence.main(rest)
    set_up_logging()
    try:
        _run(name, rest)
    except TascnetError as error:
        log.error(" ".join(str(error).replace("`", "").split()))
        return MISTAKE
    except KeyboardInterrupt:
        log.error("stopped: the same command resumes, without --fresh if that was given")
        return STOPPED
    except Exception as error:
        # The command line takes all code but tascnet's for the user's own.
        if str(users_place(error)).startswith(f"{Path(__file__).parent}/"):
            log.error("".join(traceback.format_exception(error)).rstrip())
            return BUG
        return answer(error)
    return 0


def overview() -> str:
    """Usage, and one sentence about each benchmark."""
    lines = ["usage: python -m benchmarks <name> [--option value ...]", ""]
    lines += [f"{name:18}{_sentence(name)}" for name in (*BENCHMARKS, EQUIVALENCE)]
    return "\n".join([*lines, "", "python -m benchmarks <name> --help lists its options."])


def _run(name: str, rest: Sequence[str]) -> None:
    if name not in BENCHMARKS:
        likely = closest(name, (*BENCHMARKS, EQUIVALENCE))
        hint = f"did you mean {likely}?" if likely else "python -m benchmarks lists them"
        raise ConfigError(f"there is no benchmark {name!r}", hint)
    module = import_module(f"benchmarks.{name}")
    parser = _Parser(
        prog=f"python -m benchmarks {name}",
        description=_sentence(name),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    args.name, args.command = name, ["python", "-m", "benchmarks", name, *rest]
    module.run(args)


class _Parser(argparse.ArgumentParser):
    """Mistakes are reported as those of the library."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, f"{self.prog} --help lists the options")


def _sentence(name: str) -> str:
    """The first line of a module's docstring, without importing it."""
    text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
