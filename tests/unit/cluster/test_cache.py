"""The cache: the latest version of each object, by name and by model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testing.operator_harness import LABEL
from whisper_cluster.cache import Objects, key_of, model_of
from whisper_cluster.objects import Pod
from whispermodel.key import Key

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
        ("seen", "is_newer"),
        [
            pytest.param(pod(version=11), True, id="a newer version"),
            pytest.param(pod(version=10), False, id="the same version again"),
            pytest.param(pod(version=9), False, id="an older version that came late, compared as numbers"),
            pytest.param(pod(version=12, uid="other"), True, id="another object of the same name, made since"),
            pytest.param(pod(version=2, uid="other"), False, id="another object of the same name, long gone"),
            pytest.param(pod(version="opaque"), True, id="a version that is no number"),
        ],
    )
    def test_put_reports_newer_versions(self, seen: Pod, is_newer: bool) -> None:
        known = pod(version=10)
        objects = store_of(known)
        assert objects.put(seen) is is_newer
        assert objects.get(ONE) is (seen if is_newer else known)

    def test_put_reports_a_new_object(self) -> None:
        assert Objects[Pod]().put(pod())

    def test_objects_of_a_model_are_sorted_by_name(self) -> None:
        objects = store_of(pod("two"), pod("one"), pod("three", model="large"), pod("four", model=None))
        assert names_of(objects, BASE) == ["one", "two"]
        assert names_of(objects, LARGE) == ["three"]
        assert objects.of(Key("elsewhere", "base")) == []

    def test_changed_label_moves_an_object_to_another_model(self) -> None:
        objects = store_of(pod(version=1), pod(version=2, model="large"))
        assert (names_of(objects, BASE), names_of(objects, LARGE)) == ([], ["one"])

    @pytest.mark.parametrize("model", ["large", None])
    def test_removed_object_with_changed_label_is_not_found(self, model: str | None) -> None:
        objects = store_of(pod(version=1), pod(version=2, model=model))
        objects.remove(pod(model=model))
        assert (objects.of(BASE), objects.of(LARGE)) == ([], [])


class TestRemove:
    def test_removed_object_is_not_found(self) -> None:
        objects = store_of(pod("one"), pod("two"))
        objects.remove(pod("one"))
        assert objects.get(ONE) is None
        assert names_of(objects, BASE) == ["two"]

    def test_removing_an_unknown_object_is_allowed(self) -> None:
        objects = store_of(pod())
        objects.remove(pod("two"))
        assert objects.keys() == {ONE}

    def test_recreated_object_survives_a_late_removal(self) -> None:
        fresh = pod(version=9, uid="new")
        objects = store_of(pod(version=1, uid="old"), fresh)
        objects.remove(pod(version=8, uid="old"))
        assert objects.get(ONE) is fresh

    def test_object_put_after_removal_is_new(self) -> None:
        objects = store_of(pod(version=9))
        objects.remove(pod())
        assert objects.put(pod(version=1))

    def test_model_without_objects_leaves_nothing(self) -> None:
        objects = store_of(pod("one"), pod("two", model="large"))
        for name in ("one", "two"):
            objects.remove(pod(name))
        assert objects._of_model == {}


class TestReplace:
    def test_object_missing_from_the_list_is_removed(self) -> None:
        objects = store_of(pod("one"), pod("two"))
        assert objects.replace([pod("two")], known_before=objects.uids()) == {ONE}
        assert objects.keys() == {TWO}

    def test_object_added_by_the_list_is_stored(self) -> None:
        objects = store_of(pod("one"))
        assert objects.replace([pod("one"), pod("two")], known_before=objects.uids()) == set()
        assert objects.keys() == {ONE, TWO}

    def test_object_created_during_the_list_is_kept(self) -> None:
        objects = store_of(pod("one"))
        before = objects.uids()
        objects.put(pod("two"))
        assert objects.replace([pod("one")], known_before=before) == set()
        assert objects.keys() == {ONE, TWO}

    def test_newer_version_wins_over_the_list(self) -> None:
        objects = store_of(pod(version=1))
        before = objects.uids()
        newer = pod(version=5)
        objects.put(newer)
        objects.replace([pod(version=1)], known_before=before)
        assert objects.get(ONE) is newer

    def test_object_deleted_during_the_list_does_not_return(self) -> None:
        objects = store_of(pod("one"), pod("two"))
        before = objects.uids()
        objects.remove(pod("one"))
        objects.replace([pod("one"), pod("two")], known_before=before)
        assert objects.keys() == {TWO}

    def test_recreated_object_replaces_the_old_one(self) -> None:
        objects = store_of(pod(version=3, uid="old"))
        fresh = pod(version=9, uid="new", model="large")
        objects.replace([fresh], known_before=objects.uids())
        assert objects.get(ONE) is fresh
        assert (names_of(objects, BASE), names_of(objects, LARGE)) == ([], ["one"])

    @pytest.mark.parametrize("listed", [[pod(version=3, uid="old")], []], ids=["before it went", "in between"])
    def test_list_older_than_a_recreated_object_keeps_it(self, listed: list[Pod]) -> None:
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
def test_objects_of_a_model_always_match_its_label(
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


def test_keys_and_models_of_objects() -> None:
    assert (key_of(pod()), model_of(pod()), model_of(pod(model=None))) == (ONE, BASE, None)
    assert str(BASE) == "speech/base"
