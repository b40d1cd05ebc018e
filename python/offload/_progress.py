"""One line on a terminal: what tiers hold, what is waited for. Nothing elsewhere."""
import os
import sys
import time

from ._size import bytes_text

_EVERY_S = 1 / 6


class Progress:
    """Of one context: written over itself, at most six times a second."""

    def __init__(self):
        self.shown = 0.0
        self.before = self.began = None  # statistics of the last line, and when
        self.open = False

    def show(self, core, text):
        now = time.monotonic()
        if not _terminal() or (now - self.shown < _EVERY_S):
            return
        stats = core.stats()
        line = self.line(stats, text, now)
        self.shown, self.before, self.began, self.open = now, stats, now, True
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        sys.stderr.write("\r" + line[:max(columns - 1, 20)] + "\x1b[K")
        sys.stderr.flush()

    def line(self, stats, text, now):
        """Stall and rates are those since the last line."""
        parts = [_printable(text)] if text else []
        for tier in ("device", "host", "nvme"):
            if stats[tier + "_budget_bytes"]:
                parts.append(f"{tier} {bytes_text(stats[tier + '_used_bytes'])} of {bytes_text(stats[tier + '_budget_bytes'])}")
        if self.before and now > self.began:
            took = now - self.began
            parts.append(f"stall {min((stats['stall_ns'] - self.before['stall_ns']) / 1e9 / took, 1):.0%}")
            for name, key in (("read", "nvme_read_bytes"), ("written", "nvme_write_bytes")):
                rate = (stats[key] - self.before[key]) / took
                if rate:
                    parts.append(f"{name} {bytes_text(rate)}/s")
        return " | ".join(parts)

    def end(self):
        """The line stays, and what comes next begins below it."""
        if self.open and _terminal():
            self.open = False
            sys.stderr.write("\n")
            sys.stderr.flush()


def _printable(text):
    """Without control characters: names come from files."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def _terminal():
    try:
        return os.isatty(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # none, closed, or an object that stands for it
        return False
