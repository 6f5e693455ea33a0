"""ask: the answers of query-api as tables in the terminal, with bars for counts.

SPDX-License-Identifier: Apache-2.0
"""
import sys
import urllib.parse

from . import http, stack, terminal
from .stack import Trouble, Usage

SHORT = 12


def _base(value):
    if not value.get("query_api"):
        raise Trouble("this stack has no query-api")
    return value["query_api"]


def questions(value):
    """{name: names of its parameters} of all questions, in the order of query-api."""
    try:
        answer = http.get_json(_base(value) + "/v1/questions", 10)
    except http.HttpError as e:
        raise Trouble("query-api does not answer: %s" % e) from e
    return {q["name"]: [p["name"] for p in q.get("parameters", ()) if p["name"] != "format"] for q in answer["questions"]}


def _hint(value, name, status):
    """What would have been right, for a question that was refused."""
    known = questions(value) if status in (400, 404) else {}
    if name in known:
        return "\nits parameters: " + ", ".join(known[name])
    return "\nthe questions: " + ", ".join(known) if known else ""


def fetch(value, name, params, timeout=60):
    """One answer: (parsed JSON, table versions it came from)."""
    url = "%s/v1/questions/%s" % (_base(value), urllib.parse.quote(name, safe=""))
    url += "?" + urllib.parse.urlencode(params) if params else ""
    if "format" in dict(params):
        raise Trouble("ask prints tables; other formats come from query-api itself: curl '%s'" % url)
    try:
        status, headers, data = http.request("GET", url, headers={"Accept": "application/json"}, timeout=timeout)
        if status != 200:
            raise Trouble("%s: HTTP %d: %s%s" % (name, status, http.problem(data), _hint(value, name, status)))
        return http.parse_json(url, status, data), headers.get("sluice-table-versions", "")
    except http.HttpError as e:
        raise Trouble("query-api does not answer: %s" % e) from e


def show(value, name, params, shown=None, out=None):
    """Prints one answer, headed by its name."""
    out = out or sys.stdout
    answer, versions = fetch(value, name, params)
    rows = answer.get("data", [])
    names = [m["name"] for m in answer.get("meta", [])] or (list(rows[0]) if rows else [])
    head = name + "".join(" %s=%s" % p for p in params)
    note = "%d row%s" % (len(rows), "" if len(rows) == 1 else "s")
    out.write("\n%s  (%s%s)\n" % (head, note, ", from " + versions if versions else ""))
    most = terminal.columns(out)
    for line in terminal.table(names, rows, shown, most and most - 2):
        out.write("  " + line + "\n")
    return len(rows)


def parse_params(words):
    out = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise Usage("%s: write key=value, for example top=1" % word)
        out.append((key, text))
    return out


def main(state, name, words, everything=False):
    value = stack.load(state)
    if name and "=" not in name:
        show(value, name, parse_params(words))
        return 0
    params = parse_params(([name] if name else []) + words)
    known = questions(value)
    fitting = [q for q, its in known.items() if all(key in its for key, _ in params)]
    if not fitting:
        raise Trouble("no question has all of these parameters: %s" % ", ".join(key for key, _ in params))
    for question in fitting:
        show(value, question, params, None if everything else SHORT)
    return 0
