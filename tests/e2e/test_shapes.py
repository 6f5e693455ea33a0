"""Every row, sentinel and message shape of the datasets, through the gateway into tables and answers; poison blocks nothing.

What is written here by hand is the description's own words: each case says which row, or which reject, must come out.
SPDX-License-Identifier: Apache-2.0
"""
import base64
import datetime
import json

import pytest

import rig
from support import evidence, expected

UTC = datetime.timezone.utc
ELLIPSIS = "\u2026\u00a0"
PIN = {"index": 1, "unique_id": "fbe53c66-3442-4773-b19e-d3ec6f54dddf", "title": "No Title Data Available", "description": "d",
       "poster_name": "p", "follower_count": "437", "tag_list": "a,b", "is_image_or_video": "image", "image_src": "https://i/x.jpg",
       "downloaded": 1, "save_location": "Local save in /data/mens-fashion", "category": "mens-fashion"}
GEO = {"ind": 1, "timestamp": "2018-03-25T19:16:02", "latitude": -41.4, "longitude": 76.1, "country": "Isle of Man"}
USER = {"ind": 1, "first_name": "Brittany", "last_name": "Jones", "age": 32, "date_joined": "2016-04-02 03:51:23"}
BASE = {"pin": PIN, "geo": GEO, "user": USER}
KEY = {"pin": "index", "geo": "ind", "user": "ind"}


def at(*parts):
    return datetime.datetime(*parts, tzinfo=UTC)


