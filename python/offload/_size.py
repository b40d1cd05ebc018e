"""Bytes as people write them."""
import re

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size(value):
    """Bytes of 8192, "512K", "8GiB" or "1.5T": units are powers of 1024."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"a size of {value} bytes")
        return value
    m = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(value), re.IGNORECASE)
    if not m:
        raise ValueError(f"{value!r} is no size: a number of bytes, or one with K, M, G or T, as in '8GiB'")
    return int(float(m[1]) * _UNITS[m[2].upper()])


def bytes_text(n):
    """8589934592 as "8.0 GiB"."""
    for name, unit in reversed(_UNITS.items()):
        if name and n >= unit:
            return f"{n / unit:.1f} {name}iB"
    return f"{n:.0f} bytes"
