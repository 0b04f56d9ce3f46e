"""The learning plane: software-defined assets, one file a layer, watched in Dagster.

Here: what exists, what it is made of, and the checks on it.
Not here: how things are computed (stores, models, validation), when they run (orchestration), the hot path (twin).
"""

import warnings

# Dagster says so of each observation, in everybody's terminal; the lock holds the version it is tested with.
warnings.filterwarnings("ignore", "Function .multi_observable_source_asset. is currently in beta")
