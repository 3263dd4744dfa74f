"""``serve``: a page to direct films on, and the addresses behind it."""

from __future__ import annotations

import argparse
import importlib
import re
import webbrowser
from contextlib import suppress
from functools import partial

from shotstream_rt import env
from shotstream_rt.checks import check_one_of, check_range, check_seed
from shotstream_rt.errors import ConfigError
from shotstream_rt.film.shots import AT_END
from shotstream_rt.profiles import PROFILES, find_profile
from shotstream_rt.terminal import say, tell, tell_json

_EXAMPLES = """\
Examples:
  python -m shotstream_rt serve --open
  python -m shotstream_rt serve --model /checkpoints/shotstream --device cuda --sessions 1
  python -m shotstream_rt serve --store films
  python -m shotstream_rt serve --host 0.0.0.0 --port 8716 --token-file token.txt
  python -m shotstream_rt serve --ray 2-8 --store /shared/films

The address that is printed carries the token that lets its owner direct; the page makes a second
link, which only watches. VLC, OBS and ffplay show http://any:TOKEN@HOST:PORT/v1/sessions/ID/live.mp4
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("--model", default="nano", help="nano (default) or a checkpoint folder")
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=int, default=8716, metavar="N", help="0 takes a free one (default: 8716)")
    add("--open", action="store_true", help="open the page in a browser")
    add("--token-file", metavar="FILE", help="the director's token (default: a new one each time)")
    add("--allow-origin", action="append", default=[], metavar="URL",
        help="origin of pages that may connect besides this server's own; repeatable")  # fmt: skip
    add("--store", metavar="FOLDER", help="keep films in a folder, from which this or another "
        "server goes on with them (default: they end with the server)")  # fmt: skip
    add("--ray", metavar="MIN-MAX", help="so many servers (2-8, or 2), each with a device of its "
        "own, on Ray: on this machine, or on the cluster that RAY_ADDRESS names")  # fmt: skip
    add("--sessions", type=int, default=16, metavar="N",
        help="films at one time: playing, waiting in line, asleep (default: 16)")  # fmt: skip
    add("--capacity", type=int, metavar="N", help="films that play at one time; others wait in "
        "line (default: as many as play in real time, measured)")  # fmt: skip
    add("--policy", default="slack", help="who computes next: slack, the film whose picture runs "
        "dry first (default), or first_come")  # fmt: skip
    add("--token-sessions", type=int, metavar="N", help="films of one token (default: --sessions)")
    add("--token-film", type=int, metavar="SECONDS", help="film made for one token (default: any)")
    add("--idle-sleep", type=int, default=60, metavar="SECONDS", help="a film that nobody watches "
        "gives its memory back after (default: 60)")  # fmt: skip
    add(
        "--seed", type=int, default=0, metavar="N", help="noise seed of the first film (default: 0)"
    )
    add("--at-end", default="extend", help=f"{', '.join(AT_END)}: a shot of trained length with "
        "nothing queued (default: extend)")  # fmt: skip
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:N")
    add("--backend", default="auto", help="auto (default) or a name that `info` lists")
    add("--profile", default="exact", help=f"{' or '.join(PROFILES)} (default: exact); see `info`")
    add("--dtype", help="float32 or bfloat16 (default: what `info` says of the device)")
    add("--size", metavar="HxW", help="frame size in multiples of 16 (default: the model's)")
    add("--threads", type=int, metavar="N", help="CPU threads of a film (default: torch's)")
    add("--log", default="text", metavar="FORM", help="text (default) or json: one object a line, "
        "with the film and the ask that it is about")  # fmt: skip
    add("--json", action="store_true", help="one JSON object as the last line of standard output")


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted; see ``configure``."""
    check_one_of("--at-end", arguments.at_end, AT_END)
    check_one_of("--log", arguments.log, ("text", "json"))
    check_range("--port", arguments.port, 0, 65535)
    check_range("--sessions", arguments.sessions, 1, 1000)
    for name in ("capacity", "token_sessions", "token_film", "idle_sleep"):
        if getattr(arguments, name) is not None:
            check_range(f"--{name.replace('_', '-')}", getattr(arguments, name), 1, 2**40)
    check_one_of("--policy", arguments.policy, ("slack", "first_come"))
    if arguments.threads is not None:
        check_range("--threads", arguments.threads, 1, 1024)
    find_profile(arguments.profile)
    seed = check_seed(arguments.seed, "--seed")
    servers = _servers(arguments.ray, arguments.store) if arguments.ray is not None else None
    module, extra = ("ray_app", "ray") if servers else ("server", "serve")
    try:
        film_settings, limits, logs, server, store, tokens = (
            importlib.import_module(f"shotstream_rt.serve.{name}")
            for name in ("film_settings", "limits", "logs", module, "store", "tokens")
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"serve: the package {error.name} is not installed; "
            f"pip install 'shotstream_rt[{extra}]'"
        ) from error
    file = arguments.token_file
    if servers:
        make = partial(server.RayServer, servers=servers, json_logs=arguments.log == "json")
    else:
        make = server.Server
    serving = make(
        film_settings.FilmSettings(
            model=arguments.model,
            options={
                "device": arguments.device,
                "backend": arguments.backend,
                "profile": arguments.profile,
                "dtype": arguments.dtype,
                "size": arguments.size,
            },
            seed=seed,
            at_end=arguments.at_end,
            threads=arguments.threads,
            policy=arguments.policy,
            capacity=arguments.capacity,
        ),
        tokens=tokens.Tokens.from_file(file) if file else tokens.Tokens(),
        limits=limits.Limits(
            sessions=arguments.sessions,
            token_sessions=arguments.token_sessions or arguments.sessions,
            token_film_s=arguments.token_film or 2**40,
            idle_sleep_s=arguments.idle_sleep,
        ),
        origins=tuple(arguments.allow_origin),
        store=None if arguments.store is None else store.FolderStore(arguments.store),
    )
    url = serving.listen(arguments.host, arguments.port)
    if arguments.log == "json":
        logs.use_json(env.log_level("info"))
    else:
        say(f"serving {arguments.model}; Ctrl-C ends it")
    if arguments.json:
        tell_json({"url": url, "address": serving.address, "token": serving.tokens.director})
    else:
        tell(url)
    if arguments.open:
        webbrowser.open(url)
    with suppress(KeyboardInterrupt):  # the way in which a server ends
        serving.run()
    return 0


def _servers(text: str, store: str | None) -> tuple[int, int]:
    """Return how many servers ``--ray`` wants at least and at most.

    Raises:
        ConfigError: it cannot be read, or the servers would have no store in common.
    """
    found = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", text)
    fewest, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= fewest <= most:
        raise ConfigError(f"--ray: got {text!r}, wanted a number of servers, as 2 or 2-8")
    if store is None:
        raise ConfigError(
            "--ray: got no --store, wanted a folder that every machine sees: a film goes on from "
            "there when its server ends"
        )
    return fewest, most
