"""CSV as shops export it, with commas in titles that nobody quoted."""

import csv
from collections.abc import Iterator
from typing import TextIO

Row = dict[str, str | None]


def read_csv(file: TextIO, *, delimiter: str = ",") -> tuple[list[str], Iterator[Row]]:
    """The header, and the rows by column, without blanks around a value; a column that a row lacks is None.

    A delimiter too many belongs to the last column. Raises csv.Error, now or with a row.
    """
    reader = csv.reader(file, delimiter=delimiter)
    header = next(reader, [])
    return header, _rows(reader, header, delimiter)


def _rows(reader: Iterator[list[str]], header: list[str], delimiter: str) -> Iterator[Row]:
    last = len(header) - 1
    for row in reader:
        fields = [field.strip() for field in (*row[:last], delimiter.join(row[last:]))]
        yield dict(zip(header, [*fields, *[None] * (len(header) - len(fields))], strict=True))
