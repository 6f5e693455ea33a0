"""status: one table of the whole stack: ready or not, rates, lag, restarts.

SPDX-License-Identifier: Apache-2.0
"""
import json
import sys
import time

from . import http, kafka, redis, settle, stack, terminal

# What counts as in and out of each service: records, but rows out of the sink, and of query-api requests and rows.
FLOW = {
    "gateway": (("sluice_records_received_total", {}), ("sluice_records_sent_total", {})),
    "producer": (("sluice_producer_sent_records_total", {}), ("sluice_producer_records_total", {"result": "stored"})),
    "cleaner": (("sluice_cleaner_records_total", {}), ("sluice_cleaner_rows_total", {})),
    "sink-s3": (None, ("sluice_sink_rows_total", {})),
    "query-api": (("sluice_http_requests_total", {}), ("sluice_query_rows_total", {})),
}


def flow(samples, service):
    """(in, out) totals of one scrape; what has not happened yet is 0, what a service does not count is None."""
    return [what and sum(v for n, labels, v in samples if n == what[0] and what[1].items() <= labels.items()) for what in FLOW.get(service, (None, None))]


def _scrape(value):
    out = {}
    for name, url in value["admin"].items():
        try:
            out[name] = (time.monotonic(), flow(http.metrics(url, 3), stack.split_name(name)[0]))
        except http.HttpError:
            pass
    return out


def lags(value):
    """({"cleaner": records, "sink-s3": records}, holes): raw records not yet confirmed, and not yet in the tables."""
    ends, confirmed = {}, {}
    for _, url in stack.replicas(value, "cleaner"):
        try:
            for s in http.get_json(url + "/debug/state", 3)["cleaner"]["sources"]:
                ends[s["source"]] = max(ends.get(s["source"], 0), s.get("end") or 0)
                confirmed[s["source"]] = max(confirmed.get(s["source"], 0), s.get("confirmed") or 0)
        except (http.HttpError, KeyError, TypeError):
            pass
    states, _ = settle.sink_states(value, 3)
    out = {}
    if ends:
        out["cleaner"] = sum(max(0, end - confirmed[s]) for s, end in ends.items())
        if states:
            have = {}
            for dataset in stack.DATASETS:
                have.update(settle.wanted(states, dataset)[0])
            out["sink-s3"] = sum(max(0, end - have.get(s, 0)) for s, end in ends.items())
    return out, settle.open_holes(states)


def _names(value):
    """In the order of the way of a record; Kafka and Redis where they are ours."""
    ours = set(value["pids"]) | set(value.get("restarts", {}))
    out = []
    for service in stack.WAY:
        out += [service] if service in ours and service in stack.PARTS else [n for n, _ in stack.replicas(value, service)]
    return out


def _ready(value, name):
    """(ready, why not)"""
    if name not in stack.PARTS:
        return http.ready(value["admin"][name], 3)
    host, _, port = value[name].rpartition(":")
    ok = (kafka.broker_answers if name == "kafka" else redis.ping)(host, int(port))
    return ok, "" if ok else "does not answer"


def collect(value, pause=1.0):
    """Everything that `status` shows, as plain values."""
    first = _scrape(value)
    time.sleep(pause)
    second = _scrape(value)
    lag, holes = lags(value)
    rows = []
    for name in _names(value):
        row = {"name": name, "pid": value["pids"].get(name), "restarts": value.get("restarts", {}).get(name, 0),
               "in_per_s": None, "out_per_s": None, "lag": lag.get(stack.split_name(name)[0]),
               "address": value.get(name.replace("-", "_")) or value["admin"].get(name)}
        row["ready"], row["detail"] = _ready(value, name)
        if name in first and name in second:
            took = second[name][0] - first[name][0]
            for key, a, b in zip(("in_per_s", "out_per_s"), first[name][1], second[name][1]):
                if a is not None:
                    row[key] = round(max(0.0, b - a) / took, 1)
        rows.append(row)
    return {"state": value.get("state"), "runner": value.get("runner"),
            "runner_alive": bool(stack.Lock(value["state"]).holder()), "services": rows,
            "holes": [{"sink": h[0], "source": h[1], "wanted": h[2], "from": h[3]} for h in holes]}


def _show(result):
    rate = {"in/s": "in_per_s", "out/s": "out_per_s"}
    rows = [dict(r, ready="yes" if r["ready"] else "NO", **{k: r[v] if r[v] is None else round(r[v]) for k, v in rate.items()})
            for r in result["services"]]
    names = ["name", "ready", "pid", "in/s", "out/s", "lag", "restarts", "address"]
    for line in terminal.table(names, rows, most=terminal.columns(sys.stdout)):
        print(line)
    for r in result["services"]:
        if not r["ready"]:
            print("%s is not ready: %s" % (r["name"], r["detail"]))
    for h in result["holes"]:
        print("hole: %(source)s wants %(wanted)s, the clean topic goes on at %(from)s (`./sluice repair`)" % h)
    if not result["runner_alive"]:
        print("the runner is gone: nothing is restarted; `./sluice up` takes over, `./sluice down` cleans up")


def main(state, as_json):
    value = stack.load(state)
    value.setdefault("state", state)
    result = collect(value)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        _show(result)
    return 0 if all(r["ready"] for r in result["services"]) and result["runner_alive"] and not result["holes"] else 1
