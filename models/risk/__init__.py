"""Aggregate risk scores under a protocol: NEWS2, qSOFA, SIRS, the shock index.

Here: which signals a score looks at, its points, and what may be said when some are missing.
Not here: thresholds (validation/protocols), staleness (the snapshot's own), learned models.
"""
