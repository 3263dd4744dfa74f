"""What each token has used of the server: films, film made, messages."""

from __future__ import annotations

from .limits import Allowance, Limits
from .problems import FullError


class Account:
    """What one token has used. Used on the event loop's thread.

    Args:
        limits: of the server.
        name: of the token.

    Attributes:
        films: how many it has now: playing, waiting and asleep.
        film_s: seconds of film that were made for it.
        messages: how many it may send, over all its sockets.
    """

    def __init__(self, limits: Limits, name: str = "") -> None:
        self._limits, self.name = limits, name
        self.films, self.film_s = 0, 0.0
        self.messages = Allowance(limits.token_messages_per_second)

    def check_films(self) -> None:
        """Check that it may have another film.

        Raises:
            FullError: it has as many as may be.
        """
        most = self._limits.token_sessions
        if self.films >= most:
            raise FullError(f"films: this token has {self.films}, wanted at most {most}; close one")

    @property
    def used_up(self) -> bool:
        """Whether as much film was made for it as may be."""
        return self.film_s >= self._limits.token_film_s

    def check_film_s(self) -> None:
        """Check that film may be made for it.

        Raises:
            FullError: as much was made as may be.
        """
        if self.used_up:
            raise self.why_used_up

    @property
    def why_used_up(self) -> FullError:
        """What to tell when as much film was made as may be."""
        return FullError(
            f"film: {self._limits.token_film_s} seconds were made for this token, which is as much "
            "as may be; what there is can be downloaded"
        )


class Quotas:
    """The accounts of a server's tokens.

    Args:
        limits: of the server.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._accounts: dict[str, Account] = {}

    def account(self, name: str) -> Account:
        """Return a token's account.

        Args:
            name: of a token that the server knows, see ``Access``; so there are no more accounts
                than tokens.
        """
        if name not in self._accounts:
            self._accounts[name] = Account(self._limits, name)
        return self._accounts[name]
