"""The words every room speaks: units, concepts, records, the twin snapshot, errors, clocks, settings.

Here: immutable values and pure functions on them; data tables with their sources.
Not here: bytes on the wire (interop), anything kept (stores), anything learned (models).
"""
