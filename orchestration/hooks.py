"""What happens when a step of Dagster's fails: it is told in the log, without a word of what it was working on.

Here: the failure hook of every job.
Not here: incidents, which are about models in service (twin.watch, governance.rollback); a run that fails harms nobody:
the model in force stays in force.
"""

from __future__ import annotations

import logging

import dagster as dg

_log = logging.getLogger("vigil.learning")


@dg.failure_hook(name="tell_failure")
def tell_failure(context: dg.HookContext) -> None:
    """Log which step failed and by which kind of error; an error's text may quote a patient's data."""
    error = context.op_exception
    _log.error(
        "step_failed",
        extra={"job": context.job_name, "step": context.op.name, "run": context.run_id, "error": type(error).__name__},
    )


HOOKS = frozenset({tell_failure})
