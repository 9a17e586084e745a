"""Read a table of labels as it comes: CSV or TSV, with or without BOM, UTF-8, UTF-16 or Windows-1252."""

import codecs
import csv
import io
from dataclasses import dataclass
from pathlib import Path

from medpeft_cli.errors import DataError
from medpeft_cli.registry import unknown_hint


@dataclass(frozen=True)
class Row:
    """One row: its line in the file, and text by column, stripped."""

    line: int
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        """Return the text of a column."""
        return self.values[column]


def read_table(path: Path, columns: list[str]) -> list[Row]:
    """Read the given columns of a table; the delimiter is the comma, semicolon or tab that the header holds most of.

    Raises:
        DataError: if the file or a column is missing, a wanted column is there twice, or a row is broken; with the line.
    """
    lines = io.StringIO(_decode(path), newline="")
    header_line = lines.readline()
    delimiter = max(",;\t", key=header_line.count)
    lines.seek(0)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows = []
    try:
        header = [name.strip() for name in next(reader, [])]
        for column in columns:
            if header.count(column) != 1:
                got = "no such column" if column not in header else "two columns of that name"
                raise DataError(f"{path}:1: {column}: {got}", unknown_hint(column, [name for name in header if name]))
        position = {column: header.index(column) for column in columns}
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise DataError(f"{path}:{reader.line_num}: got {len(cells)} columns, the header has {len(header)}")
            rows.append(Row(reader.line_num, {column: cells[place].strip() for column, place in position.items()}))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}", "is every quotation mark closed?") from None
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows


def _decode(path: Path) -> str:
    """Return the text: by its BOM, else as UTF-8, else as Windows-1252."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", "is --source the folder that the card means?") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read, {(error.strerror or str(error)).lower()}") from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif b"\0" in raw[:4096]:
        line = raw[: raw.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not a text table, it holds zero bytes", "save it as CSV in UTF-8")
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError as error:
            place = error.start
    line = raw[:place].count(b"\n") + 1
    raise DataError(f"{path}:{line}: text is neither UTF-8 nor Windows-1252 nor UTF-16", "save it as CSV in UTF-8")
