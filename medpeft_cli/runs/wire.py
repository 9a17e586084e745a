"""A connection between process 0 of a run and each other, by which one that fails or dies ends them all.

A collective of torch waits for a process that is gone, with NCCL for as long as it is let. So every process has a thread that
listens: process 0 hears why another one fails, or that its connection broke; the others hear that they are to leave. They never
leave otherwise, so that a broken connection always is a death. Their exit code is 0 then, for process 0's speaks for all: srun
and torchrun kill the rest at the first bad one, and process 0 has last words to say and a job to requeue.
"""

import json
import os
import secrets
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

from medpeft_cli.console import console
from medpeft_cli.errors import MedpeftError, RunError

CONNECT_SECONDS = 60.0
GRACE_SECONDS = 1.0  # in which process 0 may come to the same error by itself
DISMISSED = "leave"
ECHO_SECONDS = 3.0  # after which an error is not the echo of another process's death


class Leader:
    """Process 0's end: a connection from every other process.

    Attributes:
        port: where it listens.
        token: what a process that connects has to say first.
        last_words: called with the error if another process's failure ends this one.
    """

    def __init__(self) -> None:
        self._server = socket.create_server(("", 0))
        self.port: int = self._server.getsockname()[1]
        self.token = secrets.token_hex(16)
        self.last_words: Callable[[str], None] = lambda error: None
        self._links: list[socket.socket] = []
        self._heard = threading.Event()  # another process failed or died
        self._ending = threading.Lock()  # held, for good, by the thread that ends the run
        self._claimed = False

    def gather(self, others: int) -> None:
        """Wait until so many other processes have connected.

        Raises:
            RunError: if one does not.
        """
        self._server.settimeout(CONNECT_SECONDS)
        try:
            while len(self._links) < others:
                link, _ = self._server.accept()
                lines = _lines(link)
                token, rank = next(lines, "").partition(" ")[::2]
                if not secrets.compare_digest(token.encode(), self.token.encode()):
                    link.close()
                    continue
                self._links.append(link)
                threading.Thread(target=self._listen, args=(rank, lines), daemon=True).start()
        except OSError as error:
            raise RunError(f"{others - len(self._links)} of the other processes cannot reach process 0") from error

    def claim(self, error: BaseException) -> None:
        """Be the one that ends the run, by an error; not if it is the echo of another process's: then this never returns."""
        its_own = self._claimed or isinstance(error, MedpeftError | SystemExit | KeyboardInterrupt)
        if not its_own and self._heard.wait(ECHO_SECONDS):
            _wait_for_the_end()
        self.end()

    def end(self) -> None:
        """Take no more notice of what happens to the others."""
        if not self._claimed:
            self._ending.acquire()
            self._claimed = True

    def dismiss(self) -> None:
        """Have the others leave."""
        self._server.close()
        for link in self._links:
            _send(link, DISMISSED)

    def fail(self, who: str, failure: dict[str, Any]) -> NoReturn:
        """End all processes because one of the others has failed; for the threads that notice it."""
        self._heard.set()
        time.sleep(GRACE_SECONDS)
        self._ending.acquire()
        message = f"{who}: {failure['message']}"
        self.last_words(f"{failure['error']}: {message}")
        console.error(MedpeftError(message, failure["hint"]))
        self.dismiss()
        os._exit(failure["code"])

    def _listen(self, rank: str, lines: Iterator[str]) -> None:
        try:
            failure = json.loads(next(lines, ""))
        except ValueError:
            failure = described(
                RunError("is gone without a word", "its own lines above, or the system's log, may tell why")
            )
        self.fail(f"process {rank}", failure)


class Follower:
    """The end of another process."""

    def __init__(self, address: str, port: int, token: str, rank: int):
        try:
            self._link = socket.create_connection((address, port), CONNECT_SECONDS)
        except OSError as error:
            raise RunError(
                f"process {rank} cannot reach process 0 at {address}, port {port}: {error.strerror}"
            ) from error
        _send(self._link, f"{token} {rank}")
        threading.Thread(target=self._listen, daemon=True).start()

    def leave(self, error: BaseException | None = None) -> NoReturn:
        """Wait for the word of process 0, and end; tell it why, if this process has failed."""
        if error is not None:
            if not isinstance(error, MedpeftError):
                time.sleep(ECHO_SECONDS)  # process 0 may be about to end this one
                traceback.print_exception(error)
            _send(self._link, json.dumps(described(error)))
        _wait_for_the_end()

    def _listen(self) -> NoReturn:
        os._exit(0 if next(_lines(self._link), "") == DISMISSED else 1)  # 1: process 0 is gone


def described(error: BaseException) -> dict[str, Any]:
    """Return what an error is: message, hint, its class and the exit code that belongs to it."""
    code = error.exit_code if isinstance(error, MedpeftError) else 1
    message = str(error) or type(error).__name__
    return {"message": message, "hint": getattr(error, "hint", None), "error": type(error).__name__, "code": code}


def _lines(link: socket.socket) -> Iterator[str]:
    """Yield lines as they come, until the connection breaks; also when the other machine is gone, within minutes."""
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    with link.makefile(encoding="utf-8", errors="replace") as file, suppress(OSError):
        for line in file:
            yield line.rstrip("\n")


def _send(link: socket.socket, line: str) -> None:
    try:
        link.sendall(f"{line}\n".encode())
    except OSError:  # it is gone
        return


def _wait_for_the_end() -> NoReturn:
    while True:
        time.sleep(3600)
