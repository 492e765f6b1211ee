"""The finished parts as one table, part by part: never more than one of them lies in memory."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from manyhot.atomic import atomic_path
from manyhot.errors import UserError
from manyhot.inference.cluster.plan import Plan

MERGED, DAMAGED = "predictions.parquet", "damaged.csv"


def merge(plan: Plan) -> Path:
    """Write `predictions.parquet`, as `Predictions.save` would: the pictures in the order of the plan.

    Raises:
        UserError: no picture of any part could be read.
    """
    import pyarrow.parquet as pq

    path = plan.folder / MERGED
    writer = None
    with atomic_path(path) as temporary:
        try:
            for number in range(plan.parts):
                table = pq.read_table(plan.path(number))
                if not len(table):
                    continue
                if writer is None:
                    stored = pl.read_parquet_metadata(plan.path(number))
                    kept = {name: text for name, text in stored.items() if name == "manyhot.predictions"}
                    schema = table.schema.with_metadata(kept)
                    writer = pq.ParquetWriter(temporary, schema, compression="zstd")
                writer.write_table(table.replace_schema_metadata(schema.metadata))
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise UserError("none of the pictures could be read.", file=plan.folder)
    return path


def write_damaged(plan: Plan, damaged: dict[int, list[tuple[int, str]]]) -> int:
    """Write `damaged.csv` (id, address, row, reason), or remove it where no picture is damaged.

    Arguments:
        plan: of the pictures.
        damaged: for each part (place in the part, reason).

    Returns:
        The number of damaged pictures.
    """
    path = plan.folder / DAMAGED
    frames = []
    for number, faults in sorted(damaged.items()):
        if faults:
            pictures = plan.part(number)[[place for place, _ in faults]].select("id", "address", "row")
            frames.append(pictures.with_columns(reason=pl.Series([reason for _, reason in faults])))
    if not frames:
        path.unlink(missing_ok=True)
        return 0
    table = pl.concat(frames)
    with atomic_path(path) as temporary:
        table.write_csv(temporary)
    return len(table)
