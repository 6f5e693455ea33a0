"""ask: the answers of query-api as tables in the terminal, with bars for counts.

SPDX-License-Identifier: Apache-2.0
"""
import sys
import unicodedata
import urllib.parse

from . import http, stack
from .stack import Trouble

BAR = 24
SHORT = 12


def width(text):
    """How many columns a terminal uses for the text."""
    n = 0
    for ch in text:
        if unicodedata.combining(ch) or unicodedata.category(ch) in ("Cf", "Me", "Mn"):
            continue
        n += 2 if unicodedata.east_asian_width(ch) in "WF" else 1
    return n


def cell(value):
    if value is None:
        return "-"
    if isinstance(value, float):
        return "%d" % value if value == int(value) and abs(value) < 1e15 else "%.2f" % value
    text = str(value)
    return "".join(ch if ch.isprintable() else " " for ch in text)


def is_count(name):
    return name.endswith("_count") or name.startswith("number_") or name.startswith("median_")


def table(columns, rows, shown=None):
    """Lays out rows (dicts) under their columns; numbers to the right, a bar behind the count."""
    part = rows if shown is None else rows[:shown]
    numeric = {c for c in columns if rows and all(isinstance(r.get(c), (int, float)) or r.get(c) is None for r in rows)}
    counts = [c for c in columns if c in numeric and is_count(c)]
    top = max([r.get(counts[-1]) or 0 for r in rows], default=0) if counts else 0
    text = [[cell(r.get(c)) for c in columns] for r in part]
    wide = [max([width(c)] + [width(t[i]) for t in text]) for i, c in enumerate(columns)]

    def line(cells):
        out = []
        for i, c in enumerate(columns):
            pad = " " * (wide[i] - width(cells[i]))
            out.append(pad + cells[i] if c in numeric else cells[i] + pad)
        return "  ".join(out)
    lines = [line(columns), "  ".join("-" * w for w in wide)]
    for cells, row in zip(text, part):
        bar = ""
        if top > 0:
            bar = "  " + "#" * max(1 if (row.get(counts[-1]) or 0) > 0 else 0,
                                   int(round(BAR * (row.get(counts[-1]) or 0) / top)))
        lines.append((line(cells) + bar).rstrip())
    if len(part) < len(rows):
        lines.append("… %d more" % (len(rows) - len(part)))
    return lines


def _base(value):
    if not value.get("query_api"):
        raise Trouble("this stack has no query-api")
    return value["query_api"]


def questions(value):
    """The names of all questions, in the order of query-api."""
    try:
        answer = http.get_json(_base(value) + "/v1/questions", 10)
    except http.HttpError as e:
        raise Trouble("query-api does not answer: %s" % e)
    if isinstance(answer, dict):
        answer = answer.get("questions") or answer.get("data") or []
    return [q["name"] if isinstance(q, dict) else q for q in answer]


def fetch(value, name, params, timeout=60):
    """One answer: (parsed JSON, table versions it came from)."""
    url = "%s/v1/questions/%s" % (_base(value), urllib.parse.quote(name, safe=""))
    if params:
        url += "?" + urllib.parse.urlencode(params)
    try:
        status, headers, data = http.request("GET", url, headers={"Accept": "application/json"}, timeout=timeout)
        if status != 200:
            hint = "; there are: " + ", ".join(questions(value)) if status == 404 else ""
            raise Trouble("%s: HTTP %d: %s%s" % (name, status, http.problem(data), hint))
        return http._parse(url, status, data), headers.get("sluice-table-versions", "")
    except http.HttpError as e:
        raise Trouble("query-api does not answer: %s" % e)


def show(value, name, params, shown=None, out=None):
    """Prints one answer, headed by its name."""
    out = out or sys.stdout
    answer, versions = fetch(value, name, params)
    rows = answer.get("data", [])
    columns = [m["name"] for m in answer.get("meta", [])] or (list(rows[0]) if rows else [])
    head = name + "".join(" %s=%s" % p for p in params)
    note = "%d row%s" % (len(rows), "" if len(rows) == 1 else "s")
    out.write("\n%s  (%s%s)\n" % (head, note, ", from " + versions if versions else ""))
    for line in table(columns, rows, shown):
        out.write("  " + line + "\n")
    return len(rows)


def parse_params(words):
    out = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise Trouble("%s: write key=value, for example top=1" % word)
        out.append((key, text))
    return out


def main(state, name, words, everything=False):
    value = stack.load(state)
    if name and "=" not in name:
        show(value, name, parse_params(words))
        return 0
    params = parse_params(([name] if name else []) + words)
    for question in questions(value):
        show(value, question, params, None if everything else SHORT)
    return 0
