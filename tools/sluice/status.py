"""status: one table of the whole stack: ready or not, rates, lag, restarts.

SPDX-License-Identifier: Apache-2.0
"""
import json
import time

from . import ask, http, kafka, redis, settle, stack

# What counts as records in and out of each service (requests and rows of query-api): the first metric that is there.
RECEIVED, SENT = "sluice_records_received_total", "sluice_records_sent_total"
FLOW = {
    "gateway": ((RECEIVED,), (SENT,)),
    "producer": ((RECEIVED, "sluice_producer_records_total"), (SENT, "sluice_producer_confirmed_total")),
    "cleaner": (("sluice_cleaner_records_total",), ("sluice_cleaner_rows_total",)),
    "sink-s3": (("sluice_sink_spans_total",), ("sluice_sink_rows_total",)),
    "query-api": (("sluice_http_requests_total",), ("sluice_query_rows_returned_total", "sluice_query_rows_returned_sum",
                                                    "sluice_query_rows_total")),
}


def flow(samples, service):
    """(in, out) totals of one scrape; None where the service has no such metric."""
    totals = []
    for names in FLOW[service]:
        found = [name for name in names if any(n == name for n, _, _ in samples)]
        totals.append(sum(v for n, _, v in samples if n == found[0]) if found else None)
    return totals


def _scrape(value):
    out = {}
    for name, url in value["admin"].items():
        try:
            out[name] = (time.monotonic(), flow(http.metrics(url, 3), stack.split_name(name)[0]))
        except http.HttpError:
            pass
    return out


def lags(value):
    """{"cleaner": records, "sink-s3": records}: raw records not yet confirmed, and not yet in the tables."""
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


def collect(value, pause=1.0):
    """Everything that `status` shows, as plain values."""
    first = _scrape(value)
    time.sleep(pause)
    second = _scrape(value)
    lag, holes = lags(value)
    rows = []
    for name in ["kafka", "redis"] + list(value["admin"]):
        service = stack.split_name(name)[0]
        pid = value["pids"].get(name)
        row = {"name": name, "pid": pid, "restarts": value.get("restarts", {}).get(name, 0), "in_per_s": None,
               "out_per_s": None, "lag": lag.get(service)}
        if service in ("kafka", "redis"):
            if name not in value["pids"] and name not in value.get("restarts", {}):
                continue
            host, _, port = value[name].rpartition(":")
            row["ready"] = (kafka.broker_answers if name == "kafka" else redis.ping)(host, int(port))
            row["detail"] = "" if row["ready"] else "does not answer"
        else:
            row["ready"], row["detail"] = http.ready(value["admin"][name], 3)
        if name in first and name in second:
            took = second[name][0] - first[name][0]
            for key, a, b in zip(("in_per_s", "out_per_s"), first[name][1], second[name][1]):
                if a is not None and b is not None:
                    row[key] = round(max(0.0, b - a) / took, 1)
        row["address"] = value.get(name) or value["admin"].get(name)
        rows.append(row)
    return {"state": value.get("state"), "runner": value.get("runner"),
            "runner_alive": bool(stack.Lock(value["state"]).holder()), "services": rows,
            "holes": [{"sink": h[0], "source": h[1], "wanted": h[2], "from": h[3]} for h in holes]}


def main(state, as_json):
    value = stack.load(state)
    value.setdefault("state", state)
    result = collect(value)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        rows = [{"name": r["name"], "ready": "yes" if r["ready"] else "NO", "pid": r["pid"], "in/s": r["in_per_s"],
                 "out/s": r["out_per_s"], "lag": r["lag"], "restarts": r["restarts"], "address": r["address"],
                 "detail": r["detail"]} for r in result["services"]]
        for line in ask.table(["name", "ready", "pid", "in/s", "out/s", "lag", "restarts", "address", "detail"], rows):
            print(line.rstrip())
        for h in result["holes"]:
            print("hole: %(source)s wants %(wanted)s, the clean topic goes on at %(from)s (`./sluice repair`)" % h)
        if not result["runner_alive"]:
            print("the runner is gone: nothing is restarted; `./sluice up` takes over, `./sluice down` cleans up")
    return 0 if all(r["ready"] for r in result["services"]) and result["runner_alive"] and not result["holes"] else 1
