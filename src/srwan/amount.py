"""Amounts of tokens as people write and read them; everywhere else they are integers, microtokens.

One token is 10**6 microtokens. There is no float on the way: "0.1" is 100000 exactly, and what has more than six decimals is refused
rather than rounded.
"""

from __future__ import annotations

import re

__all__ = ["AMOUNT_MICROTOKEN_MAX", "MICROTOKENS", "format_tokens", "parse_amount"]

MICROTOKENS = 10**6
"""Microtokens of one token."""
AMOUNT_MICROTOKEN_MAX = 2**128 - 1
"""The most that the settlement contract can name."""
_TOKENS = re.compile(r"([0-9]{1,39})(?:\.([0-9]{1,6}))?(?: ?tokens?)?")
_MICROTOKENS = re.compile(r"([0-9]{1,39}) ?(?:u|microtokens?)")


def parse_amount(text: str) -> int:
    """Return the microtokens in "1.5", "1.5 tokens", "1500000u" or "1500000 microtokens".

    Raises:
        ValueError: it is not that, has a sign, an exponent or more than six decimals, or is beyond AMOUNT_MICROTOKEN_MAX. Says so.
    """
    if whole := _TOKENS.fullmatch(text.strip()):
        microtoken = int(whole[1]) * MICROTOKENS + int((whole[2] or "").ljust(6, "0"))
    elif small := _MICROTOKENS.fullmatch(text.strip()):
        microtoken = int(small[1])
    else:
        raise ValueError(f'{text[:60]!r} is no amount: give tokens with up to 6 decimals, as "1.5", or microtokens, as "1500000u"')
    if microtoken > AMOUNT_MICROTOKEN_MAX:
        raise ValueError(f"{text[:60]!r} is more than there can be: at most {format_tokens(AMOUNT_MICROTOKEN_MAX)} tokens")
    return microtoken


def format_tokens(microtoken: int) -> str:
    """Return an amount as tokens, exactly: "1.5", "0.000001", "-2"; `parse_amount` reads it back unless it is negative."""
    whole, rest = divmod(abs(microtoken), MICROTOKENS)
    sign = "-" if microtoken < 0 else ""
    return f"{sign}{whole}" + (f".{rest:06}".rstrip("0") if rest else "")
