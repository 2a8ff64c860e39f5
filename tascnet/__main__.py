"""`python -m tascnet`, and the command `tascnet`.

The command line takes half a second to import: an interrupt until then ends without a word.
"""

import os
import signal
import sys

STOPPED = 130
# How often a waiting thread of torch looks for the others' end before it frees its CPU (libgomp's default:
# 300,000). On two CPUs beside a busy process, a training step of MobileNetV2 takes 1.2 s, by default 7.8 s.
SPINS = "10000"


def start() -> int:
    """Import the command line and run it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(STOPPED))
    # Read when torch is imported; whoever set how threads wait has decided.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    # Launchers pickle the task: it belongs to a module that every process can import, not to __main__.
    from tascnet.cli.main import main

    return main()


def script() -> int:
    """The command `tascnet`, which finds a user's own modules where `python -m tascnet` does."""
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())
    return start()


if __name__ == "__main__":
    sys.exit(start())
