"""The benchmark of the index: its data are what it says, and a later start reads them from the index."""

from benchmarks import recognition_index
from datasets import crop_index


def test_a_first_and_a_later_start(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(crop_index, "INDEX_FROM", 30)
    monkeypatch.setattr(recognition_index, "COMMIT", 20)
    recognition_index.write_words(tmp_path, 50)
    first = recognition_index.start(tmp_path)
    monkeypatch.setattr(crop_index, "collect", None)  # it would scan with it
    later = recognition_index.start(tmp_path)
    steps = ("read_split_s", "charset_s", "fit_labels_s", "frequencies_s", "widths_s")
    assert first.keys() == later.keys() == {"seconds", "cpu_seconds", *steps, "private_mb", "mapped_mb"}
    assert later["seconds"] > 0 and abs(sum(later[step] for step in steps) - later["seconds"]) < 1e-6
