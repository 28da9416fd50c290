"""Output of `stylematte models show`: a few lines; --json has the rest."""

import json
from collections.abc import Iterator
from typing import Any

WIDTH = 100  # of values with unlimited length


def card_lines(facts: dict[str, Any]) -> Iterator[str]:
    """Format the facts of `stylematte models show --json` for one screen.

    Args:
        facts: Facts of one file.
    """
    yield f"{facts['name']}: {facts['summary']}" if facts["summary"] else str(facts["name"])
    verified = "matches the card" if facts["sha256_agrees_with_card"] else "not stated by a card"
    rows = {
        "kind": _kind(facts),
        "file": f"{facts['file']} ({megabytes(facts['bytes'])}, {facts['where']})",
        "sha256": f"{facts['sha256']} ({verified})",
        "licence": facts["licence"] or "not stated",
        **{key: facts[key] for key in ("commercial_use", "source") if facts.get(key)},
        **_network(facts["contract"] or facts["network"]),
        **{key: _said(key, value) for key, value in facts["provenance"].items()},
    }
    if not facts["provenance"]:
        rows["trained on"] = "not stated"
    rows["more"] = "run the same command with --json"
    width = max(map(len, rows)) + 2
    for key, value in rows.items():
        yield f"  {key.replace('_', ' ').ljust(width)}{value}"


def megabytes(count: int) -> str:
    """Format a size in MB."""
    return f"{count / 1e6:.1f} MB"


def _kind(facts: dict[str, Any]) -> str:
    if facts["kind"] == "model":
        precision = facts["contract"].get("precision", "")
        return f"model, {precision}" if precision else "model"
    if facts["network"].get("network"):
        return "weights of a generator, for `stylematte synth` and `stylematte train gan`"
    return "weights for training, and for `stylematte export`"


def _network(known: dict[str, Any]) -> dict[str, str]:
    """Return rows for a model's contract, or for the network that weights name."""
    rows = {}
    if preset := known.get("preset"):
        parts = [str(preset)]
        if known.get("working_size"):
            parts.append(
                f"input of about {known['working_size']}² pixels, sides multiples of {known['stride']}"
            )
        if good := known.get("good_sizes"):
            parts.append(f"trained for sizes from {good[0]} to {good[1]}")
        if sizes := known.get("working_sizes"):
            parts.append("only takes " + ", ".join(f"{height}x{width}" for height, width in sizes))
        if known.get("changes"):
            parts.append(f"with {_short(known['changes'])}")
        rows["network"] = "; ".join(parts)
    elif config := known.get("config"):
        rows["network"] = f"{known['network']}: {_short(config)}"
    if known.get("refiner"):
        rows["refiner"] = f"{known['refiner']}, for hair and fur"
    if found := known.get("parity"):
        rows["parity"] = (
            f"alpha differs from {found.get('reference', 'its weights')} by at most "
            f"{found.get('max_difference', float('nan')):.1e}, over {found.get('pictures', 0)} images"
        )
    return rows


def _said(key: str, value: Any) -> str:
    """Format one entry of the provenance, whose content depends on the training."""
    if isinstance(value, dict) and value and all(_count(entry) is not None for entry in value.values()):
        return ", ".join(f"{name.replace('_', ' ')} {_count(entry):,}" for name, entry in value.items())
    if isinstance(value, list) and value and all(isinstance(s, dict) and "name" in s for s in value):
        return "; ".join(f"{s['name']} {s['steps']:,}" if "steps" in s else str(s["name"]) for s in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if key == "scores" and isinstance(value, dict):
        return ", ".join(
            f"{name} {n:.4g}" if isinstance(n, float) else f"{name} {n}" for name, n in value.items()
        )
    return value if isinstance(value, str) else _short(value)


def _count(entry: Any) -> int | None:
    """Return the number of images of a data set, if the entry has it."""
    found = entry.get("trained_on") if isinstance(entry, dict) else entry
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 2]} …"
