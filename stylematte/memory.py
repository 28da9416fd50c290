"""The size of the memory."""

import os


def usable_bytes() -> int | None:
    """Return the memory of this machine or the limit of its container; None if the system does not tell."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            total = min(total, int(file.read()))
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        pass
    return total