# (dataset, what is sent instead, what the row then has)
FIELDS = [
    # Sentinels, each by exact equality, each in its own column only.
    ("pin", {"title": "No Title Data Available"}, {"title": None}),
    ("pin", {"title": "no title data available"}, {"title": "no title data available"}),
    ("pin", {"title": "Untitled"}, {"title": "Untitled"}),
    ("pin", {"title": ""}, {"title": None}),
    ("pin", {"title": None}, {"title": None}),
    ("pin", {"title": 5}, {"title": None}),
    ("pin", {"title": 'say "hi"\n\U0001f600 '}, {"title": 'say "hi"\n\U0001f600 '}),
    ("pin", {"description": "No description available Story format"}, {"description": None}),
    ("pin", {"description": "No description available"}, {"description": None}),
    ("pin", {"description": "Untitled"}, {"description": None}),
    ("pin", {"description": "Untitled "}, {"description": "Untitled "}),
    ("pin", {"description": "Art."}, {"description": "Art."}),
    ("pin", {"description": "so it goes" + ELLIPSIS}, {"description": "so it goes" + ELLIPSIS}),
    ("pin", {"poster_name": "User Info Error"}, {"poster_name": None}),
    ("pin", {"poster_name": "Ann, of \u00c5rhus  "}, {"poster_name": "Ann, of \u00c5rhus  "}),
    ("pin", {"tag_list": "N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"}, {"tag_list": None}),
    ("pin", {"image_src": "Image src error."}, {"image_src": None}),
    ("pin", {"image_src": "Image src error"}, {"image_src": "Image src error"}),
    ("pin", {"is_image_or_video": "multi-video(story page format)"}, {"is_image_or_video": "multi-video(story page format)"}),
    ("pin", {"is_image_or_video": "video"}, {"is_image_or_video": "video"}),
    ("pin", {"unique_id": ""}, {"unique_id": None}),
    ("pin", {"save_location": "Local save in Local save in /data/x"}, {"save_location": "Local save in /data/x"}),
    ("pin", {"save_location": "/data/x"}, {"save_location": "/data/x"}),
    ("pin", {"save_location": "Local save in "}, {"save_location": None}),
    ("pin", {"save_location": "Local save in"}, {"save_location": "Local save in"}),
    ("pin", {"category": ""}, {"category": None}),
    ("pin", {"something": {"else": [1, 2]}}, {}),
    # Followers, in exact decimal arithmetic.
    ("pin", {"follower_count": "User Info Error"}, {"follower_count": None}),
    ("pin", {"follower_count": "0"}, {"follower_count": 0}),
    ("pin", {"follower_count": "136k"}, {"follower_count": 136000}),
    ("pin", {"follower_count": "6M"}, {"follower_count": 6000000}),
    ("pin", {"follower_count": "1.2K"}, {"follower_count": 1200}),
    ("pin", {"follower_count": "4.35m"}, {"follower_count": 4350000}),
    ("pin", {"follower_count": "2b"}, {"follower_count": 2000000000}),
    ("pin", {"follower_count": "1.2345k"}, {"follower_count": 1234}),
    ("pin", {"follower_count": "12.9"}, {"follower_count": 12}),
    ("pin", {"follower_count": "9223372036854775807"}, {"follower_count": 9223372036854775807}),
    ("pin", {"follower_count": "9223372036854775808"}, {"follower_count": None}),
    ("pin", {"follower_count": 77}, {"follower_count": 77}),
    ("pin", {"follower_count": "77 "}, {"follower_count": None}),
    ("pin", {"follower_count": "-1"}, {"follower_count": None}),
    ("pin", {"follower_count": "k"}, {"follower_count": None}),
    ("pin", {"index": "9000000000"}, {"ind": 9000000000}),
    # Places.
    ("geo", {"latitude": 90, "longitude": -180}, {"coordinates": [90.0, -180.0]}),
    ("geo", {"latitude": 90.001}, {"coordinates": None}),
    ("geo", {"longitude": -180.5}, {"coordinates": None}),
    ("geo", {"latitude": None}, {"coordinates": None}),
    ("geo", {"longitude": "76.1"}, {"coordinates": None}),
    ("geo", {"country": "C\u00f4te d'Ivoire"}, {"country": "C\u00f4te d'Ivoire"}),
    ("geo", {"country": ""}, {"country": None}),
    # Times: without a zone they are UTC.
    ("geo", {"timestamp": "2018-03-25 19:16:02"}, {"timestamp": at(2018, 3, 25, 19, 16, 2)}),
    ("geo", {"timestamp": "2018-03-25T19:16:02Z"}, {"timestamp": at(2018, 3, 25, 19, 16, 2)}),
    ("geo", {"timestamp": "2018-03-25T19:16:02.1239+02:00"}, {"timestamp": at(2018, 3, 25, 17, 16, 2, 123000)}),
    ("geo", {"timestamp": "2020-02-29T00:00:00"}, {"timestamp": at(2020, 2, 29)}),
    ("geo", {"timestamp": "2019-02-29T00:00:00"}, {"timestamp": None}),
    ("geo", {"timestamp": "2018:03:25 19:16:02"}, {"timestamp": None}),
    ("geo", {"timestamp": "2018-03-25"}, {"timestamp": None}),
    # Users.
    ("user", {"first_name": "Ann", "last_name": "Lee"}, {"user_name": "Ann Lee"}),
    ("user", {"last_name": None}, {"user_name": None}),
    ("user", {"first_name": ""}, {"user_name": None}),
    ("user", {"age": 0}, {"age": 0}),
    ("user", {"age": 150}, {"age": 150}),
    ("user", {"age": 151}, {"age": None}),
    ("user", {"age": -1}, {"age": None}),
    ("user", {"age": "32"}, {"age": None}),
    ("user", {"age": 32.0}, {"age": None}),
    ("user", {"date_joined": "2017-10-18T00:00:00-01:30"}, {"date_joined": at(2017, 10, 18, 1, 30)}),
]

# (dataset, value as JSON text, [per item: the row's ind, or the reason of its reject])
def twice(value):
    return json.dumps(json.dumps(value))


def based(value):
    return json.dumps(base64.b64encode(json.dumps(value).encode()).decode())


def with_key(dataset, key):
    return dict(BASE[dataset], **{KEY[dataset]: key})


