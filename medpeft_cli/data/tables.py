"""Read a table as it comes: CSV or TSV (also .gz), with or without BOM, UTF-8, UTF-16 or Windows-1252; parquet."""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medpeft_cli.errors import DataError
from medpeft_cli.registry import unknown_hint

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
TABLES = (".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz", ".parquet")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its line in the file, and text by column, stripped."""

    line: int
    cells: tuple[str, ...]
    columns: dict[str, int]

    def __getitem__(self, column: str) -> str:
        """Return the text of a column."""
        return self.cells[self.columns[column]]


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """Read the given columns of a table; the delimiter is the comma, semicolon or tab that the header holds most of.

    Raises:
        DataError: if the file or a column is missing, a wanted column is there twice, or a row is broken; with the line.
    """
    rows = list(iterate_table(path, columns))
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows


def iterate_table(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a table one by one; see `read_table`."""
    lines = _lines(path)
    header = next(lines)[1]
    for column in columns:
        if header.count(column) != 1:
            if column in header:
                raise DataError(f"{path}:1: {column}: two columns of that name", "rename one of them")
            known = [name for name in header if name]
            raise DataError(f"{path}:1: {column}: no such column", unknown_hint(column, known))
    wanted = list(dict.fromkeys(columns))
    places = [header.index(column) for column in wanted]
    position = {column: place for place, column in enumerate(wanted)}
    for line, cells in lines:
        yield Row(line, tuple(cells[place].strip() for place in places), position)


def table_columns(path: Path) -> list[str]:
    """Return the names in the header, in order; unnamed ones are ""."""
    return next(_lines(path))[1]


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of the header and then of each row that is not blank; every row is as long as the header."""
    if path.name.lower().endswith(".parquet"):
        yield from _parquet(path)
        return
    text = io.StringIO(read_text(path), newline="")
    header_line = text.readline()
    delimiter = max(DELIMITERS, key=header_line.count)
    text.seek(0)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        yield 1, header
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}:{reader.line_num}: got {len(cells)} columns, the header has {len(header)}",
                    f"a text that holds a {DELIMITERS[delimiter]} must stand in quotation marks",
                )
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}", "is every quotation mark closed?") from None


def _parquet(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the header and the rows of a parquet file; line 2 is the first row, as in a CSV file."""
    if not path.is_file():
        raise _missing(path)
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(
            f"{path}: parquet is read by pyarrow, which is not installed",
            'pip install "medpeft[parquet]", or save it as CSV',
        ) from None
    try:
        with ParquetFile(path) as file:
            # what is no text or number (pictures, lists) cannot be a label or a path
            flat = [field.name for field in file.schema_arrow if not _nested(str(field.type))]
            yield 1, flat
            line = 2
            for batch in file.iter_batches(columns=flat):
                for row in batch.to_pylist():
                    yield line, ["" if row[name] is None else str(row[name]) for name in flat]
                    line += 1
    except (OSError, ValueError) as error:  # pyarrow's own errors are kinds of ValueError
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


def _nested(kind: str) -> bool:
    return kind.startswith(("struct", "list", "large_list", "map", "binary", "large_binary", "fixed_size"))


def read_text(path: Path) -> str:
    """Return the text of a file, maybe .gz: by its BOM, else as UTF-8, else as Windows-1252.

    Raises:
        DataError: if it is missing, damaged, or no text; with the line.
    """
    try:
        raw = path.read_bytes()
        if raw.startswith(b"\x1f\x8b"):
            raw = gzip.decompress(raw)
    except FileNotFoundError:
        raise _missing(path) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged archive: {error}", "download it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read, {(error.strerror or str(error)).lower()}") from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not raw.startswith(codecs.BOM_UTF32_LE):
        encodings = ["utf-16"]
    elif b"\0" in raw[:4096]:
        line = raw[: raw.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{path}:{line}: no text, it holds zero bytes", "save it as text in UTF-8")
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError as error:
            place = error.start
    line = raw[:place].count(b"\n") + 1
    raise DataError(f"{path}:{line}: text is neither UTF-8 nor Windows-1252 nor UTF-16", "save it as text in UTF-8")


def _missing(path: Path) -> DataError:
    return DataError(f"{path}: no such file", "is --source the folder that the card means?")
