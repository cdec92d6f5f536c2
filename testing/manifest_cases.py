"""Values as people write them in a manifest, with what kubectl makes of each; a test asks kubectl itself."""

from __future__ import annotations

UNREADABLE = object()

CASES: dict[str, object] = {
    **dict.fromkeys(["y", "Y", "yes", "on", "TRUE", "true", "!!bool y"], True),
    **dict.fromkeys(["n", "N", "No", "off", "FALSE"], False),
    **dict.fromkeys(["~", "null", "NULL", "", "&a"], None),
    **{word: word for word in ("tRUE", "oN", "nULL", "12e", "0x", "0xG", "1e", ".", "=", "_1", "15m", "10Gi")},
    **{word: word for word in ("1:30", "1:30.5", "190:20:30.15", "0:00")},
    **{time: time for time in ("2026-11-27", "2026-11-27T23:00:00-03:00", "2026-11-27 23:00:00")},
    "'y'": "y",
    '"1"': "1",
    '"caf\\u00e9"': "café",
    "!!str 5": "5",
    "!!timestamp 2026-11-27": "2026-11-27",
    **dict.fromkeys(["017", "0o17", "0_17", "15", "+15", "1_5", "0xF", "0b1111", '!!int "15"'], 15),
    **dict.fromkeys(["0", "00", "-0", "0e0"], 0),
    "-15": -15,
    "08": 8,
    "1.": 1,
    "1.0": 1,
    "!!float 1": 1,
    "1e3": 1000,
    "1E+3": 1000,
    ".5": 0.5,
    "-.5": -0.5,
    "09.5": 9.5,
    "1_0.5": 10.5,
    "0.1e-3": 0.0001,
    "{on: 1, 1: 2, 1.5: 3, 017: 4, 2026-01-01: 5}": {"true": 1, "1": 2, "1.5": 3, "15": 4, "2026-01-01": 5},
    "{a: 1, a: 2}": {"a": 2},
    "{a: &x [1], b: *x}": {"a": [1], "b": [1]},
    "{a: &x {b: 1, c: 2}, d: {<<: *x, c: 3}}": {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}},
    "{<<: [{a: 1}, {a: 2, b: 3}]}": {"a": 1, "b": 3},
    **dict.fromkeys([".inf", "-.Inf", ".nan", "!!bool x", "!!int x", '!!int ""', "!!float x"], UNREADABLE),
    **dict.fromkeys(["*a", "{~: a}", "{[a]: 1}", "{<<: 1}", "a: b", "[1", '"\\ud800"'], UNREADABLE),
}
