"""Decide whether licences allow commercial use, and reject weights that a policy does not allow."""

import re
from typing import Literal

from stylematte.errors import InputError, UsageError

Commercial = Literal["yes", "no", "unknown"]
POLICIES = ("any", "commercial")
POLICY_VARIABLE = "STYLEMATTE_POLICY"

# SPDX identifiers of licences that allow commercial use and require at most a notice.
_ALLOWING = frozenset(
    "apache-2.0 mit mit-0 bsd-2-clause bsd-3-clause isc 0bsd zlib unlicense cc0-1.0 cc-by-3.0 cc-by-4.0 "
    "bsl-1.0 ofl-1.1 cdla-permissive-2.0".split()
)
_RANKS: dict[str, tuple[Commercial, ...]] = {
    " or ": ("yes", "unknown", "no"),
    " and ": ("no", "unknown", "yes"),
}
# Creative Commons' NC, and wordings of authors who use no SPDX identifier.
_FORBIDDING = re.compile(r"-nc\b|-nc-|non-?\s?commercial|research[- ]only")


def commercial_use(licence: str) -> Commercial:
    """Return whether a licence allows commercial use.

    Args:
        licence: An SPDX expression or any text. `A AND B` requires both, `A OR B` the more permissive one.

    Returns:
        `yes` or `no` if it is certain; `unknown` for no licence, an unknown one, or one whose obligations
        depend on the use, as in the GPL family.
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
    """Reject weights that a policy does not allow.

    Args:
        policy: `any`, or `commercial`, which accepts only licences that clearly allow commercial use.
        what: Name of the weights, for the message.
        licence: Licence of the weights, as stated in their file or model card.

    Raises:
        UsageError: The policy does not exist.
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
    """Split at a word outside parentheses."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and text.startswith(word, index):
            parts.append(text[start:index])
            start = index + len(word)
    return [*parts, text[start:]]


def _without_brackets(text: str) -> str:
    """Remove parentheses around the whole text."""
    text = text.strip()
    while text.startswith("(") and text.endswith(")"):
        depth = 0
        for index, letter in enumerate(text):
            depth += (letter == "(") - (letter == ")")
            if depth == 0 and index < len(text) - 1:
                return text
        text = text[1:-1].strip()
    return text
