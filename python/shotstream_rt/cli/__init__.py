"""The commands: ``python -m shotstream_rt COMMAND``.

One module per command with ``HELP``, ``configure(parser)`` and ``run(arguments) -> exit code``,
imported only when it is asked for. A mistake of the user ends with exit code 2 and one line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

_COMMANDS = {
    "calibrate": "choose and measure which attention heads profile fast prunes",
    "generate": "make films from a story, a table of stories, or prompts",
    "info": "show what this machine can run and why not the rest",
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
    parser = argparse.ArgumentParser(
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
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from shotstream_rt import env
    from shotstream_rt.errors import DeviceError, ShotStreamError

    on_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupt) if on_main else None
    try:
        logging.basicConfig(level=env.log_level(), format="%(levelname)s %(name)s: %(message)s")
        code: int = _module(arguments.command).run(arguments)
    except ShotStreamError as error:
        message = " ".join(str(error).split())
        _say(f"error: {message}")
        if getattr(arguments, "json", False):
            report = {"error": message, "kind": type(error).__name__}
            sys.stdout.write(json.dumps(report) + "\n")
        return 1 if isinstance(error, DeviceError) else 2
    except KeyboardInterrupt:
        _say("interrupted; unfinished files were removed")
        return 130
    finally:
        if on_main:
            signal.signal(signal.SIGTERM, before)
    return code


def _interrupt(number: int, frame: object) -> None:
    """End like Ctrl-C, so that unfinished files are removed."""
    raise KeyboardInterrupt


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _module(name: str) -> Any:
    return importlib.import_module(f"shotstream_rt.cli.{name}")


def _version() -> str:
    from shotstream_rt import __version__

    return f"shotstream_rt {__version__}"
