"""The cleaning rules twice: lib/data against the checker's own (tools/sluice/rules.py), on thousands of records from one seed.

The two were written apart from one description and share nothing. What they disagree on is a bug in one of them.
SPDX-License-Identifier: Apache-2.0
"""
import base64
import json
import os
import random
import subprocess

import pytest

from sluice import rules

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SLUICE_BUILD", os.path.join(ROOT, "build", "test"))
POSTS = os.environ.get("SLUICE_POSTS") or os.path.join(ROOT, "..", "shared", "data", "posts")
RECORD_MAX = 8 << 10

POST = {
    "pin": {"index": 1, "unique_id": "fbe53c66", "title": "T", "description": "d\u2026\u00a0", "poster_name": "p ", "follower_count": "136k",
            "tag_list": "a,b", "is_image_or_video": "multi-video(story page format)", "image_src": "https://i/x.jpg", "downloaded": 1,
            "save_location": "Local save in /data/art", "category": "art"},
    "geo": {"ind": 2, "timestamp": "2018-03-25T19:16:02", "latitude": -41.4, "longitude": 76.1, "country": "C\u00f4te d'Ivoire"},
    "user": {"ind": 3, "first_name": "Ann", "last_name": "Lee", "age": 32, "date_joined": "2016-04-02 03:51:23"},
}
NOTHING = sorted({text for texts in rules.NOTHING.values() for text in texts})
TEXTS = NOTHING + [t + " " for t in NOTHING] + [t.lower() for t in NOTHING] + [
    "", " ", "\u0000", "\ud800", "a\udc00b", "\U0001f600", "\ufeff", "Local save in ", "Local save in", "Local save in Local save in x", "null",
    "x" * 300, "\u2028", "e\u0301", "\n", '"', "\\"]
COUNTS = ["0", "437", "1.5k", "1.2345K", "0.0001k", "6M", "2b", "9223372036854775807", "9223372036854775808", "9223372036.854775807B",
          "9223372036.854775808B", "k", ".5k", "1.k", "-1", "+1", " 1", "1 ", "1\n", "1e3", "1,000", "\u0663", "1kk", "00", "1K\u0000", "\uff11"]
TIMES = ["2018-03-25 19:16:02", "2018-03-25T19:16:02Z", "2018-03-25T19:16:02.1", "2018-03-25T19:16:02.1239+02:00", "2018-03-25T19:16:02-23:59",
         "2018-03-25T19:16:02+24:00", "2018-03-25T19:16:02+2:00", "2018-03-25T19:16:02+0200", "2018-03-25T19:16:02.", "2018-03-25T19:16:02z",
         "2018-03-25t19:16:02", "2018:03:25 19:16:02", "2018-03-25", "2020-02-29 00:00:00", "2019-02-29 00:00:00", "1900-02-29 00:00:00",
         "2000-02-29 00:00:00", "0000-01-01 00:00:00", "0001-01-01 00:00:00", "0001-01-01 00:00:00+00:01", "9999-12-31 23:59:59.9999",
         "9999-12-31 23:59:59-00:01", "2018-13-01 00:00:00", "2018-00-01 00:00:00", "2018-04-31 00:00:00", "2018-01-01 24:00:00",
         "2018-01-01 23:60:00", "2018-01-01 23:59:60", "1969-12-31 23:59:59.9999", "2018-03-25 19:16:02 ", "\u0662018-03-25 19:16:02"]
# As JSON text, so that each digit arrives as it is written.
NUMBERS = ["0", "-0", "1", "-1", "150", "151", "32.0", "3.2e1", "1E2", "90", "90.0", "90.000000001", "-90", "180", "-180.00000000000001", "0.1",
           "89.99999999999999999999", "1e-400", "5e-324", "1e999", "-1e999", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
           "-9223372036854775809", "123456789012345678901234567890", "12.123456789012345678", "0.000001", "4.35", "1.0e0", "10" * 40]
OTHERS = ["null", "true", "false", "[]", "{}", "[1]", '{"a":1,"a":2}', '{"index":1}', "[[[]]]"]
BROKEN = ["", "01", "1.", ".5", "+1", "tru", "NaN", "Infinity", "'x'", '"\\q"', '"\x01"', '"\\u12"', '"', "{", "[", "[1,]", '{"a":1,}', '{"a"}', "1 2"]


def json_text(r, text):
    return json.dumps(text) if r.random() < 0.6 else json.dumps(text, ensure_ascii=False).replace("\ud800", "\\ud800").replace("\udc00", "\\udc00")


def odd(r):
    pool = r.choice([TEXTS, COUNTS, TIMES, NUMBERS, NUMBERS, OTHERS])
    text = r.choice(pool)
    return text if pool in (NUMBERS, OTHERS) else json_text(r, text)


