"""Licences as facts: what they say about commercial use, and refusing weights that are not allowed."""

import re
from typing import Literal

from stylematte.errors import InputError, UsageError

Commercial = Literal["yes", "no", "unknown"]
POLICIES = ("any", "commercial")
POLICY_VARIABLE = "STYLEMATTE_POLICY"

# SPDX names whose text allows commercial use and asks for no more than a notice.
_ALLOWING = frozenset(
    "apache-2.0 mit mit-0 bsd-2-clause bsd-3-clause isc 0bsd zlib unlicense cc0-1.0 cc-by-3.0 cc-by-4.0 "
    "bsl-1.0 ofl-1.1 cdla-permissive-2.0".split()
)
# NC of Creative Commons; and what authors write where they have no SPDX name.
_RANKS: dict[str, tuple[Commercial, ...]] = {
    " or ": ("yes", "unknown", "no"),
    " and ": ("no", "unknown", "yes"),
}
_FORBIDDING = re.compile(r"-nc\b|-nc-|non-?\s?commercial|research[- ]only")


def commercial_use(licence: str) -> Commercial:
    """Say whether a licence allows commercial use.

    Args:
        licence: An SPDX expression, or any text. Of `A AND B` both count, of `A OR B` the better one.

    Returns:
        `unknown` wherever it is not plain: no licence, one that is not known here, or one with duties that
        depend on the use, as those of the GPL family do.
    """
    text = licence.strip().lower()
    if not text:
        return "unknown"
    text = _without_brackets(text)
    for word, ranks in _RANKS.items():
        parts = _split(text, word)  # OR first: AND binds closer
        if len(parts) > 1:
            found = {commercial_use(part) for part in parts}
            return next(rank for rank in ranks if rank in found)
    if _FORBIDDING.search(text):
        return "no"
    return "yes" if text in _ALLOWING else "unknown"


def check_policy(policy: str, what: str, licence: str) -> None:
    """Refuse weights that a policy does not allow.

    Args:
        policy: `any`, or `commercial`, which takes what clearly allows commercial use, and nothing else.
        what: The weights, for the message.
        licence: Of the weights, as their file or card states it.

    Raises:
        UsageError: No such policy.
        InputError: The policy does not allow these weights.
    """
    if policy not in POLICIES:
        raise UsageError(
            f"policy {policy!r} is not known",
            f"Choose {' or '.join(POLICIES)}, as --policy or {POLICY_VARIABLE}",
        )
    if policy == "any":
        return
    use = commercial_use(licence)
    if use != "yes":
        stated = f"their licence is {licence}" if licence else "no licence is stated for them"
        reason = (
            "which forbids commercial use"
            if use == "no"
            else "and that does not clearly allow commercial use"
        )
        raise InputError(
            f"policy commercial: {what}: {stated}, {reason}",
            "`stylematte models list` shows which weights are allowed; --policy any allows all",
        )


def _split(text: str, word: str) -> list[str]:
    """Split where a word stands outside brackets."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and text.startswith(word, index):
            parts.append(text[start:index])
            start = index + len(word)
    return [*parts, text[start:]]


def _without_brackets(text: str) -> str:
    """Take off a pair of brackets around the whole."""
    text = text.strip()
    while text.startswith("(") and text.endswith(")"):
        depth = 0
        for index, letter in enumerate(text):
            depth += (letter == "(") - (letter == ")")
            if depth == 0 and index < len(text) - 1:
                return text
        text = text[1:-1].strip()
    return text
