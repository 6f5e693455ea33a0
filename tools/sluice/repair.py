"""repair: ends a hole. Sets the cleaner back to what the clean table wants, or accepts the loss.

SPDX-License-Identifier: Apache-2.0
"""
import sys

from . import http, settle, stack
from .stack import DATASETS, Trouble


def find_source(states, text):
    """The full source for 'kafka:demo.pin:0:ID', or for a part of it such as 'demo.pin:0'."""
    known = {s for d in DATASETS for s in settle.wanted(states, d)[0]}
    known |= {h[1] for h in settle.open_holes(states)}
    if text in known:
        return text
    part = text if text.startswith("kafka:") else "kafka:" + text
    hits = sorted(s for s in known if s.startswith(part + ":"))
    if len(hits) == 1:
        return hits[0]
    if text.count(":") >= 3:
        return text
    raise Trouble("%s names %s; there are:\n  %s" % (text, "more than one source" if hits else "no source",
                                                     "\n  ".join(sorted(known)) or "none yet"))


def position_wanted(states, source):
    parts = source.split(":")
    dataset = parts[1].rpartition(".")[2] if len(parts) > 1 else ""
    if dataset not in DATASETS:
        raise Trouble("%s: no dataset of ours (the topic must end in .pin, .geo or .user)" % source)
    return settle.wanted(states, dataset)[0].get(source, 0)


def main(state, text, order):
    value = stack.load(state)
    states, errors = settle.sink_states(value)
    if not states:
        raise Trouble("no sink answers, and only they know what the tables want:\n  %s" % "\n  ".join(errors or ["no sink"]))
    holes = settle.open_holes(states)
    if text is None or order is None:
        for sink, source, want, first in holes:
            print("%s: wanted %s, the clean topic goes on at %s (seen by %s)" % (source, want, first, sink))
        print("%d open hole%s" % (len(holes), "" if len(holes) == 1 else "s"))
        if text is not None:
            raise Trouble("say --rewind (read the raw records again) or --accept (they are gone: write them off)")
        return 1 if holes else 0
    source = find_source(states, text)
    position = position_wanted(states, source)
    tried = []
    for name, url in stack.replicas(value, "cleaner"):
        try:
            status, answer = http.post_json("%s/orders/%s" % (url, order), {"source": source, "position": position})
        except http.HttpError as e:
            tried.append("%s: %s" % (name, e))
            continue
        if status == 200:
            print("%s: %s" % (source, "the cleaner (%s) reads again from position %d" % (name, position) if order == "rewind"
                              else "the cleaner (%s) declared lost what cannot be read from position %d on" % (name, position)))
            print("`./sluice settle` says when the tables have dealt with it")
            return 0
        tried.append("%s: HTTP %d: %s" % (name, status, (answer or {}).get("error", "")))
    print("no cleaner took the order for %s:" % source, file=sys.stderr)
    for line in tried:
        print("  " + line, file=sys.stderr)
    return 1
