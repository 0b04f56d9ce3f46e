"""Servers that stand on the other side of a benchmark, started as processes of their own."""
