"""What the watches have shown: the latest of each object, found by name and by model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testing.operator_harness import LABEL
from whisper_cluster.cache import Key, Objects, key_of, model_of
from whisper_cluster.objects import Pod

BASE, LARGE = Key("speech", "base"), Key("speech", "large")
ONE, TWO = Key("speech", "one"), Key("speech", "two")


def pod(name: str = "one", version: int | str = 1, *, uid: str = "u", model: str | None = "base") -> Pod:
    return Pod.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": "speech",
                "uid": uid,
                "resourceVersion": str(version),
                "labels": {LABEL: model} if model else None,
            }
        }
    )


def store_of(*seen: Pod) -> Objects[Pod]:
    objects: Objects[Pod] = Objects()
    for one in seen:
        objects.put(one)
    return objects


def names_of(objects: Objects[Pod], model: Key) -> list[str]:
    return [one.metadata.name for one in objects.of(model)]


class TestPut:
    @pytest.mark.parametrize(
        ("seen", "news"),
        [
            pytest.param(pod(version=11), True, id="a newer version"),
            pytest.param(pod(version=10), False, id="the same version again"),
            pytest.param(pod(version=9), False, id="an older version that came late, compared as numbers"),
            pytest.param(pod(version=12, uid="other"), True, id="another object of the same name, made since"),
            pytest.param(pod(version=2, uid="other"), False, id="another object of the same name, long gone"),
            pytest.param(pod(version="opaque"), True, id="a version that is no number"),
        ],
    )
    def test_what_is_news(self, seen: Pod, news: bool) -> None:
        known = pod(version=10)
        objects = store_of(known)
        assert objects.put(seen) is news
        assert objects.get(ONE) is (seen if news else known)

    def test_the_first_sight_is_news(self) -> None:
        assert Objects[Pod]().put(pod())

    def test_objects_are_found_by_the_label_of_their_model_in_order(self) -> None:
        objects = store_of(pod("two"), pod("one"), pod("three", model="large"), pod("four", model=None))
        assert names_of(objects, BASE) == ["one", "two"]
        assert names_of(objects, LARGE) == ["three"]
        assert objects.of(Key("elsewhere", "base")) == []

    def test_an_object_whose_label_changes_belongs_to_another_model(self) -> None:
        objects = store_of(pod(version=1), pod(version=2, model="large"))
        assert (names_of(objects, BASE), names_of(objects, LARGE)) == ([], ["one"])

    @pytest.mark.parametrize("model", ["large", None])
    def test_one_whose_label_changed_and_that_is_gone_is_found_nowhere(self, model: str | None) -> None:
        objects = store_of(pod(version=1), pod(version=2, model=model))
        objects.remove(pod(model=model))
        assert (objects.of(BASE), objects.of(LARGE)) == ([], [])


class TestRemove:
    def test_what_is_gone_is_found_no_more(self) -> None:
        objects = store_of(pod("one"), pod("two"))
        objects.remove(pod("one"))
        assert objects.get(ONE) is None
        assert names_of(objects, BASE) == ["two"]

    def test_what_was_never_seen_may_go_too(self) -> None:
        objects = store_of(pod())
        objects.remove(pod("two"))
        assert objects.keys() == {ONE}

    def test_one_of_the_same_name_that_was_made_since_stays(self) -> None:
        fresh = pod(version=9, uid="new")
        objects = store_of(pod(version=1, uid="old"), fresh)
        objects.remove(pod(version=8, uid="old"))
        assert objects.get(ONE) is fresh

    def test_what_comes_again_is_news_whatever_its_version(self) -> None:
        objects = store_of(pod(version=9))
        objects.remove(pod())
        assert objects.put(pod(version=1))

    def test_nothing_is_left_of_models_without_objects(self) -> None:
        objects = store_of(pod("one"), pod("two", model="large"))
        for name in ("one", "two"):
            objects.remove(pod(name))
        assert objects._of_model == {}


class TestReplace:
    def test_what_a_list_lacks_is_gone(self) -> None:
        objects = store_of(pod("one"), pod("two"))
        assert objects.replace([pod("two")], known_before=objects.uids()) == {ONE}
        assert objects.keys() == {TWO}

    def test_what_a_list_adds_is_known(self) -> None:
        objects = store_of(pod("one"))
        assert objects.replace([pod("one"), pod("two")], known_before=objects.uids()) == set()
        assert objects.keys() == {ONE, TWO}

    def test_what_came_while_it_was_asked_for_is_not_expected_in_it(self) -> None:
        objects = store_of(pod("one"))
        before = objects.uids()
        objects.put(pod("two"))
        assert objects.replace([pod("one")], known_before=before) == set()
        assert objects.keys() == {ONE, TWO}

    def test_what_changed_meanwhile_is_newer_than_the_list(self) -> None:
        objects = store_of(pod(version=1))
        before = objects.uids()
        newer = pod(version=5)
        objects.put(newer)
        objects.replace([pod(version=1)], known_before=before)
        assert objects.get(ONE) is newer

    def test_what_went_meanwhile_does_not_come_back(self) -> None:
        objects = store_of(pod("one"), pod("two"))
        before = objects.uids()
        objects.remove(pod("one"))
        objects.replace([pod("one"), pod("two")], known_before=before)
        assert objects.keys() == {TWO}

    def test_a_new_object_of_an_old_name_takes_its_place(self) -> None:
        objects = store_of(pod(version=3, uid="old"))
        fresh = pod(version=9, uid="new", model="large")
        objects.replace([fresh], known_before=objects.uids())
        assert objects.get(ONE) is fresh
        assert (names_of(objects, BASE), names_of(objects, LARGE)) == ([], ["one"])

    @pytest.mark.parametrize("listed", [[pod(version=3, uid="old")], []], ids=["before it went", "in between"])
    def test_a_list_that_was_made_before_an_object_is_made_anew_takes_nothing_away(self, listed: list[Pod]) -> None:
        objects = store_of(pod(version=3, uid="old"))
        before = objects.uids()
        objects.remove(pod(version=5, uid="old"))
        fresh = pod(version=9, uid="new")
        objects.put(fresh)
        assert objects.replace(listed, known_before=before) == set()
        assert objects.get(ONE) is fresh


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 5), st.sampled_from(["base", "large", None]), st.booleans())
    )
)
def test_the_models_objects_are_always_those_that_carry_its_label(
    steps: list[tuple[str, int, str | None, bool]],
) -> None:
    objects: Objects[Pod] = Objects()
    for name, version, model, goes in steps:
        if goes:
            objects.remove(pod(name))
        else:
            objects.put(pod(name, version, model=model))
        there = [one for key in sorted(objects.keys()) if (one := objects.get(key))]
        for key in (BASE, LARGE):
            assert objects.of(key) == [one for one in there if model_of(one) == key]


def test_names_and_models_of_objects() -> None:
    assert (key_of(pod()), model_of(pod()), model_of(pod(model=None))) == (ONE, BASE, None)
    assert str(BASE) == "speech/base"
