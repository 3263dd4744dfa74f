"""How commands write to a terminal, and how they end.

Shared by ``python -m shotstream_rt`` and ``python -m shotstream_rt.bench``. Lines go out with
``say`` and ``tell``, in which every character shows itself and does nothing else; ``run_command``
turns every way in which a command can end into an exit code and, where it was asked for, a JSON
object.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

from .errors import DeviceError, FetchError, OutputError, ShotStreamError
from .printable import printable

_log = logging.getLogger("shotstream_rt.terminal")


class UsageError(Exception):
    """Words of a command line that its parser does not know; carries how it is used."""

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(message)
        self.usage = usage


class CommandParser(argparse.ArgumentParser):
    """A parser whose mistakes end as those of a command do; see ``run_command``."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of writing and leaving.

        Raises:
            UsageError: always.
        """
        raise UsageError(message, self.format_usage())

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            tell(*message.splitlines())
        else:
            super()._print_message(message, file)


def run_command(words: Sequence[str], action: Callable[[], int]) -> int:
    """Run a command; return its exit code.

    0 or what the action returns; 1 where the machine, the network or this package failed, 2 for a
    mistake of the user, 130 for an interrupt. What went wrong is one line on standard error and,
    with ``--json`` among the words, one JSON object with ``error`` and ``kind`` on standard output.

    Args:
        words: of the command line, without the program's name.
        action: the command.

    Raises:
        SystemExit: with code 2, words that the parser does not know; with 0, help was asked for.
    """
    # Parsers take abbreviations too.
    as_json = any(len(word) > 2 and "--json".startswith(word) for word in words)
    with _standard_streams():
        try:
            return action()
        except UsageError as error:
            for line in error.usage.splitlines():
                say(line)
            _fail(str(error), "UsageError", as_json)
            raise SystemExit(2) from None
        except ShotStreamError as error:
            _fail(str(error), type(error).__name__, as_json)
            # A device, a network or a server failed, whatever was asked for.
            return 1 if isinstance(error, DeviceError | FetchError) else 2
        except KeyboardInterrupt:
            _fail("interrupted; unfinished files were removed", "KeyboardInterrupt", as_json)
            return 130
        except MemoryError:
            _fail("out of memory; use a smaller size or model", "MemoryError", as_json)
            return 1
        except Exception as error:
            _log.debug("a fault of this package", exc_info=True)
            kind = type(error).__name__
            _fail(
                f"{kind}: {error} (a fault of shotstream_rt; SHOTSTREAM_LOG=debug shows where)",
                kind,
                as_json,
            )
            return 1


def say(line: str) -> None:
    """Write one line to standard error; nothing where nobody listens."""
    write_safely(sys.stderr, printable(line) + "\n")


def write_safely(stream: TextIO | None, text: str) -> None:
    """Write to a stream for people; one that is closed or full is not worth a film."""
    if stream is None:
        return
    with suppress(OSError, ValueError):
        stream.write(text)
        stream.flush()


def tell(*lines: str) -> None:
    """Write lines to standard output; nothing where the reader has gone.

    Raises:
        OutputError: standard output is full or broken.
    """
    stream = sys.stdout
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = "".join(f"{printable(line, sys.maxsize)}\n" for line in lines)
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        _write_nowhere(stream)
    except OSError as error:
        _write_nowhere(stream)
        raise OutputError(
            f"standard output: cannot be written: {error.strerror or error}"
        ) from error


def tell_json(value: object) -> None:
    """Write one line of JSON to standard output; numbers that JSON has no form for become null.

    Raises:
        OutputError: standard output is full or broken.
    """
    tell(json.dumps(_finite(value), allow_nan=False))


def log_handler(layout: str) -> logging.Handler:
    """Return a handler for log lines on standard error, each of which is one line.

    Args:
        layout: such as ``%(levelname)s %(name)s: %(message)s``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(layout))
    return handler


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        # Set in, so that no line of an error's text looks like a log line.
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"  {printable(line)}" for line in lines)


def _fail(message: str, kind: str, as_json: bool) -> None:
    shown = printable(" ".join(message.split()))
    say(f"error: {shown}" if kind != "KeyboardInterrupt" else shown)
    if as_json:
        with suppress(OutputError):  # which may be the very error
            tell_json({"error": shown, "kind": kind})


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _write_nowhere(stream: TextIO) -> None:
    """Let what is still in a stream's buffer go nowhere, so that leaving does not fail on it."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def _standard_streams() -> Iterator[None]:
    """Stand in for standard streams that are closed.

    The next file that is opened gets the number of a closed stream, and what a library writes to
    standard error would then go into that file, into the film for example.
    """
    missing = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    if not missing:
        yield
        return
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    with open(os.devnull, "r+", encoding="utf-8") as nowhere:  # noqa: PTH123 (a device)
        for name in missing:
            setattr(sys, name, nowhere)
        try:
            yield
        finally:
            for name in missing:
                setattr(sys, name, None)
