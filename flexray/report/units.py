"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SCALES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def count(n: float) -> str:
    """Three digits: 1234567 as `1.23 M`."""
    unit, scale = next(((u, s) for u, s in SCALES if abs(n) >= 0.9995 * s), ("", 1.0))
    value = n / scale
    if not unit:
        return f"{n:.0f}"
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f} {unit}"


def size(n: float) -> str:
    """Bytes in decimal units: 1234567 as `1.23 MB`."""
    text = count(n).replace("k", "K")
    return text + ("B" if text[-1].isalpha() else " B")


def duration(seconds: float) -> str:
    """65.2 as `1 min 05 s`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def many(n: int, what: str) -> str:
    """`1 actor`, `4 actors`."""
    return f"{n} {what}" + ("" if n == 1 else "s")


def span(values: Sequence[int]) -> str:
    """`12–40`, or one number where all are equal."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def spent(privacy: Mapping[str, float]) -> str:
    """`   ε 2.31`, or nothing where that is not counted."""
    return f"   ε {privacy['epsilon']:.2f}" if "epsilon" in privacy else ""
