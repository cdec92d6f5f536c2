"""Whoever reads a manifest reads what kubectl reads: `validate` and `serve --model-file` by the same table."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.manifest_cases import CASES, UNREADABLE
from whisper_inference.standalone.manifest import ManifestError, _only_document, read_manifest
from whisper_operator.offline.validation import Verdict, verdicts
from whispermodel.manifests import UnreadableManifest, manifests_in

MODEL = "apiVersion: audio-transcriber.io/v1alpha1\nkind: WhisperModel\nmetadata: {name: test}\n"
BOMBS = {
    "aliases of aliases": "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)),
    "merges of merges": "".join(
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], b{n}: 1}}\n" for n in range(1, 30)
    ),
}


def read_by_serve(text: str, folder: Path) -> object:
    path = folder / "model.yaml"
    path.write_text(text)
    return _only_document(path)


@pytest.mark.parametrize(("text", "value"), CASES.items(), ids=CASES)
def test_every_value_is_read_as_kubectl_reads_it(text: str, value: object, tmp_path: Path) -> None:
    if value is UNREADABLE:
        with pytest.raises(UnreadableManifest):
            manifests_in(f"it: {text}")
        with pytest.raises(ManifestError):
            read_by_serve(f"it: {text}", tmp_path)
    else:
        [read] = manifests_in(f"it: {text}")
        assert read == read_by_serve(f"it: {text}", tmp_path) == {"it": value}
        assert isinstance(read["it"], bool) is isinstance(value, bool)


def test_a_file_with_anchors_and_short_words_is_valid_and_obeyed(tmp_path: Path) -> None:
    text = f"{MODEL}spec: {{model: &m {{size: base}}, suspend: y, pod: {{labels: {{<<: *m}}}}}}\n"
    assert list(verdicts(text)) == [Verdict("WhisperModel/test")]
    path = tmp_path / "model.yaml"
    path.write_text(text)
    assert read_manifest(path).spec.suspend is True


@pytest.mark.parametrize("lines", BOMBS.values(), ids=BOMBS)
def test_a_few_lines_that_stand_for_billions_of_values_are_refused(lines: str, tmp_path: Path) -> None:
    text = f"a0: &a0 {{b: 1}}\n{lines}"
    with pytest.raises(UnreadableManifest, match="more than 1000000 values"):
        manifests_in(text)
    with pytest.raises(ManifestError, match="more than 1000000 values"):
        read_by_serve(text, tmp_path)
