"""Cells of a table as text.

Needs only PyArrow.
"""

import pyarrow as pa
import pyarrow.compute as pc

from mixer_jax.runtime.errors import UserError

# Integers of this size or more may have been rounded in these types.
_EXACT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}


class NotTextError(UserError):
    """Error for a cell that is not text; `row` is its row, from 0."""

    def __init__(self, where: str, row: int, problem: str):
        super().__init__(f"{where}: {problem}")
        self.row, self.problem = row, problem


def as_text(column: pa.Array | pa.ChunkedArray, where: str) -> pa.Array:
    """Returns cells as they would appear in a CSV file; "" for a null.

    Floats with integer values become integers: 12, not 12.0.

    Args:
      column: strings, numbers or categories.
      where: file and column, for the error message.

    Raises:
      NotTextError: if the column has another type, or a cell is not UTF-8.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        if pa.types.is_duration(column.type):
            # Arrow would write the number but drop the unit.
            raise pa.ArrowNotImplementedError(str(column.type))
        if pa.types.is_floating(column.type):
            text = _float_text(column)
        else:
            text = column.cast(pa.string())
            text.validate(full=True)  # Parquet strings may hold any bytes.
    except pa.ArrowNotImplementedError as error:
        kind = f"cells are of type {column.type}"
        problem = f"{kind}; they must be strings or numbers."
        raise NotTextError(where, 0, problem) from error
    except pa.ArrowInvalid as error:
        problem = "a cell is not UTF-8 text."
        raise NotTextError(where, _find_bytes(column), problem) from error
    if pa.types.is_decimal(column.type):
        text = pc.replace_substring_regex(text, r"\.0+$", "")
        # Arrow writes a zero with nine decimals as 0E-9, for example.
        text = pc.replace_substring_regex(text, r"^0E-\d+$", "0")
    return text.fill_null("")


def lossy(column: pa.Array | pa.ChunkedArray) -> tuple[int, str] | None:
    """Finds the first float that is not an exact integer.

    Returns:
      The row, and why its cell cannot be an ID; None if there is none.
    """
    if not pa.types.is_floating(column.type):
        return None
    exact = _EXACT[column.type]
    column = column.cast(pa.float64())
    bad = pc.invert(_is_whole(column, exact))
    bad = pc.and_(bad.fill_null(False), pc.invert(pc.is_nan(column)))
    row = pc.index(bad.fill_null(False), True).as_py()
    if row < 0:
        return None
    value = column[row].as_py()
    if abs(value) >= exact:
        return row, f"{value:g} is too large a float to be exact"
    return row, f"{value:g} is a float that is not an integer"


def _find_bytes(column: pa.Array | pa.ChunkedArray) -> int:
    """Returns the row of the first cell that is not UTF-8."""
    for row, cell in enumerate(column.cast(pa.large_binary()).to_pylist()):
        try:
            (cell or b"").decode()
        except UnicodeDecodeError:
            return row
    return 0


def _float_text(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    wide = column.cast(pa.float64())
    whole = _is_whole(wide, 2**53).fill_null(False)
    number = pc.if_else(whole, wide, 0.0).cast(pa.int64()).cast(pa.string())
    text = pc.if_else(whole, number, column.cast(pa.string()))
    return pc.if_else(pc.is_nan(wide), None, text)


def _is_whole(column: pa.ChunkedArray, limit: int) -> pa.ChunkedArray:
    return pc.and_(
        pc.equal(pc.floor(column), column), pc.less(pc.abs(column), limit)
    )
