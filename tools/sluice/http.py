"""Small HTTP client for the stack's own ports: JSON in, JSON out, a time-out on every call.

SPDX-License-Identifier: Apache-2.0
"""
import http.client
import json
import urllib.parse


class HttpError(Exception):
    """The peer could not be reached, or what it said was no answer. `status` is 0 without a reply."""

    def __init__(self, text, status=0, body=b""):
        super().__init__(text)
        self.status = status
        self.body = body


def request(method, url, body=None, headers=None, timeout=5.0):
    """Returns (status, headers as a dict in lower case, body bytes); raises HttpError without a reply."""
    parts = urllib.parse.urlsplit(url)
    path = parts.path or "/"
    if parts.query:
        path += "?" + parts.query
    conn = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout)
    try:
        conn.request(method, path, body=body, headers=headers or {})
        reply = conn.getresponse()
        data = reply.read()
        return reply.status, {k.lower(): v for k, v in reply.getheaders()}, data
    except (OSError, http.client.HTTPException) as e:
        raise HttpError("%s %s: %s" % (method, url, e or type(e).__name__)) from e
    finally:
        conn.close()


def parse_json(url, status, data):
    try:
        return json.loads(data.decode("utf-8")) if data else None
    except ValueError as e:
        raise HttpError("%s: the answer is no JSON: %s" % (url, e), status, data) from e


def get_json(url, timeout=5.0, accept="application/json"):
    """GETs JSON; any status but 200 raises HttpError with the status and the body."""
    status, _, data = request("GET", url, headers={"Accept": accept}, timeout=timeout)
    if status != 200:
        raise HttpError("GET %s: HTTP %d: %s" % (url, status, problem(data)), status, data)
    return parse_json(url, status, data)


def post_json(url, value, timeout=10.0):
    """POSTs JSON; returns (status, parsed body or None)."""
    status, _, data = request("POST", url, body=json.dumps(value).encode(),
                              headers={"Content-Type": "application/json"}, timeout=timeout)
    try:
        return status, parse_json(url, status, data)
    except HttpError:
        return status, {"error": data.decode("utf-8", "replace")}


def problem(data):
    """The readable part of an error body: RFC 9457, the REST Proxy's shape, or the text itself."""
    try:
        value = json.loads(data.decode("utf-8"))
        for key in ("detail", "message", "error", "title"):
            if isinstance(value, dict) and value.get(key):
                return str(value[key])
    except ValueError:
        pass
    return data.decode("utf-8", "replace").strip()[:300]


def ready(admin_url, timeout=2.0):
    """Asks /readyz. Returns (ready, reason): reason names the failing checks or the network error."""
    try:
        status, _, data = request("GET", admin_url + "/readyz", timeout=timeout)
    except HttpError as e:
        return False, str(e)
    if status == 200:
        return True, ""
    try:
        checks = json.loads(data.decode("utf-8")).get("checks", [])
        bad = ["%s: %s" % (c.get("name"), c.get("detail") or "not ok") for c in checks if not c.get("ok")]
        return False, "; ".join(bad) or "HTTP %d" % status
    except (ValueError, AttributeError):
        return False, "HTTP %d: %s" % (status, problem(data))


def metrics(admin_url, timeout=5.0):
    """Scrapes /metrics: a list of (name, labels dict, value)."""
    status, _, data = request("GET", admin_url + "/metrics", timeout=timeout)
    if status != 200:
        raise HttpError("GET %s/metrics: HTTP %d" % (admin_url, status), status, data)
    return parse_metrics(data.decode("utf-8", "replace"))


def parse_metrics(text):
    """Parses the Prometheus text format as far as our own services use it."""
    out = []
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        labels = {}
        if "{" in line:
            name, rest = line.split("{", 1)
            inner, _, tail = rest.rpartition("}")
            for item in _split_labels(inner):
                key, _, value = item.partition("=")
                labels[key.strip()] = value.strip().strip('"')
        else:
            name, _, tail = line.partition(" ")
        try:
            out.append((name, labels, float(tail.split()[0])))
        except (ValueError, IndexError):
            continue
    return out


def _split_labels(text):
    item, quoted, skip = "", False, False
    for ch in text:
        if skip:
            skip = False
        elif ch == "\\":
            skip = True
        elif ch == '"':
            quoted = not quoted
        elif ch == "," and not quoted:
            yield item
            item = ""
            continue
        item += ch
    if item.strip():
        yield item
