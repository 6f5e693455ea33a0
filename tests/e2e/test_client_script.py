"""A client as it is out there: the original's emulator, with Python's requests, its headers, its body and a stage prefix.

SPDX-License-Identifier: Apache-2.0
"""
import datetime
import json
import random

import pytest
import requests

import rig
from support import evidence


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with rig.Stack(tmp_path_factory.mktemp("client"), settings=rig.FLUSH, user="0a1b2c3d4e5f") as s:
        yield s


# What a row of the original's database looks like: datetimes are Python's.
def database():
    pin, geo, user = [], [], []
    for n in range(40):
        pin.append({"index": n, "unique_id": "id-%d" % n, "title": "Title %d" % n, "description": "Nice \u2026\u00a0",
                    "poster_name": "Poster \U0001f600 %d" % n, "follower_count": "%dk" % n, "tag_list": "a,b,c",
                    "is_image_or_video": "image", "image_src": "https://i.example/%d.jpg" % n, "downloaded": 1,
                    "save_location": "Local save in /data/art", "category": "art"})
        geo.append({"ind": n, "timestamp": datetime.datetime(2018, 1, 1 + n % 28, 5, 6, 7), "latitude": -88.5 + n, "longitude": 12.25,
                    "country": "Albania"})
        user.append({"ind": n, "first_name": "Ann", "last_name": "Lee %d" % n, "age": 20 + n,
                     "date_joined": datetime.datetime(2016, 2, 3, 4, 5, 6)})
    return pin, geo, user


def run_infinite_post_data_loop(invoke_url, user_id, posts, seed):
    """The original's loop, but that it ends and does not wait between posts."""
    pin, geo, user = database()
    headers = {"Content-Type": "application/vnd.kafka.json.v2+json"}
    random.seed(seed)
    drawn, codes = [], []
    for _ in range(posts):
        random_row = random.randint(0, len(pin) - 1)
        drawn.append(random_row)
        for topic, result in (("pin", pin[random_row]), ("geo", geo[random_row]), ("user", user[random_row])):
            payload = json.dumps({"records": [{"value": result}]}, default=str)
            response = requests.request("POST", "%s/topics/%s.%s" % (invoke_url, user_id, topic), headers=headers, data=payload,
                                        timeout=60)
            codes.append(response.status_code)
            body = response.json()
            assert body["offsets"][0]["partition"] == 0 and body["offsets"][0]["offset"] >= 0, body
            assert response.headers["Content-Type"].startswith("application/vnd.kafka.v2+json"), response.headers
    return drawn, codes


@pytest.mark.parametrize("stage", ["/dev", "/test", "/Prod", ""])
def test_the_originals_emulator(stack, stage):
    drawn, codes = run_infinite_post_data_loop(stack.value["gateway"] + stage, stack.value["user"], 15, "seed" + stage)
    assert codes == [200] * 45
    stack.settle()
    tables, dead = evidence.expected_tables(stack.value)
    assert dead == []
    for dataset in rig.DATASETS:
        got = evidence.read_table(stack.value, dataset)
        assert not evidence.differences(tables[dataset], got)
        assert set(drawn) <= {r["ind"] for r in got}
    posted = {r["ind"]: r for r in evidence.read_table(stack.value, "geo")}
    for n in drawn:
        assert posted[n]["timestamp"] == datetime.datetime(2018, 1, 1 + n % 28, 5, 6, 7, tzinfo=datetime.timezone.utc)
        assert posted[n]["coordinates"] == [-88.5 + n, 12.25]
    stack.verify()


def test_what_the_client_hears_when_it_is_wrong(stack):
    """The peers' own shapes of refusals, as requests sees them."""
    base, headers = stack.value["gateway"] + "/dev", {"Content-Type": "application/vnd.kafka.json.v2+json"}
    good = json.dumps({"records": [{"value": {"index": 1}}]})
    for path, body, status, code in (("/topics/nobody.pin", good, 404, 40401), ("/topics/%s.pin" % stack.value["user"], "{", 400, 400),
                                     ("/topics/%s.pin" % stack.value["user"], "{}", 422, 422)):
        r = requests.request("POST", base + path, headers=headers, data=body, timeout=60)
        assert r.status_code == status, (path, r.text)
        assert r.json()["error_code"] == code and r.json()["message"], r.text
    r = requests.request("POST", base + "/topics/%s.pin" % stack.value["user"], headers={"Content-Type": "text/csv"}, data=good, timeout=60)
    assert (r.status_code, r.json()["error_code"]) == (415, 415)
