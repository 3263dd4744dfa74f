"""The messages: their schema, what is read, what is refused and how."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from shotstream_rt.serve import protocol
from shotstream_rt.serve.from_viewer import ASKS, MalformedError, read_message
from shotstream_rt.serve.message import Caption


def test_the_schemas_are_schemas_and_name_every_message() -> None:
    schema = protocol.schema()
    for side in ("from_viewer", "from_server"):
        Draft202012Validator.check_schema(schema[side])
    assert set(schema["from_viewer"]["discriminator"]["mapping"]) == {"hello", *ASKS}
    assert len(schema["from_server"]["discriminator"]["mapping"]) == 16


EXAMPLES: list[dict[str, Any]] = [
    {"type": "hello", "token": "t", "session": "s1"},
    {"type": "cut", "id": "1", "text": "a red cat", "now": False, "images": ["aGk="]},
    {"type": "prompt", "id": "a-1", "text": "a red cat"},
    {"type": "retake", "id": "1"},
    {"type": "undo", "id": "1", "chunks": 2},
    {"type": "undo", "id": "1", "index": 0},
    {"type": "branch", "id": "1"},
    {"type": "pin", "id": "1", "index": 3},
    {"type": "cancel", "id": "2", "ask": "1"},
    {"type": "glass", "id": "2", "ask": "1", "ms": 312.5},
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: m["type"])
def test_a_message_is_read_as_its_schema_says(message: dict[str, Any]) -> None:
    Draft202012Validator(protocol.schema()["from_viewer"]).validate(message)
    # JSON has lists where Python's message has a tuple.
    assert (
        json.loads(read_message(json.dumps(message)).model_dump_json()).items() >= message.items()
    )


@pytest.mark.parametrize(
    "text,ask,reason",
    [
        ("", None, "JSON"),
        ("[" * 100_000, None, "JSON"),
        (b"\xff\xfe", None, "JSON"),
        ("[]", None, "message"),
        ('{"type": "dance", "id": "7"}', "7", "dance"),
        ('{"type": "cut", "id": "7"}', "7", "text"),
        ('{"type": "cut", "id": "7", "text": ""}', "7", "text"),
        (json.dumps({"type": "cut", "id": "7", "text": "x" * 10_001}), "7", "at most 10000"),
        ('{"type": "cut", "id": "7", "text": "a", "nwo": true}', "7", "nwo"),
        ('{"type": "cut", "id": "7", "text": "a", "now": 1}', "7", "now"),
        ('{"type": "undo", "id": "7"}', "7", "exactly one"),
        ('{"type": "undo", "id": "7", "chunks": 1, "shot": 0}', "7", "exactly one"),
        ('{"type": "pin", "id": "7", "index": -1}', "7", "index"),
        ('{"type": "pin", "id": "7", "index": 1e99}', "7", "index"),
        ('{"type": "glass", "id": "7", "ask": "1", "ms": 0}', "7", "ms"),
        ('{"type": "glass", "id": "7", "ask": "1", "ms": 60001}', "7", "ms"),
        ('{"type": "glass", "id": "7", "ask": "1", "ms": NaN}', "7", "ms"),
        ('{"type": "glass", "id": "7", "ask": "1", "ms": 1e999}', "7", "ms"),
        ('{"type": "retake", "id": "<b>"}', None, "id"),
        ('{"type": "retake", "id": 7}', None, "id"),
    ],
)
def test_what_is_no_message_is_refused_by_name(
    text: str | bytes, ask: str | None, reason: str
) -> None:
    with pytest.raises(MalformedError, match=reason) as refused:
        read_message(text)
    assert refused.value.ask == ask
    assert len(str(refused.value)) < 500


def test_a_caption_has_a_word_as_the_session_sees_it() -> None:
    caption: TypeAdapter[str] = TypeAdapter(Caption)
    for number in (*range(0xD800), *range(0xE000, 0x11000)):
        if chr(number).isspace():
            with pytest.raises(ValidationError):
                caption.validate_python(chr(number))
        else:
            assert caption.validate_python(chr(number))
