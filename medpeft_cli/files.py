"""Atomic files: a reader sees the old content or the new, never half of one."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medpeft_cli.console import console
from medpeft_cli.errors import DataError, RunError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it replaces `path` only if the block succeeds.

    Raises:
        RunError: if the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~umask())
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def user_cache(name: str) -> Path:
    """Return the folder of what is kept for all runs of this user: medpeft/<name> in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medpeft" / name


def umask() -> int:
    """Return the permissions that new files do without."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def unwritable(path: Path, error: OSError) -> RunError:
    """Return the error for a path that cannot be written."""
    return RunError(
        f"{path}: cannot be written: {error.strerror or error}",
        "free space or choose another folder; what was finished is kept, and the same command goes on",
    )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Make a DataError of what the system refuses to read in the block; `path` stands in where it names no file.

    Raises:
        DataError: such as "data: cannot be read, permission denied".
    """
    try:
        yield
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise DataError(f"{error.filename or path}: cannot be read, {why}") from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file for a moment against other processes, which wait; the system frees it when this process dies.

    Args:
        path: the lock file; made with its folder if missing.

    Raises:
        RunError: if the file cannot be made.
    """
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")  # noqa: SIM115
    except OSError as error:
        raise unwritable(path.parent, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # a file system without locks
            console.warn(f"{path.parent}: not locked against a second process: {error.strerror}")
        yield


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable: {error}") from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
