"""Things that learn, score or simulate: arrays and plain values in, arrays and plain values out.

Here: features, risk scores, and later physiology, fusion, recalibration and explanation.
Not here: Dagster, MLflow, clocks, networks, files: whoever calls passes data, protocols and time in.
"""
