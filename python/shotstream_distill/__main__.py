"""Command line of the training package.

Every command takes ``--json``: one JSON object as the last line of standard output. Exit code 2
means a mistake in the arguments.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys

from shotstream_rt.errors import ShotStreamError

from .commands import codec, evaluation, nano, run
from .commands.shared import Command
from .common.processes import leave


def _parser() -> tuple[argparse.ArgumentParser, dict[str, Command]]:
    parser = argparse.ArgumentParser(
        prog="python -m shotstream_distill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--json", action="store_true", help="one JSON object as the last line")
        return made

    runners: dict[str, Command] = {}
    for group in (run, nano, codec, evaluation):
        runners |= group.add_commands(add)
    return parser, runners


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser, runners = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    # The runtime reports every session and shot; here only this package's progress matters.
    logging.getLogger("shotstream_rt").setLevel(logging.WARNING)
    try:
        report = runners[options.command](options)
    except (ShotStreamError, OSError, ValueError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)  # noqa: T201 - a command's output
        return 2
    if options.json:
        print(json.dumps(report))  # noqa: T201 - a command's output
    return 0


if __name__ == "__main__":
    status = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        leave(status)
    sys.exit(status)
