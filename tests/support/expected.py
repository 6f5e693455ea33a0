"""expected: the nine answers, computed from rows in plain Python: no SQL, no DuckDB, nothing of the product.

Tables are lists of dicts with the columns of datasets.md section 2 (provenance included); times are datetimes, aware or naive UTC.
`answer(name, pin, geo, user, **parameters)` gives the rows as dicts, in their order; `left_out(…)` the statistic of the same name.
SPDX-License-Identifier: Apache-2.0
"""
import datetime
from collections import Counter, defaultdict

UTC = datetime.timezone.utc
YEARS = {"category-posts-by-year": (2018, 2022), "users-joined-by-year": (2015, 2020),
         "median-followers-by-joining-year": (2015, 2020), "median-followers-by-joining-year-and-age": (2015, 2020)}


def moment(value):
    if value is None:
        return datetime.datetime.min.replace(tzinfo=UTC)
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def newest(rows):
    """Of each ind the newest row: by time of arrival, then source bytewise, position, item."""
    best = {}
    for row in rows:
        rank = (moment(row["_ingested_at"]), (row["_source"] or "").encode(), row["_position"], row["_item"])
        if row["ind"] not in best or rank > best[row["ind"]][0]:
            best[row["ind"]] = (rank, row)
    return [row for _, row in best.values()]


def join(left, right):
    """Inner join on ind: pairs of rows, every match."""
    by_ind = defaultdict(list)
    for row in right:
        by_ind[row["ind"]].append(row)
    for row in left:
        for other in by_ind.get(row["ind"], ()):
            yield row, other


def nulls_last(value):
    return (value is None, value.encode() if isinstance(value, str) else value if value is not None else 0)


def year_of(value):
    return None if value is None else moment(value).year


def age_group(age):
    if age is None or age < 18:
        return None
    return "18-24" if age <= 24 else "25-35" if age <= 35 else "36-50" if age <= 50 else "50+"


