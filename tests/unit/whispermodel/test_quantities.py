"""Numbers of bytes as Kubernetes writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispermodel.quantities import LARGEST, QuantityError, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1Gi", 2**30),
        ("500Mi", 500 * 2**20),
        ("1048576", 2**20),
        ("2G", 2 * 10**9),
        ("1.5Ki", 1536),
        ("0.1Ki", 103),
    ],
)
def test_a_quantity_is_a_number_of_bytes_rounded_up(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "-1", "1GB", "1 Gi", "1gi", "K", "1K", "ki", "1e3", "1.Gi", "1Gi\n", "nan"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(QuantityError, match="such as 1Gi"):
        parse_bytes(text)


def test_more_than_can_be_counted_is_refused() -> None:
    with pytest.raises(QuantityError, match="the largest number of bytes is 9223372036854775807"):
        parse_bytes("999999999999999999Ti")


@given(st.integers(min_value=0, max_value=LARGEST))
def test_every_count_survives_writing_and_reading(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == count


@given(st.integers(1, 999999), st.integers(0, 999999999), st.sampled_from(["", *"kMGT", "Ki", "Mi", "Gi", "Ti"]))
def test_every_quantity_that_the_crd_accepts_survives_writing_and_reading(whole: int, part: int, suffix: str) -> None:
    digits = {"": 12, "k": 9, "K": 9, "M": 6, "G": 3, "T": 0}[suffix[:1]]
    count = parse_bytes(f"{whole}{'9' * digits}.{part:09}{suffix}")
    assert parse_bytes(format_bytes(count)) == count
