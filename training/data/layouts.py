"""The public data sets as they lie on disk once unpacked."""

LAYOUTS: dict[str, None] = {"plain": None}
