"""Random numbers, words and names without repetition."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable

from evaluation.texts import words


def distinct(draw: Callable[[], str], count: int) -> list[str]:
    """Return distinct draws in order; a larger number of draws begins with the same ones."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw()] = None
    return list(found)


def seven_digits(rng: random.Random) -> str:
    """Return a number of seven digits."""
    return str(rng.randint(1_000_000, 9_999_999))


def two_words(rng: random.Random) -> str:
    """Return an adjective and a noun joined by a hyphen, one of about six million pairs."""
    return f"{rng.choice(words('adjective'))}-{rng.choice(words('noun'))}"


def random_uuid(rng: random.Random) -> str:
    """Return a UUID of version 4."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def letters(rng: random.Random, alphabet: str, count: int) -> str:
    """Return a given number of letters of an alphabet."""
    return "".join(rng.choices(alphabet, k=count))