def median_of(values, kind):
    values = sorted(values)
    n = len(values)
    if kind == "lower":
        return float(values[(n + 1) // 2 - 1])
    return (values[(n - 1) // 2] + values[n // 2]) / 2


def winners(counts):
    """{(group, what): count} to the pairs with the highest count of their group."""
    top = {}
    for (group, _), n in counts.items():
        top[group] = max(top.get(group, 0), n)
    return {pair: n for pair, n in counts.items() if n == top[pair[0]]}


def popular_category_by_country(pin, geo, user, p):
    best = winners(Counter((g["country"], r["category"]) for r, g in join(pin, geo)))
    return [{"country": c, "category": k, "category_count": n}
            for (c, k), n in sorted(best.items(), key=lambda i: (nulls_last(i[0][0]), nulls_last(i[0][1])))]


def category_posts_by_year(pin, geo, user, p):
    counts = Counter((year_of(g["timestamp"]), r["category"]) for r, g in join(pin, geo))
    counts = {k: n for k, n in counts.items() if k[0] is not None and p["from"] <= k[0] <= p["to"]}
    if p["top"] == "1":
        counts = winners(counts)
    return [{"post_year": y, "category": k, "category_count": n}
            for (y, k), n in sorted(counts.items(), key=lambda i: (i[0][0], -i[1], nulls_last(i[0][1])))]


def top_user_by_country(pin, geo, user, p):
    most = {}
    for r, g in join(pin, geo):
        if r["follower_count"] is not None:
            entry = most.setdefault(g["country"], [r["follower_count"], set()])
            if r["follower_count"] > entry[0]:
                entry[0], entry[1] = r["follower_count"], set()
            if r["follower_count"] == entry[0]:
                entry[1].add(r["poster_name"])
    return [{"country": c, "poster_name": name, "follower_count": n}
            for c, (n, names) in sorted(most.items(), key=lambda i: nulls_last(i[0])) for name in sorted(names, key=nulls_last)]


def top_user_country(pin, geo, user, p):
    posts = [(-r["follower_count"], nulls_last(g["country"]), g["country"]) for r, g in join(pin, geo)
             if r["follower_count"] is not None]
    if not posts:
        return []
    best = min(posts)
    return [{"country": best[2], "follower_count": -best[0]}]


def popular_category_by_age(pin, geo, user, p):
    counts = Counter((age_group(u["age"]), r["category"]) for r, u in join(pin, user))
    best = winners({k: n for k, n in counts.items() if k[0] is not None})
    return [{"age_group": a, "category": k, "category_count": n}
            for (a, k), n in sorted(best.items(), key=lambda i: (i[0][0], nulls_last(i[0][1])))]


def medians(groups, p):
    return {k: median_of(v, p["median"]) for k, v in groups.items()}


def median_followers_by_age(pin, geo, user, p):
    groups = defaultdict(list)
    for r, u in join(pin, user):
        if r["follower_count"] is not None and age_group(u["age"]) is not None:
            groups[age_group(u["age"])].append(r["follower_count"])
    return [{"age_group": a, "median_follower_count": m} for a, m in sorted(medians(groups, p).items())]


def users_joined_by_year(pin, geo, user, p):
    joined = [(year_of(u["date_joined"]), (u["user_name"], u["age"], moment(u["date_joined"]))) for u in user
              if u["date_joined"] is not None]
    if p["distinct"] == "person":
        joined = set(joined)
    counts = Counter(y for y, _ in joined if p["from"] <= y <= p["to"])
    return [{"post_year": y, "number_users_joined": n} for y, n in sorted(counts.items())]


def _joined(pin, user, p):
    for r, u in join(pin, user):
        year = year_of(u["date_joined"])
        if year is not None and p["from"] <= year <= p["to"]:
            yield r, u, year


def median_followers_by_joining_year(pin, geo, user, p):
    groups = defaultdict(list)
    for r, _, year in _joined(pin, user, p):
        if r["follower_count"] is not None:
            groups[year].append(r["follower_count"])
    return [{"post_year": y, "median_follower_count": m} for y, m in sorted(medians(groups, p).items())]


def median_followers_by_joining_year_and_age(pin, geo, user, p):
    groups = defaultdict(list)
    for r, u, year in _joined(pin, user, p):
        if r["follower_count"] is not None and age_group(u["age"]) is not None:
            groups[age_group(u["age"]), year].append(r["follower_count"])
    return [{"age_group": a, "post_year": y, "median_follower_count": m} for (a, y), m in sorted(medians(groups, p).items())]


QUESTIONS = {f.__name__.replace("_", "-"): f for f in (
    popular_category_by_country, category_posts_by_year, top_user_by_country, top_user_country, popular_category_by_age,
    median_followers_by_age, users_joined_by_year, median_followers_by_joining_year, median_followers_by_joining_year_and_age)}


def _parameters(name, given):
    years = YEARS.get(name, (None, None))
    p = {"from": years[0], "to": years[1], "median": "interpolated", "top": "all", "distinct": "row", "dedup": "on", "limit": None}
    p.update(given)
    for key in ("from", "to", "limit"):
        p[key] = None if p[key] is None else int(p[key])
    p["top"] = str(p["top"])
    return p


def answer(name, pin, geo, user, **given):
    """The rows of one answer. Parameters as in the URL (`from` needs **{"from": 2018})."""
    p = _parameters(name, given)
    if p["dedup"] == "on":
        pin, geo, user = newest(pin), newest(geo), newest(user)
    rows = QUESTIONS[name](pin, geo, user, p)
    return rows if p["limit"] is None else rows[:p["limit"]]


def left_out(name, pin, geo, user, **given):
    """Posts whose user is in no age group; None for a question without age groups."""
    p = _parameters(name, given)
    if p["dedup"] == "on":
        pin, user = newest(pin), newest(user)
    if name in ("popular-category-by-age", "median-followers-by-age"):
        return sum(age_group(u["age"]) is None for _, u in join(pin, user))
    if name == "median-followers-by-joining-year-and-age":
        return sum(age_group(u["age"]) is None for _, u, _ in _joined(pin, user, p))
    return None
