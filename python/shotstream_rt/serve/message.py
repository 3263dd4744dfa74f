"""What all messages have in common; see ``protocol.py``."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..checks import MAX_PROMPT_CHARACTERS

VERSION = 1
"""Counted up when a message changes in a way that an older page or client would not understand."""

MOST = 2**31 - 1

Text = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
# A character that is no blank. \S would say so too, and mean others in every language.
_WORD = r"[^\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
Caption = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS, pattern=_WORD)]
WHOLE = BeforeValidator(lambda v: int(v) if type(v) is float and v.is_integer() else v)
"""Behind an integer in the body of a request: JSON has one kind of numbers, and 7.0 is 7."""
Seed = Annotated[int, Field(ge=0, le=2**53 - 1), WHOLE]
"""A noise seed in the body of a request: JSON's numbers are exact up to there."""
Number = Annotated[int, Field(ge=0, le=MOST)]
AskId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+$")]
SESSION_ID = r"^[A-Za-z0-9_-]+$"
SessionId = Annotated[str, Field(min_length=1, max_length=64, pattern=SESSION_ID)]


class Message(BaseModel):
    """A message: unknown fields and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
