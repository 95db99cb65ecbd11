"""COPY of Parquet: by position, types must fit, nothing is forgiven; errors in the words of Redshift's Spectrum."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from dbops_lab.redshift import columns as types
from dbops_lab.redshift.bulk import InternalError
from dbops_lab.redshift.columns import numeric
from dbops_lab.redshift.copy_values import TargetColumn
from dbops_lab.redshift.options import CopyStatement

BATCH_ROWS = 65536
INTERNAL, SCAN = 15001, 15007
Fits = Callable[[pa.DataType], bool]

_FITS: dict[int, Fits] = {
    types.BOOL: pa.types.is_boolean,
    types.INT2: pa.types.is_int16,
    types.INT4: pa.types.is_int32,
    types.INT8: pa.types.is_int64,
    types.FLOAT4: pa.types.is_float32,
    types.FLOAT8: pa.types.is_float64,
    types.DATE: pa.types.is_date32,
    types.TIMESTAMP: pa.types.is_timestamp,
    types.TIMESTAMPTZ: pa.types.is_timestamp,
}


def blocks(
    body: IO[bytes], url: str, columns: Sequence[TargetColumn], statement: CopyStatement
) -> Iterator[tuple[int, bytes]]:
    """Number of rows and the rows themselves as CSV for PostgreSQL, NULL being nothing and every text quoted.

    :raises BackendError: the file is not Parquet, or does not fit the columns.
    """
    try:
        file = pq.ParquetFile(body)
    except pa.ArrowInvalid as error:
        raise _scan_error(f"File '{url}' is not a valid Parquet file: {error}", SCAN) from error
    schema = file.schema_arrow
    if len(schema) != len(columns):
        raise _scan_error(
            "Unmatched number of columns between table and file. "
            f"Table columns: {len(columns)}, Data columns: {len(schema)}, File name: {url}",
            SCAN,
        )
    for column, field in zip(columns, schema, strict=True):
        _check_type(column, field, url, statement)
    options = pacsv.WriteOptions(include_header=False)
    for batch in file.iter_batches(batch_size=BATCH_ROWS):
        arrays = [_checked(column, array, url) for column, array in zip(columns, batch.columns, strict=True)]
        text = io.BytesIO()
        pacsv.write_csv(pa.RecordBatch.from_arrays(arrays, [column.name for column in columns]), text, options)
        yield batch.num_rows, text.getvalue()


def _scan_error(text: str, number: int) -> InternalError:
    return InternalError(f"Spectrum Scan Error. {text}", number=number, context=text)


def _check_type(column: TargetColumn, field: pa.Field, url: str, statement: CopyStatement) -> None:
    found = field.type
    if column.oid in types.SUPERS:
        fits = statement.serialize_to_json
    elif column.oid in types.STRINGS:
        fits = pa.types.is_string(found) or pa.types.is_large_string(found)
    elif column.oid == types.NUMERIC:
        precision, scale = numeric(column.typmod)
        fits = pa.types.is_decimal(found) and found.scale == scale and found.precision <= precision
    else:
        fits = column.oid in _FITS and _FITS[column.oid](found)
    if not fits:
        raise _scan_error(
            f"File '{url}' has an incompatible Parquet schema for column '{url}.{field.name}'. "
            f"Column type: {column.shown_type.upper()}, Parquet schema: {found} {field.name}",
            SCAN,
        )


def _checked(column: TargetColumn, array: pa.Array, url: str) -> pa.Array:
    if column.not_null and array.null_count:
        raise _scan_error(f"Missing data for not-null field '{column.name}', File name: {url}", INTERNAL)
    if column.length is not None:
        longest = pc.max(pc.binary_length(array)).as_py() or 0
        if longest > column.length:
            raise _scan_error(
                f"The length of the data column {column.name} is longer than the length defined in the table. "
                f"Table: {column.length}, Data: {longest}, File name: {url}",
                INTERNAL,
            )
    if column.oid in types.SUPERS and not pa.types.is_string(array.type):
        values = [None if value is None else json.dumps(value, default=str) for value in array.to_pylist()]
        return pa.array(values, pa.string())
    return array
