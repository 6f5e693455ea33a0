"""tables: reads Delta tables for verify, their logs with deltalake and their files with PyArrow, piece by piece.

Of a row its place and a digest of its content are kept.
SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import hashlib
import json
import os
import re
import sys
import urllib.parse

from . import rules
from .stack import Trouble

PIECE = 20000
PLACE = ("_source", "_position", "_item", "_ingested_at")
DEAD_COLUMNS = ("dataset", "reason", "key", "value")


def content_digest(values):
    return hashlib.blake2b(repr(values).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def ms(micros):
    """Microseconds of a table as milliseconds; a rest shows as a fraction, and so as altered."""
    if micros is None:
        return None
    return micros // 1000 if micros % 1000 == 0 else micros / 1000.0


def commit_versions(folder):
    """{path: (version, rewritten)} from the log's JSON files; rewritten: its commit also removed files."""
    out = {}
    log = os.path.join(folder, "_delta_log")
    for name in sorted(os.listdir(log)):
        if not re.fullmatch(r"[0-9]{20}\.json", name):
            continue
        adds, removes = [], False
        with open(os.path.join(log, name), encoding="utf-8") as f:
            for line in f:
                if line.startswith('{"add"'):
                    adds.append(json.loads(line)["add"]["path"])
                elif line.startswith('{"remove"'):
                    removes = True
        for path in adds:
            out[path] = (int(name[:20]), removes)
    return out


@contextlib.contextmanager
def readable(path):
    """Makes a table or a file that cannot be read a matter of words."""
    import pyarrow as pa
    from deltalake.exceptions import DeltaError
    try:
        yield
    except (OSError, pa.ArrowException, DeltaError) as e:
        raise Trouble("%s cannot be read: %s" % (path, e)) from e


def files(folder):
    """Yields (path, rewritten, ParquetFile) of the table's files in the order of their commits.

    None at all when the folder is no table.
    """
    import deltalake
    import pyarrow as pa
    import pyarrow.parquet as pq
    if not os.path.isdir(os.path.join(folder, "_delta_log")):
        return
    with readable(folder):
        actions = pa.table(deltalake.DeltaTable(folder).get_add_actions(flatten=True))
    versions = {urllib.parse.unquote(p): v for p, v in commit_versions(folder).items()}
    # Files whose commit is in a checkpoint only come first, and say nothing about the order.
    found = [(versions.get(p, (-1, True)), p) for p in (urllib.parse.unquote(str(p)) for p in actions.column("path").to_pylist())]
    for (_, rewritten), path in sorted(found, key=lambda f: f[0][0]):
        with readable(os.path.join(folder, path)), pq.ParquetFile(os.path.join(folder, path)) as file:
            yield path, rewritten, file


def _values(column):
    """A column as plain values: instants as milliseconds, lists as tuples."""
    import pyarrow as pa
    kind = column.type
    if pa.types.is_timestamp(kind):
        return [ms(v) for v in column.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64()).to_pylist()]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [None if v is None else tuple(v) for v in column.to_pylist()]
    return column.to_pylist()


class Table:
    """The rows of a clean table or, with dataset 'dead', of the dead table: places, digests, and what is wrong with them alone.

    take() gives a row away: what is left in the end, nobody has explained.
    """

    def __init__(self, folder, dataset, report):
        self.folder = folder
        self.name = os.path.basename(folder)
        self.rows = {}           # (source, position, item) -> (digest, ingested_at ms)
        self.contents = set()    # all digests
        self.names = rules.COLUMNS.get(dataset) or DEAD_COLUMNS
        self.doubled = "doubled" if dataset in rules.COLUMNS else "dead_doubled"
        self._load(report)

    def _load(self, report):
        last = {}   # source -> the place after which appended rows must stand
        for path, rewritten, file in files(self.folder):
            within = {}
            for place, row in self._read(path, file):
                before = within.get(place[0])
                if before is None and not rewritten:
                    before = last.get(place[0])
                if before is not None and place[1:] < before:
                    report.add("reordered", self.where(place), "stands after %d/%d (file %s)" % (before + (path,)))
                within[place[0]] = place[1:]
                self._add(place, row, report)
            # A rewritten file holds rows of commits before its own: whatever is appended later must stand after them too.
            for source, place in within.items():
                last[source] = max(last.get(source, place), place) if rewritten else place

    def _read(self, path, file):
        """((source, position, item), (digest, ingested_at)) of every row."""
        batches = file.iter_batches(PIECE, columns=list(PLACE + self.names))
        while True:
            with readable(os.path.join(self.folder, path)):
                batch = next(batches, None)
            if batch is None:
                return
            columns = [_values(batch.column(name)) for name in PLACE + self.names]
            for source, position, item, ingested, *values in zip(*columns):
                yield (sys.intern(source), position, item), (content_digest(tuple(values)), ingested)

    def _add(self, place, row, report):
        if place in self.rows:
            report.add(self.doubled, self.where(place), "this (source, position, item) has more than one row")
        else:
            self.rows[place] = row
        self.contents.add(row[0])

    def where(self, place):
        return "%s %s@%d/%d" % (self.name, *place)

    def take(self, place):
        """The row's (digest, ingested_at), or None."""
        return self.rows.pop(place, None)
