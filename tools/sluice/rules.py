"""The cleaning rules of the three datasets, written a second time from their description.

verify compares the tables with what these functions make of the raw bytes; they share nothing with
the services' code. wash() gives for each item of a message either its row or why it is none.
SPDX-License-Identifier: Apache-2.0
"""
import base64
import json
import re
import sys

if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)

COLUMNS = {
    "pin": ("ind", "unique_id", "title", "description", "follower_count", "poster_name", "tag_list",
            "is_image_or_video", "image_src", "save_location", "category"),
    "geo": ("ind", "country", "coordinates", "timestamp"),
    "user": ("ind", "user_name", "age", "date_joined"),
}
KEYS = {"pin": "index", "geo": "ind", "user": "ind"}
NOTHING = {
    "description": ("No description available Story format", "No description available", "Untitled"),
    "follower_count": ("User Info Error",),
    "poster_name": ("User Info Error",),
    "image_src": ("Image src error.",),
    "tag_list": ("N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e",),
    "title": ("No Title Data Available",),
}
PREFIX = "Local save in "
LONG_MAX = 2 ** 63 - 1
LONG_MIN = -2 ** 63
RECORD_MAX = 1 << 20
DEPTH_MAX = 256
FOLLOWERS = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kKmMbB]?)")
BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
SCALE = {"": 0, "k": 3, "m": 6, "b": 9}
INSTANT = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]+)?"
                     r"(Z|[+-][0-9]{2}:[0-9]{2})?")
INSTANT_MIN, INSTANT_END = -62135596800000, 253402300800000  # years 1 to 9999, also after the zone is taken off
SPACE = " \t\n\r"


class Number(str):
    """A JSON number, with its digits as they were sent."""


class Object(dict):
    """A JSON object that knows whether a key of its own came twice."""

    repeated = False


def _object(pairs):
    out = Object(pairs)
    out.repeated = len(out) != len(pairs)
    return out


