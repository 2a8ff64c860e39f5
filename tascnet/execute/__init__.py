"""Where independent jobs run: one after the other in this process, or several at a time on a Ray cluster.

The only place that imports Ray. What a worker imports first is kept small: `execute.workers` is apart.
"""

from tascnet.execute.executor import Executor, Lost, Outcome, Sequential, check_executor, opened

__all__ = ["Executor", "Lost", "Outcome", "Sequential", "check_executor", "opened"]
