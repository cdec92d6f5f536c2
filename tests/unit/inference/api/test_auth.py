"""API keys and what they allow."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import structlog

from whisper_inference.api.auth import ANONYMOUS, KeyRing, Scope
from whisper_inference.errors import KeyFileError, ScopeMissing, Unauthenticated


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def entry(name: str, key: str, *scopes: str) -> str:
    return f"- {{name: {name}, sha256: {digest(key)}, scopes: [{', '.join(scopes)}]}}\n"


def bearer(key: str) -> str:
    return f"Bearer {key}"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(
        entry("laptop", "k-use", "use")
        + entry("nightly", "k-control", "control")
        + entry("op", "k-op", "operator")
        + entry("support", "k-admin", "admin")
        + entry("root", "k-root", "admin", "control")
    )
    return path


@pytest.fixture
def ring(key_file: Path) -> KeyRing:
    return KeyRing(key_file)


@pytest.mark.parametrize("scope", Scope)
def test_everybody_has_all_scopes_without_a_key_file(scope: Scope) -> None:
    assert KeyRing(None).authorise(None, scope) is ANONYMOUS


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("k-use", {"use"}),
        ("k-control", {"use", "control"}),
        ("k-op", {"use", "control", "operator"}),
        ("k-admin", {"use", "admin"}),
        ("k-root", {"use", "control", "admin"}),
    ],
)
def test_scope_includes_what_it_implies(ring: KeyRing, key: str, allowed: set[str]) -> None:
    for scope in Scope:
        if scope in allowed:
            ring.authorise(bearer(key), scope)
        else:
            with pytest.raises(ScopeMissing) as refused:
                ring.authorise(bearer(key), scope)
            assert refused.value.params == {"scope": scope.value}


def test_key_is_identified_by_its_name(ring: KeyRing) -> None:
    assert ring.authorise(bearer("k-control"), Scope.USE).name == "nightly"


def test_bearer_scheme_is_case_insensitive(ring: KeyRing) -> None:
    assert ring.authorise("bEARER k-use", Scope.USE).name == "laptop"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic k-use", "k-use", "Bearer k-use k-use", "Bearer \u2603"],
)
def test_unknown_key_is_rejected(ring: KeyRing, header: str | None) -> None:
    with pytest.raises(Unauthenticated):
        ring.authorise(header, Scope.USE)


def test_digest_is_not_accepted_as_a_key(ring: KeyRing) -> None:
    with pytest.raises(Unauthenticated):
        ring.authorise(bearer(digest("k-use")), Scope.USE)


def test_key_may_contain_any_characters(key_file: Path) -> None:
    key_file.write_text(entry("laptop", "chave-é", "use"))
    as_it_arrives = "chave-é".encode().decode("latin-1")
    assert KeyRing(key_file).authorise(bearer(as_it_arrives), Scope.USE).name == "laptop"


def test_only_the_operators_commands_are_not_manual(ring: KeyRing) -> None:
    assert ANONYMOUS.trigger == "manual"
    assert ring.authorise(bearer("k-control"), Scope.CONTROL).trigger == "manual"
    assert ring.authorise(bearer("k-op"), Scope.CONTROL).trigger == "operator"


@pytest.mark.parametrize(
    ("key", "owner"),
    [("k-use", "laptop"), ("k-control", "nightly"), ("k-op", "op"), ("k-admin", None), ("k-root", None)],
)
def test_only_admin_sees_all_jobs(ring: KeyRing, key: str, owner: str | None) -> None:
    assert ring.authorise(bearer(key), Scope.USE).visible_owner == owner


def test_everybody_sees_all_jobs_without_a_key_file() -> None:
    assert ANONYMOUS.visible_owner is None


def test_edited_key_file_takes_effect_at_once(ring: KeyRing, key_file: Path) -> None:
    key_file.write_text(entry("phone", "k-new", "use"))
    assert ring.authorise(bearer("k-new"), Scope.USE).name == "phone"
    with pytest.raises(Unauthenticated):
        ring.authorise(bearer("k-use"), Scope.USE)


def test_exchanged_key_file_is_reread(ring: KeyRing, key_file: Path) -> None:
    before = key_file.stat()
    new = key_file.with_suffix(".new")
    new.write_text(key_file.read_text().replace(digest("k-use"), digest("k-new")))
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(key_file)
    assert ring.authorise(bearer("k-new"), Scope.USE).name == "laptop"


@pytest.mark.parametrize("bad", ["", "{", "[" * 5000, "- name: x\n", "- {name: x, sha256: short, scopes: [use]}\n"])
def test_invalid_edit_keeps_the_last_valid_keys(ring: KeyRing, key_file: Path, bad: str) -> None:
    key_file.write_text(bad)
    with structlog.testing.capture_logs() as logs:
        assert ring.authorise(bearer("k-use"), Scope.USE).name == "laptop"
        assert ring.authorise(bearer("k-use"), Scope.USE).name == "laptop"
    [log] = logs
    assert log["log_level"] == "warning"
    assert str(key_file) in log["reason"]


@pytest.mark.parametrize("path", ["/dev/zero", "/tmp"])
def test_special_file_is_rejected(path: str) -> None:
    with pytest.raises(KeyFileError, match="not a regular file"):
        KeyRing(Path(path))


def test_oversized_key_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("#" * (2**20 + 1))
    with pytest.raises(KeyFileError, match="longer than"):
        KeyRing(path)


def test_removed_key_file_keeps_the_last_valid_keys(ring: KeyRing, key_file: Path) -> None:
    key_file.unlink()
    with structlog.testing.capture_logs() as logs:
        ring.authorise(bearer("k-use"), Scope.USE)
    assert "cannot be read" in logs[0]["reason"]
    key_file.write_text(entry("phone", "k-new", "use"))
    assert ring.authorise(bearer("k-new"), Scope.USE).name == "phone"


def test_missing_key_file_fails_the_start(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"none\.yaml cannot be read"):
        KeyRing(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "valid list"),
        ("\x00", "not YAML"),
        ("- [\n", "not YAML: line 2"),
        ("name: x\n", "valid list"),
        ("- {name: x, scopes: [use]}\n", "entry 1, sha256: Field required"),
        (f"- {{name: x, sha256: {'0' * 63}g, scopes: [use]}}\n", "entry 1, sha256: String should match"),
        (f"- {{name: x, sha256: {'0' * 64}, scopes: []}}\n", "entry 1, scopes"),
        (f"- {{name: x, sha256: {'0' * 64}, scopes: [root]}}\n", "'use', 'control', 'operator' or 'admin'"),
        (f"- {{name: x, sha256: {'0' * 64}, scopes: [use], expires: never}}\n", "entry 1, expires: Extra"),
        (entry("x", "a", "use") + entry(" anonymous ", "b", "use"), "entry 2, name: 'anonymous' is reserved"),
        (f"- {{name: '', sha256: {'0' * 64}, scopes: [use]}}\n", "entry 1, name"),
        (entry("x", "a", "use") + entry("x", "b", "use"), "same name twice, in entries 1 and 2"),
        (entry("x", "a", "use") + entry("y", "a", "use"), "same sha256 twice, in entries 1 and 2"),
    ],
)
def test_invalid_key_file_fails_the_start_with_its_position(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(content)
    with pytest.raises(KeyFileError) as refused:
        KeyRing(path)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_binary_key_file_fails_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(KeyFileError, match="cannot be read"):
        KeyRing(path)


def test_all_digit_digest_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"- {{name: 1, sha256: {'1' * 64}, scopes: [use]}}\n")
    with pytest.raises(Unauthenticated):
        KeyRing(path).authorise("Bearer x", Scope.USE)
