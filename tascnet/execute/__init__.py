"""Where independent jobs run: one after the other in this process, or several at a time on a Ray cluster.

The only place that imports Ray.
"""

from tascnet.execute.executor import Executor, Lost, Outcome, Sequential, check_executor, opened
from tascnet.execute.workers import Assignment, RemoteLearner, Workers

__all__ = [
    "Assignment",
    "Executor",
    "Lost",
    "Outcome",
    "RemoteLearner",
    "Sequential",
    "Workers",
    "check_executor",
    "opened",
]
