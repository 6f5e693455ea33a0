"""From an HTTP post to an answer: rows of all tables and all nine answers against a second computation in plain Python.

Posts go through gateway, producer, Kafka, cleaner, sink-s3 and query-api. What must come out is computed from the raw
topics by tools/sluice/rules.py and tests/support/expected.py, without DuckDB; that the raw topics hold what was posted
is compared with the posts themselves. Both settings of copies.
SPDX-License-Identifier: Apache-2.0
"""
import collections
import json
import os
import time

import pytest

import rig
from sluice import http
from support import evidence, expected

VARIANTS = [
    ("popular-category-by-country", {}), ("category-posts-by-year", {}), ("category-posts-by-year", {"top": 1}),
    ("category-posts-by-year", {"from": 2019, "to": 2020}), ("top-user-by-country", {}), ("top-user-country", {}),
    ("popular-category-by-age", {}), ("median-followers-by-age", {}), ("median-followers-by-age", {"median": "lower"}),
    ("users-joined-by-year", {}), ("users-joined-by-year", {"distinct": "person"}), ("median-followers-by-joining-year", {}),
    ("median-followers-by-joining-year", {"median": "lower"}), ("median-followers-by-joining-year-and-age", {}),
    ("popular-category-by-country", {"limit": 3}),
]


@pytest.fixture(scope="module", params=["drop", "keep"])
def stack(request, tmp_path_factory):
    settings = ["sink-s3.flush.interval=250ms", "sink-s3.copies=" + request.param]
    with rig.Stack(tmp_path_factory.mktemp("way-" + request.param), settings=settings) as s:
        s.copies = request.param
        yield s


def questions(stack):
    answer = http.get_json(stack.value["query_api"] + "/v1/questions", timeout=30)
    if isinstance(answer, dict):
        answer = answer.get("questions") or answer.get("data")
    return [q["name"] if isinstance(q, dict) else q for q in answer]


def check_everything(stack, *ledgers):
    """Tables and answers must be those of the raw topics."""
    began = time.monotonic()
    stack.settle()
    print("settled after %.1f s" % (time.monotonic() - began))
    tables, dead = evidence.expected_tables(stack.value, stack.copies)
    for dataset in rig.DATASETS:
        got = evidence.read_table(stack.value, dataset)
        assert not evidence.differences(tables[dataset], got), dataset
        assert len(got) == len(tables[dataset]), dataset
    assert not evidence.differences(dead, evidence.read_table(stack.value, "dead"))
    assert sorted(questions(stack)) == sorted(expected.QUESTIONS)
    assert {name for name, _ in VARIANTS} == set(expected.QUESTIONS)
    rows = [tables[d] for d in rig.DATASETS]
    for name, params in VARIANTS:
        for dedup in ("on", "off"):
            given = dict(params, dedup=dedup)
            answer = stack.ask(name, **given)
            assert answer["data"] == expected.answer(name, *rows, **given), (name, given)
            assert answer["rows"] == len(answer["data"])
    _, _, numbers = stack.verify(*ledgers)
    return tables, numbers


def test_generated_posts(stack):
    """Each row once, then draws with replacement, so that copies come too."""
    report = stack.post("--rows", 400, "--seed", 11, "--connections", 4, ledger="rows.jsonl")
    again = stack.post("--rows", 400, "--seed", 11, "--draws", 100, "--pause", "0ms", "--connections", 4, ledger="draws.jsonl")
    assert report and again
    lines = rig.ledger_lines(stack.path("rows.jsonl")) + rig.ledger_lines(stack.path("draws.jsonl"))
    assert len(lines) == 3 * 500 and {x["outcome"] for x in lines} == {"ok"}
    tables, numbers = check_everything(stack, "rows.jsonl", "draws.jsonl")
    for dataset in rig.DATASETS:
        assert len({r["ind"] for r in tables[dataset]}) == 400
        assert len(tables[dataset]) == (400 if stack.copies == "drop" else 500)
    assert numbers.get("copies", 0) == (300 if stack.copies == "drop" else 0)


def test_real_posts(stack):
    """The 877 posts of the shared folder, replayed as they are."""
    if not os.path.isdir(rig.POSTS):
        print("NOTICE: the real posts are not tested: there is no folder %s (set SLUICE_POSTS)" % rig.POSTS)
        pytest.skip("no real posts: there is no folder %s" % rig.POSTS)
    files = {}
    for dataset in rig.DATASETS:
        with open(os.path.join(rig.POSTS, dataset + ".jsonl"), encoding="utf-8") as f:
            files[dataset] = [json.loads(line) for line in f]
        assert len(files[dataset]) == 877
    before = {d: collections.Counter(evidence.topic_values(stack.value, stack.topic(d))) for d in rig.DATASETS}
    stack.post("--posts", rig.POSTS, "--connections", 4, ledger="real.jsonl")
    for dataset in rig.DATASETS:
        came = collections.Counter(evidence.topic_values(stack.value, stack.topic(dataset))) - before[dataset]
        def canonical(values):
            return sorted(json.dumps(v, sort_keys=True) for v in values)
        assert canonical(json.loads(v) for v in came.elements()) == canonical(files[dataset])
    tables, _ = check_everything(stack, "real.jsonl")
    uuids = {r["unique_id"] for r in tables["pin"]}
    assert {p["unique_id"] for p in files["pin"]} <= uuids