def record(r, dataset):
    """An object as JSON text: fields of a post, some of them odd, missing, twice, unknown, in any order."""
    fields = [(k, json_text(r, v) if isinstance(v, str) else json.dumps(v)) for k, v in POST[r.choice([dataset] * 9 + sorted(POST))].items()]
    for _ in range(r.choice([0, 1, 1, 2, 4])):
        n = r.randrange(len(fields))
        how = r.random()
        if how < 0.7:
            fields[n] = (fields[n][0], odd(r))
        elif how < 0.8:
            fields.insert(r.randrange(len(fields)), (r.choice(["surplus", "Index", "ind ", "a\\u0062c", ""]), odd(r)))
        elif how < 0.87:
            fields.insert(r.randrange(len(fields)), fields[n])
        elif how < 0.95 and len(fields) > 1:
            del fields[n]
        else:
            r.shuffle(fields)
    blank = r.choice(["", "", " ", "\n\t"])
    if r.random() < 0.03:
        fields.append(("broken", r.choice(BROKEN)))
    return blank + "{" + ("," + blank).join('"%s"%s:%s' % (k, blank, v) for k, v in fields) + "}" + blank


def value(r, dataset):
    """One message's bytes, None for a tombstone."""
    how = r.random()
    if how < 0.5:
        text = record(r, dataset)
    elif how < 0.65:
        items = [record(r, dataset) if r.random() < 0.8 else r.choice(OTHERS + NUMBERS + ['"{}"']) for _ in range(r.choice([0, 1, 2, 3, 20]))]
        text = "[" + ",".join(items) + "]"
    elif how < 0.75:
        text = json.dumps(record(r, dataset), ensure_ascii=r.random() < 0.5)
    elif how < 0.85:
        data = base64.b64encode(record(r, dataset).encode()).decode()
        text = '"%s"' % (data if r.random() < 0.8 else r.choice([data.rstrip("="), data + "=", data[1:], data.replace("e", "-"), data[:9] + "\\n" + data[9:]]))
    elif how < 0.95:
        text = r.choice(OTHERS + NUMBERS + BROKEN + [json.dumps(json.dumps(json.dumps({"ind": 1})))])
    elif how < 0.96:
        return None
    else:
        text = "[" * r.choice([5, 255, 256, 257, 400]) + "1" + "]" * 256
    data = text.encode("utf-8", "surrogatepass")
    if r.random() < 0.12 and data:  # a few bytes that went wrong
        data = bytearray(data)
        for _ in range(r.choice([1, 1, 2, 5])):
            data[r.randrange(len(data))] = r.randrange(256)
        data = bytes(data[:r.randrange(len(data) + 1)]) if r.random() < 0.3 else bytes(data)
    return data


def field(data):
    return "-" if data is None else base64.b64encode(data).decode()


def ours(records):
    lines = "".join("%s %s %s\n" % (dataset, field(key), field(data)) for dataset, key, data in records)
    done = subprocess.run([os.path.join(BUILD, "tests", "wash_lines"), str(RECORD_MAX)], input=lines, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def theirs(dataset, key, data):
    items = []
    for item in rules.wash(dataset, data, len(key or b""), RECORD_MAX):
        if item[0] == "row":
            items.append(["row", [list(v) if isinstance(v, tuple) else v for v in item[1]]])
        else:
            items.append(["reject", item[1], None if data is None else base64.b64encode(item[2]).decode()])
    return items


def compare(records):
    found = ours(records)
    assert len(found) == len(records)
    for (dataset, key, data), items in zip(records, found):
        assert items == theirs(dataset, key, data), (dataset, data)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_random_records(seed):
    r = random.Random(seed)
    records = [(dataset, r.choice([None, b"", b"key", b"k" * 3000]), value(r, dataset)) for dataset in (r.choice(sorted(POST)) for _ in range(5000))]
    items = [(dataset, i) for (dataset, _, _), found in zip(records, compare(records)) for i in found]
    # The records are of a kind that tells: each column with and without a value, every reason.
    for dataset in POST:
        rows = [i[1] for d, i in items if d == dataset and i[0] == "row"]
        assert len(rows) > 500
        assert all(any(row[c] is None for row in rows) for c in range(1, len(rows[0])))
        assert all(any(row[c] is not None for row in rows) for c in range(len(rows[0])))
    assert {i[1] for _, i in items if i[0] == "reject"} == {"not_json", "bad_utf8", "not_an_object", "no_key", "bad_key", "too_large", "tombstone"}


@pytest.mark.parametrize("dataset", sorted(POST))
def test_the_real_posts(dataset):
    path = os.path.join(POSTS, dataset + ".jsonl")
    if not os.path.exists(path):
        pytest.skip("the real posts are not beside the clone")
    with open(path, "rb") as f:
        lines = f.read().splitlines()
    assert len(lines) == 877
    found = compare([(dataset, None, line) for line in lines])
    assert all(len(items) == 1 and items[0][0] == "row" for items in found)
