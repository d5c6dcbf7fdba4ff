"""Steps that put stand-ins where a text names people's addresses. The stand-ins are FineWeb's.

The first address of a text gets the first stand-in, and so on in turn: nothing depends on other texts."""

import ipaddress
import re
from collections.abc import Sequence
from itertools import cycle
from typing import Annotated

from pydantic import Field

StandIns = Annotated[Sequence[str], Field(min_length=1)]
EMAILS = ("email@example.com", "firstname.lastname@example.org")
# Addresses that belonged to nobody when FineWeb chose them.
IPS = ("22.214.171.124", "126.96.36.199", "188.8.131.52", "184.108.40.206", "220.127.116.11", "18.104.22.168")
# Possessive, and never tried from inside a name: linear in any text. Dots may stand anywhere: better one too many.
_NAME = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(rf"(?<![{_NAME}.-])[{_NAME}.-]++@(?:{_LABEL}\.)+{_LABEL}")
_NUMBERS = re.compile(r"[0-9]++(?:\.[0-9]++){3,}+")  # with all their neighbours: longer rows are no addresses


def mask_email(text: str, stand_ins: StandIns = EMAILS) -> str:
    """Every e-mail address."""
    if "@" not in text:
        return text
    following = cycle(stand_ins)
    return _EMAIL.sub(lambda _: next(following), text)


def mask_ip(text: str, stand_ins: StandIns = IPS, public_only: bool = True) -> str:
    """Every IPv4 address; with `public_only` private, local and reserved ones stay. Longer rows of numbers are none."""
    following = cycle(stand_ins)

    def replace(found: re.Match[str]) -> str:
        return next(following) if _is_address(found[0], public_only) else found[0]

    return _NUMBERS.sub(replace, text)


def _is_address(numbers: str, public_only: bool) -> bool:
    try:
        address = ipaddress.IPv4Address(numbers)
    except ValueError:  # too many, too large, or with leading zeros, of which nobody says what they mean
        return False
    return address.is_global or not public_only
