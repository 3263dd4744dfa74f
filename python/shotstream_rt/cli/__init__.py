"""The commands: ``python -m shotstream_rt COMMAND``.

One module per command with ``HELP``, ``configure(parser)`` and ``run(arguments) -> exit code``,
imported only when it is asked for. A mistake of the user ends with exit code 2 and one line; see
``terminal.run_command``.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from shotstream_rt import env
from shotstream_rt.terminal import CommandParser, log_handler, run_command

_COMMANDS = {
    "calibrate": "choose and measure which attention heads profile fast prunes",
    "doctor": "play a whole session against a server and tell what it found",
    "export": "write the student as ONNX files for engine libraries; build or check them",
    "fetch": "get a model's files from Hugging Face's hub",
    "generate": "make films from a story, a table of stories, or prompts",
    "info": "show what this machine can run and why not the rest",
    "serve": "open a page on which films are directed while they play",
    "verify": "compare this machine's numbers with golden ones",
}

_EPILOG = """\
Start here:
  python -m shotstream_rt generate                       the bundled story, to story.mp4
  python -m shotstream_rt generate -p "a red cat jumps on a beach" --out cat.mp4
  python -m shotstream_rt COMMAND --help                 options of a command, with examples
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: arguments without the program's name; default: those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(words, lambda: _run(words))


def _run(words: list[str]) -> int:
    parser = CommandParser(
        prog="python -m shotstream_rt",
        description="Streaming prompts in, streaming multi-shot video out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in words[:1]:
            _module(name).configure(command)
    arguments = parser.parse_args(words)
    layout = "%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=env.log_level(), handlers=[log_handler(layout)])
    with _ended_like_ctrl_c():
        code: int = _module(arguments.command).run(arguments)
    return code


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Let signals that end a process remove its unfinished files first."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # nohup has hangups ignored, and that stays so.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    """End like Ctrl-C, so that unfinished files are removed."""
    raise KeyboardInterrupt


def _module(name: str) -> Any:
    return importlib.import_module(f"shotstream_rt.cli.{name}")


def _version() -> str:
    from shotstream_rt import __version__

    return f"shotstream_rt {__version__}"
