"""Spans as Python sees them: an independent reader and writer of proto/span.proto, small and strict.

A row is a dict of its columns with `position`, `item` and `ingested_at_ms`; columns that are null are not there. A reject has
`reason` as text and `key` and `value` as bytes or None.
SPDX-License-Identifier: Apache-2.0
"""
import struct

PROVENANCE = (("position", "int"), ("item", "int"), ("ingested_at_ms", "int"))
DATASETS = {
    "pin": (("ind", "int"), ("unique_id", "str"), ("title", "str"), ("description", "str"), ("follower_count", "int"),
            ("poster_name", "str"), ("tag_list", "str"), ("is_image_or_video", "str"), ("image_src", "str"),
            ("save_location", "str"), ("category", "str")),
    "geo": (("ind", "int"), ("country", "str"), ("coordinates", "point"), ("timestamp", "int")),
    "user": (("ind", "int"), ("user_name", "str"), ("age", "int"), ("date_joined", "int")),
}
ORDER = ("pin", "geo", "user")
REASONS = ("not_json", "bad_utf8", "not_an_object", "no_key", "bad_key", "too_large", "tombstone")
REJECT = PROVENANCE + (("reason", "int"), ("detail", "str"), ("key", "bytes"), ("value", "bytes"))
HEAD = ("version", "source", "from", "to", "lost", "dataset", "rules", "rows", "rejects")


def _varint(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _field(number, kind, value):
    if kind == "int":
        return _varint(number << 3) + _varint(value)
    if kind == "point":
        value = b"".join(_varint(i << 3 | 1) + struct.pack("<d", d) for i, d in enumerate(value, 1))
    elif kind == "str":
        value = value.encode()
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _pack(table, values):
    return b"".join(_field(i, kind, values[name]) for i, (name, kind) in enumerate(table, 1) if values.get(name) is not None)


def encode(source, start, end, rows=(), rejects=(), dataset="pin", lost=False, version=1, counts=None):
    """The bytes of one span. Items are sorted as a span wants them, unless `counts` says that rules are to be broken."""
    number = ORDER.index(dataset) + 1
    items = [(r["position"], r.get("item", 0), 10 + number, _pack(PROVENANCE + DATASETS[dataset], {"item": 0, "ingested_at_ms": 0, **r}))
             for r in rows]
    items += [(r["position"], r.get("item", 0), 10, _pack(REJECT, {"item": 0, "ingested_at_ms": 0, **r, "reason": REASONS.index(r["reason"])}))
              for r in rejects]
    if counts is None:
        items.sort(key=lambda i: i[:2])
    head = [(1, "int", version), (2, "str", source), (3, "int", start), (4, "int", end)] + ([(5, "int", 1)] if lost else [])
    n_rows, n_rejects = counts or (len(rows), len(rejects))
    head += [(6, "int", number), (7, "int", 1), (8, "int", n_rows), (9, "int", n_rejects)]
    return b"".join(_field(*h) for h in head) + b"".join(_field(tag, "bytes", body) for _, _, tag, body in items)


def _read_varint(data, at):
    n = shift = 0
    while True:
        b = data[at]
        at += 1
        n |= (b & 0x7F) << shift
        if b < 0x80:
            return n, at
        shift += 7


def _fields(data):
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _read_varint(data, at)
            value -= (value >> 63) << 64
        elif wire == 1:
            value = struct.unpack("<d", data[at:at + 8])[0]
            at += 8
        elif wire == 2:
            n, at = _read_varint(data, at)
            assert at + n <= len(data), "cut off"
            value = data[at:at + n]
            at += n
        else:
            raise ValueError("wire type %d" % wire)
        yield number, value


def _unpack(table, data):
    out = {}
    for number, value in _fields(data):
        name, kind = table[number - 1]
        assert name not in out, "field %s twice" % name
        if kind == "str":
            value = value.decode()
        elif kind == "point":
            value = tuple(v for _, v in _fields(value))
        out[name] = value
    return out


class Span:
    """One decoded span: source, start, end, lost, dataset, rows, rejects (lists), items (both, in their order)."""

    def __init__(self, data):
        head, self.items = {}, []
        for number, value in _fields(data):
            if number < 10:
                assert HEAD[number - 1] not in head and not self.items
                head[HEAD[number - 1]] = value
                continue
            self.dataset = ORDER[head["dataset"] - 1]
            if number == 10:
                item = {"key": None, "value": None, **_unpack(REJECT, value)}
                item["reason"] = REASONS[item["reason"]]
            else:
                assert number == 11 + ORDER.index(self.dataset)
                item = _unpack(PROVENANCE + DATASETS[self.dataset], value)
            self.items.append(item)
        self.dataset = ORDER[head["dataset"] - 1]
        self.source, self.start, self.end = head["source"].decode(), head["from"], head["to"]
        self.lost = bool(head.get("lost"))
        self.rules = head["rules"]
        self.bytes = len(data)
        assert head["version"] == 1 and 0 <= self.start <= self.end
        self.rows = [i for i in self.items if "reason" not in i]
        self.rejects = [i for i in self.items if "reason" in i]
        assert head["rows"] == len(self.rows) and head["rejects"] == len(self.rejects)
        assert not (self.lost and self.items)
        places = [(i["position"], i["item"]) for i in self.items]
        assert places == sorted(set(places)) and all(self.start <= p < self.end for p, _ in places), places

    def __repr__(self):
        return "[%d,%d%s %dr %dx)" % (self.start, self.end, " lost" if self.lost else "", len(self.rows), len(self.rejects))


class Chain:
    """What a sink makes of spans in the order of the log: `wanted` per source, the rows and rejects, lost ranges, and holes."""

    def __init__(self):
        self.wanted, self.rows, self.rejects, self.lost, self.holes, self.spans = {}, [], [], [], [], []

    def take(self, span):
        self.spans.append(span)
        wanted = self.wanted.setdefault(span.source, 0)
        if span.start > wanted:
            self.holes.append((span.source, wanted, span.start))
        elif span.end > wanted:
            self.rows += [r for r in span.rows if r["position"] >= wanted]
            self.rejects += [r for r in span.rejects if r["position"] >= wanted]
            if span.lost:
                self.lost.append((max(span.start, wanted), span.end))
            self.wanted[span.source] = span.end
        return self
