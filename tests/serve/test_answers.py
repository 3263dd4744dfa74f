"""What every answer has in common: one form of errors, and no folder of this machine."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import httpx
import pytest

from shotstream_rt.errors import ConfigError, DeviceError, WeightsError
from shotstream_rt.film.replay import check_directions
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve.client import Client
from shotstream_rt.serve.film_settings import FilmSettings
from shotstream_rt.serve.films import Films
from shotstream_rt.serve.from_server import RETRYABLE
from shotstream_rt.serve.limits import Limits
from shotstream_rt.serve.problems import FullError, NoModelError, problem_of
from shotstream_rt.serve.server import Server

Serving = Callable[..., AbstractContextManager[tuple[Server, str]]]

CAT = "Wide shot: a red cat walks right on a beach."
FOLDERS = re.compile(r"(?<![\w/.:])/(?:home|root|work|tmp|usr|var|opt|etc|private|Users)/")


@pytest.fixture(scope="module")
def running(
    serving: Serving, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    """A server whose model lies in a folder of its own."""
    if not (NANO_FOLDER / "student.json").is_file():
        pytest.skip("this checkout has no nano weights")
    folder = tmp_path_factory.mktemp("secret-folder") / "my-model"
    shutil.copytree(NANO_FOLDER, folder)
    with serving(Limits(message_bytes=10_000), model=str(folder)) as found:
        yield found


def test_no_answer_names_a_folder_of_the_server(url: str, http: httpx.Client) -> None:
    told: list[str] = []
    with Client(url) as client:
        client.outcome(client.cut(CAT))
        told.append(client.welcome.model_dump_json())
        assert client.welcome.model == "my-model"
        place = f"/v1/sessions/{client.session}"
        names = ("", "/film.json", "/tokens", "/nothing", "/film.mp4?x=/etc/passwd")
        told.extend(http.get(place + name).text for name in names)
        directions = client.directions()
        for ask in (lambda: client.pin(10**6), lambda: client.undo(shot=99),
                    lambda: client.cut(" "), lambda: client.cut(CAT, images=[b"no"])):  # fmt: skip
            with pytest.raises(Exception, match=r".") as refused:
                ask()
            told.append(str(refused.value))
    assert (directions["model"], check_directions(directions)) == ("my-model", directions)
    paths = ("/v1/sessions", "/v1/videos", "/v1/openapi.json", "/v1/schema", "/%2e%2e/etc")
    told.extend(http.get(path).text for path in paths)
    told.append(http.post("/v1/videos", json={"prompt": CAT, "seconds": 1}).text)
    told.append(http.post("/v1/videos", json={"prompt": CAT, "model": "x"}).text)
    for text in told:
        assert "secret-folder" not in text
        assert not FOLDERS.search(text), text[:500]


def test_why_a_model_cannot_be_loaded_stays_with_the_server() -> None:
    async def ask() -> None:
        films = Films(FilmSettings(model="/nowhere/at/all"), Limits())
        with pytest.raises(NoModelError) as refused:
            await films.find_or_open(None)
        assert "nowhere" not in problem_of(refused.value).message
        assert films.model.progress().model == "all"

    asyncio.run(ask())


@pytest.mark.parametrize(
    "error,code,told",
    [
        (FullError("films: 4 are open"), "full", "films: 4 are open"),
        (ConfigError("text: wanted a word"), "refused", "text: wanted a word"),
        (WeightsError("/secret/x.safetensors: cut off"), "failed", "WeightsError"),
        (DeviceError("at /secret/cuda.cpp:7"), "failed", "DeviceError"),
        (FileNotFoundError("/secret/x"), "failed", "FileNotFoundError"),
    ],
)
def test_what_is_told_of_an_error(error: Exception, code: str, told: str) -> None:
    problem = problem_of(error)
    assert (problem.code, problem.retryable) == (code, code in RETRYABLE)
    assert told in problem.message
    assert "secret" not in problem.message


@pytest.mark.parametrize(
    "method,path,status,code",
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/sessions/", 404, "not_found"),
        ("PUT", "/v1/sessions", 405, "not_allowed"),
        ("PATCH", "/v1/videos", 405, "not_allowed"),
        ("GET", "/v1/sessions/none", 404, "not_found"),
        ("GET", "/v1/sessions/a%20b", 422, "malformed"),
        ("GET", "/v1/videos/none", 422, "malformed"),
        ("GET", "/v1/videos/video_0", 404, "not_found"),
    ],
)
def test_errors_have_one_form(
    http: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    answer = http.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    (error,) = answer.json().values()
    assert (error["code"], error["retryable"]) == (code, False)
    assert error["message"]
    if status == 405:
        assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff", b"[" * 9_000, b'{"seed": "\\ud800"}', b'{"\\ud800\\u0000": 1}', b"null x",
     b'{"seed": 1e400}', b'{"seed": NaN}'],
)  # fmt: skip
def test_what_is_no_body_is_refused(http: httpx.Client, body: bytes) -> None:
    answer = http.post("/v1/sessions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "malformed"


def test_a_long_body_is_not_read(http: httpx.Client) -> None:
    kind = {"Content-Type": "application/json"}

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    for content in (b" " * 20_000, pieces()):
        answer = http.post("/v1/videos", content=content, headers=kind)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert http.get("/v1/videos").status_code == 200


def test_pages_of_allowed_origins_may_ask(serving: Serving) -> None:
    with serving(origins=("https://a.test",)) as (server, _):
        address = server.address
        for path in ("/player.js", "/v1/schema"):
            answer = httpx.get(address + path, headers={"Origin": "https://a.test"})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "https://a.test"
        asked = httpx.options(
            f"{address}/v1/sessions",
            headers={"Origin": "https://a.test", "Access-Control-Request-Method": "POST"},
        )
        assert asked.status_code == 204
        assert "Authorization" in asked.headers["access-control-allow-headers"]
        refused = httpx.get(f"{address}/v1/sessions", headers={"Origin": "https://a.test"})
        assert refused.status_code == 401  # and the page may read why
        assert refused.headers["access-control-allow-origin"] == "https://a.test"
        other = httpx.options(f"{address}/v1/sessions", headers={"Origin": "https://b.test"})
        assert other.status_code == 403
        assert "access-control-allow-origin" not in other.headers
