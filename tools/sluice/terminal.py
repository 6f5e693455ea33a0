"""What people see: tables with bars, and a bar of progress, no wider than their terminal.

SPDX-License-Identifier: Apache-2.0
"""
import os
import sys
import unicodedata

BAR, LEAST_BAR, LEAST_CELL = 24, 4, 8


def columns(out):
    """The width of the terminal that `out` is; None where it is none."""
    try:
        return os.get_terminal_size(out.fileno()).columns or None if out.isatty() else None
    except (OSError, ValueError):
        return None


def width(text):
    """How many columns a terminal uses for the text."""
    n = 0
    for ch in text:
        if unicodedata.combining(ch) or unicodedata.category(ch) in ("Cf", "Me", "Mn"):
            continue
        n += 2 if unicodedata.east_asian_width(ch) in "WF" else 1
    return n


def shorten(text, most):
    """The text in at most so many columns; what is left out shows as an ellipsis."""
    if width(text) <= most:
        return text
    kept, n = "", 0
    for ch in text:
        n += width(ch)
        if n > most - 1:
            break
        kept += ch
    return kept + "…"


def cell(value):
    if value is None:
        return "-"
    if isinstance(value, float):
        return "%d" % value if value == int(value) and abs(value) < 1e15 else "%.2f" % value
    text = str(value)
    return "".join(ch if ch.isprintable() else " " for ch in text)


def is_count(name):
    return name.endswith("_count") or name.startswith("number_") or name.startswith("median_")


def _fit(wide, numeric, most):
    """Takes from the widest columns of words until all of them stand in a line of `most`."""
    wide = list(wide)
    words = [i for i in range(len(wide)) if not numeric[i]]
    while words and sum(wide) + 2 * (len(wide) - 1) > most:
        widest = max(words, key=lambda i: wide[i])
        if wide[widest] <= LEAST_CELL:
            break
        wide[widest] -= 1
    return wide


def table(names, rows, shown=None, most=None):
    """Lays out rows (dicts) under their names, in lines of at most `most` columns where that is given.

    Numbers stand to the right; behind the last count comes a bar, where there is room for one.
    """
    part = rows if shown is None else rows[:shown]
    numeric = [bool(rows) and all(r.get(c) is None or isinstance(r.get(c), (int, float)) for r in rows) for c in names]
    text = [[cell(r.get(c)) for c in names] for r in part]
    wide = [max([width(c)] + [width(t[i]) for t in text]) for i, c in enumerate(names)]
    if most:
        wide = _fit(wide, numeric, most)
    counts = [c for c, n in zip(names, numeric) if n and is_count(c)]
    top = max([r.get(counts[-1]) or 0 for r in rows], default=0) if counts else 0
    room = min(BAR, most - sum(wide) - 2 * len(wide)) if most else BAR

    def line(cells):
        out = []
        for text, n, right in zip(cells, wide, numeric):
            text = shorten(text, n)
            pad = " " * (n - width(text))
            out.append(pad + text if right else text + pad)
        return "  ".join(out)

    def bar(value):
        return "  " + "#" * max(1 if value > 0 else 0, int(round(room * value / top))) if top > 0 and room >= LEAST_BAR else ""
    lines = [line(names).rstrip(), "  ".join("-" * n for n in wide)]
    lines += [(line(cells) + (bar(row.get(counts[-1]) or 0) if counts else "")).rstrip() for cells, row in zip(text, part)]
    if len(part) < len(rows):
        lines.append("… %d more" % (len(rows) - len(part)))
    return lines


class Progress:
    """A bar on a terminal; elsewhere one line for every tenth, or nothing."""

    def __init__(self, label, out=None, lines=True):
        self.label = label
        self.out = out or sys.stdout
        self.lines = lines
        self.tenth = -1
        self.drawn = False

    def show(self, done, total):
        if not total:
            return
        share = min(1.0, done / total)
        most = columns(self.out)
        if most:
            self._draw(share, "%3d %%  %d of %d" % (100 * share, done, total), most - 1)
        elif self.lines and int(share * 10) > self.tenth:
            self.tenth = int(share * 10)
            self.out.write("%s %d %% (%d of %d)\n" % (self.label, 100 * share, done, total))
        self.out.flush()

    def _draw(self, share, text, most):
        room = min(40, most - len(self.label) - len(text) - 4)
        full = int(room * share)
        bar = "[%s%s] " % ("#" * full, "." * (room - full)) if room >= LEAST_BAR else ""
        self.out.write("\r" + ("%s %s%s" % (self.label, bar, text)).ljust(most)[:most])
        self.drawn = True

    def end(self):
        if self.drawn:
            self.out.write("\n")
            self.out.flush()
            self.drawn = False
