"""`python -m tascnet`, and the command `tascnet`.

The command line takes half a second to import: an interrupt until then ends without a word.
"""

import os
import signal
import sys

STOPPED = 130


def start() -> int:
    """Import the command line and run it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(STOPPED))
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
