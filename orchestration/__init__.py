"""Wiring: Dagster definitions, the embedded services, and the `vigil` command.

Here: what starts, stops and connects the other rooms.
Not here: what they do.
"""
