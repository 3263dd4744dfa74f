"""``doctor``: a whole session played against a server."""

from __future__ import annotations

import argparse
import asyncio
import importlib

from shotstream_rt.checks import check_range
from shotstream_rt.errors import ConfigError
from shotstream_rt.terminal import say, tell_json

_EXAMPLES = """\
Examples:
  python -m shotstream_rt doctor "http://127.0.0.1:8716/#token=..."
  python -m shotstream_rt doctor https://films.example.org --token TOKEN --timeout 600

It opens a film of its own, cuts, prompts, undoes, branches, loses its connection and comes back,
makes a token, downloads, closes the film, and orders a video of a second. Each step is a line on
standard error; one JSON object on standard output says what was found. The exit code is 0 if all
steps passed, 1 if one failed, 2 if the command was not understood.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("url", metavar="URL", help="address of the server, as `serve` prints it")
    add("--token", help="the director's token (default: the one in the address)")
    add(
        "--timeout", type=int, default=120, metavar="S", help="seconds for each step (default: 120)"
    )
    add("--json", action="store_true", help="taken as elsewhere; the report is JSON anyway")


def run(arguments: argparse.Namespace) -> int:
    """Examine a server; see ``configure``."""
    timeout_s = check_range("--timeout", arguments.timeout, 1, 24 * 3600)
    try:
        doctor = importlib.import_module("shotstream_rt.serve.doctor")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"doctor: the package {error.name} is not installed; pip install 'shotstream_rt[serve]'"
        ) from error

    async def examine() -> dict[str, object]:
        examination = doctor.Doctor(
            arguments.url, token=arguments.token, timeout_s=timeout_s, tell=say
        )
        report: dict[str, object] = await examination.examine()
        return report

    report = asyncio.run(examine())
    tell_json(report)
    return 0 if report["passed"] else 1
