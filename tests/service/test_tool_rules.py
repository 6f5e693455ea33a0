"""The checker's own cleaning rules (tools/sluice/rules.py) against the contract of the datasets.

SPDX-License-Identifier: Apache-2.0
"""
import base64
import json
import os
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))

from sluice import rules  # noqa: E402

POSTS = os.path.join(ROOT, "..", "shared", "data", "posts")


def row(dataset, obj):
    (kind, values), = rules.wash(dataset, json.dumps(obj).encode())
    assert kind == "row"
    return dict(zip(rules.COLUMNS[dataset], values))


def reasons(dataset, data):
    return [w[1] if w[0] == "reject" else "row" for w in rules.wash(dataset, data)]


@pytest.mark.parametrize("text, number", [
    ("437", 437), ("0", 0), ("136k", 136000), ("6M", 6000000), ("1.5k", 1500), ("1.2345k", 1234), ("1.9", 1),
    ("2b", 2000000000), ("9223372036854775807", 2 ** 63 - 1), ("9223372036854775808", None), ("9300000000B", None),
    ("User Info Error", None), ("", None), (" 5", None), ("5\n", None), ("-5", None), ("1.k", None), ("٣", None)])
def test_followers(text, number):
    assert row("pin", {"index": 1, "follower_count": text})["follower_count"] == number


def test_followers_as_number():
    for raw, number in (("12", 12), ("1.5", 1), ("1e3", None), ("-1", None)):
        (kind, values), = rules.wash("pin", ('{"index":1,"follower_count":%s}' % raw).encode())
        assert (kind, values[4]) == ("row", number)


@pytest.mark.parametrize("text, number", [
    ("1970-01-01 00:00:00", 0), ("2022-07-07T00:18:41", 1657153121000), ("2020-02-29 00:00:00.1239", 1582934400123),
    ("2020-01-01T00:00:00Z", 1577836800000), ("2020-01-01T02:00:00+02:00", 1577836800000), ("2021-02-29 00:00:00", None),
    ("2020:01:01", None), ("2020-01-01", None), ("2020-01-01 24:00:00", None), ("2020-13-01 00:00:00", None), (5, None)])
def test_instants(text, number):
    assert row("geo", {"ind": 1, "timestamp": text})["timestamp"] == number


@pytest.mark.parametrize("column, text", [(c, t) for c, ts in rules.NOTHING.items() if c != "follower_count" for t in ts])
def test_nothing_is_per_column_and_exact(column, text):
    assert row("pin", {"index": 1, column: text})[column] is None
    assert row("pin", {"index": 1, column: text + " "})[column] == text + " "
    assert row("pin", {"index": 1, "category": text})["category"] == text


def test_prefix_is_removed_once():
    assert row("pin", {"index": 1, "save_location": "Local save in Local save in /d"})["save_location"] == "Local save in /d"
    assert row("pin", {"index": 1, "save_location": "Local save in "})["save_location"] is None


def test_geo_and_user():
    assert row("geo", {"ind": 1, "latitude": 90, "longitude": -180.0})["coordinates"] == (90.0, -180.0)
    assert row("geo", {"ind": 1, "latitude": 90.01, "longitude": 0})["coordinates"] is None
    assert row("geo", {"ind": 1, "latitude": "1", "longitude": 0})["coordinates"] is None
    user = row("user", {"ind": "12", "first_name": "A", "last_name": "B ", "age": 151, "date_joined": None})
    assert user == {"ind": 12, "user_name": "A B ", "age": None, "date_joined": None}
    assert row("user", {"ind": 1, "first_name": "A"})["user_name"] is None


def test_lone_surrogate_is_null():
    (_, values), = rules.wash("pin", b'{"index":1,"title":"\\ud800","category":"\\ud83d\\ude00"}')
    assert values[2] is None and values[10] == "\U0001F600"


def test_shapes():
    one = {"ind": 7, "country": "Peru"}
    text = json.dumps(one)
    want = rules.wash("geo", text.encode())
    assert rules.wash("geo", json.dumps(text).encode()) == want
    assert rules.wash("geo", json.dumps(base64.b64encode(text.encode()).decode()).encode()) == want
    assert rules.wash("geo", b" [" + text.encode() + b" , " + text.encode() + b"]") == want * 2


def test_elements_of_an_array_are_judged_one_by_one():
    assert rules.wash("geo", b'[{"ind":1} , {"index": 2},3,{"ind":"x"}]') == [
        ("row", (1, None, None, None)), ("reject", "no_key", b'{"index": 2}'), ("reject", "not_an_object", b"3"),
        ("reject", "bad_key", b'{"ind":"x"}')]


@pytest.mark.parametrize("data, reason", [
    (None, "tombstone"), (b"", "not_json"), (b"{", "not_json"), (b'{"ind":1}x', "not_json"), (b'{"ind":1,"ind":1}', "not_json"),
    (b'{"ind":NaN}', "not_json"), (b'{"ind":01}', "not_json"), (b'"\xff"', "bad_utf8"), (b'"text"', "not_an_object"), (b"5", "not_an_object"),
    (b"null", "not_an_object"), (b"[]", "not_an_object"), (b'{"index":1}', "no_key"), (b'{"ind":1.0}', "bad_key"),
    (b'{"ind":9223372036854775808}', "bad_key"), (b'{"ind":"1 "}', "bad_key"), (b'"' + b"x" * (1 << 20) + b'"', "too_large")])
def test_rejects(data, reason):
    assert reasons("geo", data) == [reason]


@pytest.mark.skipif(not os.path.isdir(POSTS), reason="the real posts are not beside this clone")
@pytest.mark.parametrize("dataset", ["pin", "geo", "user"])
def test_real_posts_are_all_rows(dataset):
    with open(os.path.join(POSTS, dataset + ".jsonl"), "rb") as f:
        out = [rules.wash(dataset, line.rstrip(b"\n")) for line in f]
    assert len(out) == 877
    assert all(len(o) == 1 and o[0][0] == "row" and o[0][1][0] is not None for o in out)