SHAPES = [
    ("pin", json.dumps(with_key("pin", 5001)), [5001]),
    ("pin", json.dumps([with_key("pin", 5002), with_key("pin", 5003)]), [5002, 5003]),
    ("user", json.dumps([with_key("user", n) for n in range(6000, 6250)]), list(range(6000, 6250))),
    ("geo", twice(with_key("geo", 5004)), [5004]),
    ("geo", based(with_key("geo", 5005)), [5005]),
    ("geo", json.dumps([with_key("geo", 5006), {"ind": "x"}, 7, {"country": "Peru"}, with_key("geo", 5007), None]),
     [5006, "bad_key", "not_an_object", "no_key", 5007, "not_an_object"]),
    ("pin", "null", ["tombstone"]),
    ("pin", "17", ["not_an_object"]),
    ("pin", "true", ["not_an_object"]),
    ("pin", '"some words"', ["not_an_object"]),
    ("pin", "[]", ["not_an_object"]),
    ("pin", "{}", ["no_key"]),
    ("user", json.dumps(PIN), ["no_key"]),
    ("user", json.dumps(dict(USER, ind=None)), ["no_key"]),
    ("user", json.dumps(dict(USER, ind=1.5)), ["bad_key"]),
    ("user", '{"ind":1e3,"age":3}', ["bad_key"]),
    ("user", json.dumps(dict(USER, ind="12a")), ["bad_key"]),
    ("user", json.dumps(dict(USER, ind=2 ** 63)), ["bad_key"]),
    ("user", '{"ind":-5}', [-5]),
    ("user", '{"ind":1,"age":3,"age":3}', ["not_json"]),
]
# Sent as binary, so that the gateway does not look into them.
BINARY = [
    ("pin", b"\xff\xfe{}", "bad_utf8"),
    ("pin", b'{"index":1', "not_json"),
    ("pin", b"", "not_json"),
    ("geo", b'{"ind":1} trailing', "not_json"),
    ("geo", b"{'ind':1}", "not_json"),
    ("geo", b'{"ind":01}', "not_json"),
    ("user", b"[" * 2000 + b"]" * 2000, "not_json"),
    ("user", b'{"ind":1,"first_name":"\xed\xa0\x80"}', "bad_utf8"),
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with rig.Stack(tmp_path_factory.mktemp("shapes"), settings=rig.FLUSH) as s:
        yield s


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    with rig.Stack(tmp_path_factory.mktemp("kept"), settings=rig.FLUSH + ["sink-s3.copies=keep"]) as s:
        yield s


def send(stack, dataset, texts):
    """Values as JSON text, in one request, byte for byte; their offsets."""
    body = b'{"records":[' + b",".join(b'{"value":' + t.encode() + b"}" for t in texts) + b"]}"
    status, answer = stack.post_raw(stack.topic(dataset), body)
    assert status == 200, answer
    assert all(o.get("offset") is not None for o in answer["offsets"]), answer
    return [o["offset"] for o in answer["offsets"]]


def rows_of(stack, dataset):
    return {(r["_position"], r["_item"]): r for r in evidence.read_table(stack.value, dataset)}


def test_fields_and_sentinels(stack):
    sent = {}
    for n, (dataset, change, _) in enumerate(FIELDS):
        value = dict(BASE[dataset], **{KEY[dataset]: 100 + n}, **{k: v for k, v in change.items() if k != KEY[dataset]})
        value.update(change)
        sent.setdefault(dataset, []).append((n, json.dumps(value)))
    offsets = {}
    for dataset, values in sent.items():
        for (n, _), offset in zip(values, send(stack, dataset, [t for _, t in values])):
            offsets[n] = offset
    # A lone surrogate can be written in JSON, but not stored.
    lone = send(stack, "pin", [json.dumps(dict(PIN, index=990)).replace('"description": "d"', '"description": "\\ud800"')])[0]
    stack.settle()
    tables = {d: rows_of(stack, d) for d in rig.DATASETS}
    for n, (dataset, change, wanted) in enumerate(FIELDS):
        row = tables[dataset][offsets[n], 0]
        assert row["ind"] == wanted.get("ind", 100 + n)
        for column, value in wanted.items():
            assert row[column] == value, (dataset, change, column)
    whole = tables["pin"][offsets[10], 0]
    assert (whole["save_location"], whole["follower_count"], whole["category"]) == ("/data/mens-fashion", 437, "mens-fashion")
    assert "downloaded" not in whole
    assert tables["pin"][lone, 0]["description"] is None and tables["pin"][lone, 0]["ind"] == 990
    stack.verify()


def test_message_shapes_and_rejects(stack):
    want_rows, want_dead = [], []
    for dataset, text, items in SHAPES:
        offset = send(stack, dataset, [text])[0]
        for item, what in enumerate(items):
            (want_dead if isinstance(what, str) else want_rows).append((dataset, offset, item, what))
    for dataset, data, reason in BINARY:
        body = {"records": [{"key": base64.b64encode(b"k\x00").decode(), "value": base64.b64encode(data).decode()}]}
        status, answer = stack.post_raw(stack.topic(dataset), body, content="application/vnd.kafka.binary.v2+json")
        assert status == 200 and "offset" in answer["offsets"][0], answer
        want_dead.append((dataset, answer["offsets"][0]["offset"], 0, reason))
    stack.settle()
    tables = {d: rows_of(stack, d) for d in rig.DATASETS}
    for dataset, offset, item, ind in want_rows:
        assert tables[dataset][offset, item]["ind"] == ind, (dataset, offset, item)
    dead = {(r["dataset"], r["_position"], r["_item"]): r for r in evidence.read_table(stack.value, "dead")}
    for dataset, offset, item, reason in want_dead:
        assert dead[dataset, offset, item]["reason"] == reason, (dataset, offset, item)
        assert (offset, item) not in tables[dataset]
    binary = {(r["dataset"], r["_position"]): r for r in dead.values()}
    for (dataset, data, _), (_, offset, _, _) in zip(BINARY, want_dead[-len(BINARY):]):
        assert binary[dataset, offset]["value"] == data and binary[dataset, offset]["key"] == b"k\x00"
    stack.verify()


def test_poison_never_blocks(stack):
    """Ten of each kind, and a good record behind them: it arrives, in its order."""
    for dataset in rig.DATASETS:
        for n in range(10):
            for who, data, _ in BINARY:
                body = {"records": [{"value": base64.b64encode(data).decode()}]}
                assert stack.post_raw(stack.topic(dataset), body, content="application/vnd.kafka.binary.v2+json")[0] == 200
            send(stack, dataset, ["null", json.dumps(with_key(dataset, 7000 + n)), "[[[]]]", "{}"])
    stack.settle()
    for dataset in rig.DATASETS:
        found = [r["ind"] for r in evidence.read_table(stack.value, dataset) if 7000 <= r["ind"] < 7010]
        assert found == list(range(7000, 7010))
    stack.verify()


def test_copies(stack, kept):
    """Equal clean bytes are one row with drop and each a row with keep; the newest of a key answers."""
    for s, rows in ((stack, 2), (kept, 4)):
        send(s, "pin", [json.dumps(with_key("pin", 8000))])
        s.settle()
        # The same content in other bytes: `downloaded` is not stored, key order and unknown fields do not matter.
        other = dict(reversed(list(with_key("pin", 8000).items())), downloaded=0, extra=1)
        send(s, "pin", [json.dumps(other), json.dumps(with_key("pin", 8000))])
        send(s, "pin", [json.dumps(dict(with_key("pin", 8000), category="art"))])
        s.settle()
        mine = [r for r in evidence.read_table(s.value, "pin") if r["ind"] == 8000]
        assert len(mine) == rows
        assert mine[-1]["category"] == "art"
        s.verify()


def test_answers_with_copies_in_the_table(kept):
    """dedup, median, distinct and top on rows that stand several times, each with what plain Python makes of it."""
    categories, countries = ["art", "travel", "finance"], ["Albania", "Norway"]
    for n in range(60):
        ind = 9000 + n % 40
        send(kept, "pin", [json.dumps(dict(with_key("pin", ind), category=categories[n % 3], follower_count="%dk" % (n * 7 % 50),
                                           poster_name="poster %d" % (n % 9)))])
        send(kept, "geo", [json.dumps(dict(with_key("geo", ind), country=countries[n % 2], timestamp="20%d-01-01 00:00:00" % (17 + n % 6)))])
        send(kept, "user", [json.dumps(dict(with_key("user", ind), age=15 + n, first_name="N%d" % (n % 11),
                                            date_joined="201%d-05-05T05:05:05" % (4 + n % 5)))] * (1 + n % 2))
    kept.settle()
    tables, _ = evidence.expected_tables(kept.value, "keep")
    rows = [tables[d] for d in rig.DATASETS]
    seen = set()
    for name in expected.QUESTIONS:
        for given in ({}, {"dedup": "off"}, {"median": "lower"}, {"median": "lower", "dedup": "off"}, {"distinct": "person"},
                      {"distinct": "person", "dedup": "off"}, {"top": 1}, {"limit": 1}):
            if ("median" in given and not name.startswith("median")) or ("distinct" in given and name != "users-joined-by-year") or \
                    ("top" in given and name != "category-posts-by-year"):
                continue
            answer = kept.ask(name, **given)
            assert answer["data"] == expected.answer(name, *rows, **given), (name, given)
            seen.add((name, json.dumps(answer["data"])))
    # The parameters make a difference on these rows, or they would prove nothing.
    assert len([1 for name, _ in seen if name == "users-joined-by-year"]) >= 3
    assert len([1 for name, _ in seen if name == "median-followers-by-age"]) >= 3
    assert len([1 for name, _ in seen if name == "category-posts-by-year"]) >= 3