def _constant(text):
    raise ValueError(text + " is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=Number, parse_float=Number, parse_constant=_constant)


def _skip(text, at):
    while at < len(text) and text[at] in SPACE:
        at += 1
    return at


def depth(value):
    """How many arrays and objects stand around the innermost value."""
    deepest, level = 0, [value]
    while level:
        level = [v for outer in level if isinstance(outer, (dict, list))
                 for v in ([None] + list(outer.values() if isinstance(outer, dict) else outer))]
        deepest += 1 if level else 0
    return deepest


def parse(text):
    """Strict JSON, whole text; raises ValueError."""
    try:
        value, end = _DECODER.raw_decode(text, _skip(text, 0))
    except RecursionError as e:
        raise ValueError("too deep") from e
    if text.count("[") + text.count("{") > DEPTH_MAX and depth(value) > DEPTH_MAX:
        raise ValueError("too deep")
    if _skip(text, end) != len(text):
        raise ValueError("bytes after the value")
    return value


def elements(text):
    """The elements of a JSON array that parse() accepted, as (value, its own text)."""
    at = _skip(text, _skip(text, 0) + 1)
    while text[at] != "]":
        value, end = _DECODER.raw_decode(text, at)
        yield value, text[at:end]
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _text(value):
    """A string that can be stored, else None: of another type, or with a lone surrogate."""
    if not isinstance(value, str) or isinstance(value, Number):
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return value


def string(column, value):
    value = _text(value)
    if value is None or value == "" or value in NOTHING.get(column, ()):
        return None
    if column == "save_location" and value.startswith(PREFIX):
        value = value[len(PREFIX):] or None
    return value


def integer(value, low=LONG_MIN, high=LONG_MAX):
    if not isinstance(value, Number) or not re.fullmatch(r"-?[0-9]+", value):
        return None
    number = int(value)
    return number if low <= number <= high else None


def key(value):
    """The key as an integer, or None: a number, or a string of digits."""
    if isinstance(value, Number):
        return integer(value)
    if isinstance(value, str) and re.fullmatch(r"[0-9]+", value):
        return int(value) if int(value) <= LONG_MAX else None
    return None


def followers(value):
    if not isinstance(value, str) or value in NOTHING["follower_count"]:
        return None
    hit = FOLLOWERS.fullmatch(value)
    if not hit:
        return None
    whole, _, fraction = hit.group(1).partition(".")
    shift = SCALE[hit.group(2).lower()]
    number = int(whole + (fraction + "0" * shift)[:shift])
    return number if number <= LONG_MAX else None


def coordinates(latitude, longitude):
    out = []
    for value, bound in ((latitude, 90.0), (longitude, 180.0)):
        if not isinstance(value, Number):
            return None
        number = float(value)
        if not -bound <= number <= bound:
            return None
        out.append(number)
    return tuple(out)


def _days(year, month, day):
    """Days since 1970-01-01 in the Gregorian calendar."""
    year -= month <= 2
    era = year // 400
    yoe = year - era * 400
    doy = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + yoe * 365 + yoe // 4 - yoe // 100 + doy - 719468


def _month_days(year, month):
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def instant(value):
    """Milliseconds since 1970, UTC, or None."""
    hit = INSTANT.fullmatch(value) if isinstance(value, str) and not isinstance(value, Number) else None
    if not hit:
        return None
    year, month, day, hour, minute, second = (int(hit.group(i)) for i in range(1, 7))
    if not (1 <= month <= 12 and 1 <= day <= _month_days(year, month) and hour <= 23 and minute <= 59 and second <= 59):
        return None
    offset = 0
    zone = hit.group(8)
    if zone and zone != "Z":
        hours, minutes = int(zone[1:3]), int(zone[-2:])
        if hours > 23 or minutes > 59:
            return None
        offset = (hours * 60 + minutes) * (-1 if zone[0] == "-" else 1)
    millis = int(((hit.group(7) or ".")[1:] + "000")[:3])
    out = ((_days(year, month, day) * 24 + hour) * 60 + minute - offset) * 60000 + second * 1000 + millis
    return out if year >= 1 and INSTANT_MIN <= out < INSTANT_END else None


def _pin(o):
    return tuple(followers(o.get(c)) if c == "follower_count" else string(c, o.get(c)) for c in COLUMNS["pin"][1:])


def _geo(o):
    return (string("country", o.get("country")), coordinates(o.get("latitude"), o.get("longitude")),
            instant(o.get("timestamp")))


def _user(o):
    first, last = string("first_name", o.get("first_name")), string("last_name", o.get("last_name"))
    return (None if first is None or last is None else first + " " + last, integer(o.get("age"), 0, 150),
            instant(o.get("date_joined")))


_ROW = {"pin": _pin, "geo": _geo, "user": _user}


def _judge(dataset, value, raw):
    """('row', values in the order of COLUMNS) or ('reject', reason, bytes)."""
    if not isinstance(value, dict):
        return "reject", "not_an_object", raw
    if value.repeated:
        return "reject", "not_json", raw
    name = KEYS[dataset]
    if value.get(name) is None:
        return "reject", "no_key", raw
    ind = key(value[name])
    if ind is None:
        return "reject", "bad_key", raw
    return "row", (ind,) + _ROW[dataset](value)


def _inner(text):
    """What a string message holds: an object, as JSON text or as base64 of such text; else None."""
    if _text(text) is None:
        return None
    tries = [text]
    if len(text) % 4 == 0 and BASE64.fullmatch(text):
        try:
            tries.append(base64.b64decode(text).decode("utf-8"))
        except ValueError:
            pass
    for candidate in tries:
        try:
            value = parse(candidate)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None


def _array(dataset, data, text, key_bytes, record_max):
    """The items of an array, each judged by itself; so many that no span could hold them are one reject."""
    items = [(value, raw.encode("utf-8")) for value, raw in elements(text)]
    if not items:
        return [("reject", "not_an_object", data)]
    if sum(64 + key_bytes + len(raw) for _, raw in items) > max(3 * record_max, 64 << 10):
        return [("reject", "too_large", data)]
    return [_judge(dataset, value, raw) for value, raw in items]


def wash(dataset, data, key_bytes=0, record_max=RECORD_MAX):
    """What becomes of one raw message: a list, one entry per item, of

    ('row', values) or ('reject', reason, bytes). The item is the place in the list. `key_bytes` is the
    length of the record's key.
    """
    if data is None:
        return [("reject", "tombstone", b"")]
    if len(data) > record_max:
        return [("reject", "too_large", data)]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return [("reject", "bad_utf8", data)]
    try:
        value = parse(text)
    except ValueError:
        return [("reject", "not_json", data)]
    if isinstance(value, list):
        return _array(dataset, data, text, key_bytes, record_max)
    if isinstance(value, str) and not isinstance(value, Number):
        value = _inner(value)
    return [_judge(dataset, value, data)]
