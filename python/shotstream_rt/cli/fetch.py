"""``fetch``: a model's files from Hugging Face's hub to this machine."""

from __future__ import annotations

import argparse
import textwrap

from shotstream_rt.checks import check_one_of
from shotstream_rt.loading.fetch import BASE, fetch
from shotstream_rt.plan.students import STUDENTS
from shotstream_rt.terminal import say, tell, tell_json

from .load_progress import LoadLine

_NAMES = textwrap.fill(
    f"NAME is a student that this runtime knows ({', '.join(STUDENTS)}), {BASE} for what all of "
    "them need, or hf:ORGANISATION/NAME[@REVISION].",
    width=100, break_on_hyphens=False,
)  # fmt: skip
_EXAMPLES = f"""\
{_NAMES}

A fetch that was broken off goes on where it was. A revision that was fetched once stays what it
was; --renew asks for the newest. HF_ENDPOINT names another server, HF_HUB_OFFLINE=1 forbids the
network, SHOTSTREAM_CACHE_DIR says where files go. Needs: pip install 'shotstream_rt[hub]'

Examples:
  python -m shotstream_rt fetch shotstream
  python -m shotstream_rt fetch hf:me/my-student@v2 --student self-forcing
  python -m shotstream_rt generate --model self-forcing -p "a red cat" --device cuda
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("name", metavar="NAME", help="what to fetch")
    add("--student", metavar="NAME", help="which student, where a repository does not tell")
    add("--renew", action="store_true", help="ask what the revision is now")
    add("--json", action="store_true", help="one JSON object as the last line of standard output")
    add("-q", "--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> int:
    """Fetch; see ``configure``."""
    if arguments.student is not None:
        check_one_of("--student", arguments.student, tuple(STUDENTS))
    try:
        with LoadLine(quiet=arguments.quiet) as progress:
            found = fetch(
                arguments.name, student=arguments.student, renew=arguments.renew, tell=progress
            )
    except KeyboardInterrupt:
        # Other commands remove what is unfinished.
        told = "interrupted; what came in is kept, and the next fetch goes on from there"
        say(told)
        if arguments.json:
            tell_json({"error": told, "kind": "KeyboardInterrupt"})
        return 130
    if not arguments.quiet:
        for repository, commit in found.revisions.items():
            say(f"{repository} at {commit}")
    tell(f"{arguments.name}: {found.nbytes / 1e9:.2f} GB at {found.path}")
    if arguments.json:
        tell_json(
            {
                "name": arguments.name, "path": str(found.path), "bytes": found.nbytes,
                "student": found.student, "revisions": found.revisions,
                "base": [str(root) for root in found.roots],
            }
        )  # fmt: skip
    return 0
