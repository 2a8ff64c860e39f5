"""`python -m tascnet`."""

import sys

# Launchers pickle the task: it belongs to a module that every process can import, not to __main__.
from tascnet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
