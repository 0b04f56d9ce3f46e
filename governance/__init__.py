"""Authority and evidence: access, privacy, audit, the registry of models, approvals, what is serving, rollback.

Here: decisions that people sign and machines check.
Not here: computing the evidence (validation, assets), the live plane that obeys (twin), wiring (orchestration).
"""
