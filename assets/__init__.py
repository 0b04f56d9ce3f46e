"""The learning plane: software-defined assets, one file a layer, watched in Dagster.

Here: what exists, what it is made of, and the checks on it.
Not here: how things are computed (stores, models, validation), when they run (orchestration), the hot path (twin).
"""
