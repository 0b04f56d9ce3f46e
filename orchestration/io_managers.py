"""How results travel from one step to the next: as tables and records of the lake, immutable and named by digest.

Here: Dagster's IO manager over stores.lake_tables.
Not here: events (assets.normalized writes MEDS datasets itself), models (stores.model_files).
"""

from __future__ import annotations

import dagster as dg
import msgspec

from assets.learning_plane import LearningPlane, tables_of
from vocabulary.errors import BrokenInvariantError


class LakeIOManager(dg.IOManager):
    """Keeps pyarrow tables as Parquet and msgspec structs as JSON. A run reads what it made itself, else the newest."""

    def __init__(self, learning: LearningPlane) -> None:
        """Use the lake of the running house; nothing is opened yet."""
        self._learning = learning

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Keep what a step returned.

        Raises:
            BrokenInvariantError: it is neither a table nor a record.
        """
        if obj is None:
            return
        import pyarrow as pa

        tables, key = tables_of(self._learning), _key_of(context)
        if isinstance(obj, pa.Table):
            tables.put_table(key, context.run_id, obj)
        elif isinstance(obj, msgspec.Struct):
            tables.put_record(key, context.run_id, msgspec.json.encode(obj, order="sorted"))
        else:
            raise BrokenInvariantError(f"expected a table or a record of {'/'.join(key)}, found {type(obj).__name__}")
        tables.trim(key)

    def load_input(self, context: dg.InputContext) -> object:
        """Return what the upstream step of this run kept, or the newest of an earlier one.

        Raises:
            UnavailableError: it was never made.
        """
        wanted = context.dagster_type.typing_type
        key, run = _key_of(context), context.step_context.run_id
        tables = tables_of(self._learning)
        if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
            return msgspec.json.decode(tables.record(key, run), type=wanted)
        return tables.table(key, run)


def _key_of(context: dg.OutputContext | dg.InputContext) -> list[str]:
    partition = (
        [part.replace("|", "_") for part in context.asset_partition_keys] if context.has_asset_partitions else []
    )
    return [*context.asset_key.path, *partition]
