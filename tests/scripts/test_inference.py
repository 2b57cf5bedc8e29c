"""inference.py as a person runs it, on made documents and small networks; its JSON against the published schema."""

import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest
import segno
import torch
from PIL import Image
from runner import ENVIRONMENT, ROOT, run_script

import inference
from inference import DocumentReader
from models.dbnet import DBNet, DBNetConfig
from models.parseq import PARSeqConfig, build_model
from models.strokes import StrokeNet, StrokesConfig
from utils.checkpoint import save_checkpoint
from utils.errors import DataError
from utils.images import load_image

SCHEMA = json.loads((ROOT / "utils" / "document.schema.json").read_text(encoding="utf-8"))
NAMES = {0: "qr", 1: "signature", 2: "stamp"}
USERS_FLAGS = ("--conf", "0.15", "--group-dist", "50", "--group-iou", "0.2")


def save_model(path, task, model, config, **more):
    save_checkpoint(path, {"task": task, "config": asdict(config), "model": model.state_dict(), "ema": None} | more)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Untrained networks whose last biases are set so that each of them finds something."""
    from models.yolo import YoloConfig, start_model
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    config = DBNetConfig("resnet18", "fpn", 16)
    model = DBNet(config)
    torch.nn.init.zeros_(model.prob_head[-1].weight)
    torch.nn.init.constant_(model.prob_head[-1].bias, 4.0)  # the whole page is one text box
    save_model(folder / "detection.pt", "detection", model, config,
               thresholds={"thresh": 0.3, "box_thresh": 0.5, "unclip_ratio": 1.5, "long_side": 160})
    config = PARSeqConfig("ABC123가나", dim=32, depth=1, heads=2, decoder_heads=2, img_width=64, max_label_length=6)
    model = build_model(config)
    save_model(folder / "recognition.pt", "recognition", model, config, charset_digest=model.charset.digest)
    config = StrokesConfig("unet", "resnet18", 64, 64)
    save_model(folder / "segmentation.pt", "segmentation", StrokeNet(config), config, thresholds={"ink": 0.1})
    model, _, _ = start_model("yolo11n.yaml", NAMES)
    for branch in model.model[-1].cv3:
        torch.nn.init.zeros_(branch[-1].weight)
        branch[-1].bias.data = torch.tensor([0.0, -5.0, -5.0])  # QR codes everywhere, sure to one half
    save_model(folder / "yolo.pt", "yolo", model, YoloConfig(model.yaml, NAMES, 64))
    return folder


def page(width=220, height=160, words="TOTAL 12"):
    image = np.full((height, width, 3), 240, np.uint8)
    cv2.putText(image, words, (10, height // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (20, 20, 20), 2)
    return Image.fromarray(image)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "test_images"
    (folder / "sub").mkdir(parents=True)
    page().save(folder / "a.png")
    page(200, 120).save(folder / "a.jpg", dpi=(300, 300))
    page().save(folder / "sub" / "a.png")
    page().save(folder / "sub" / "영수증 1.png")
    page().save(folder / "results.png")
    page().save(folder / ("x" * 250 + ".png"))
    page().save(folder / "scan.tif", save_all=True, append_images=[page(100, 90)])
    page().save(folder / "letter.pdf", save_all=True, append_images=[page(), page()], resolution=100)
    buffer = io.BytesIO()
    segno.make("지급: 12,000원", error="m").save(buffer, kind="png", scale=5, border=4)
    Image.open(buffer).convert("RGB").save(folder / "code.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "junk.jpg").write_bytes(b"nothing that can be read")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing else")
    (folder / "notes.txt").write_text("not a document")
    return folder


@pytest.fixture(scope="module")
def run(weights, source, tmp_path_factory):
    """One run over everything: (folder of the results, the process)."""
    output = tmp_path_factory.mktemp("run") / "results"
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    done = run_script("inference", "--source", f"{source}/", "--output", output, *USERS_FLAGS, "--weights-dir", weights,
                      status=1)
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before, "the source folder was written to"
    return output, done


def records(output: Path) -> dict:
    """Every document's record by its source, each valid under the schema."""
    found = {}
    for path in output.rglob("*.json"):
        if path == output / "results.json":
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.validate(record, SCHEMA)
        found[record["source"]] = record
    return found


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_document_has_its_record(run, source):
    output, done = run
    found = records(output)
    assert set(found) == {"a.png", "a.jpg", "sub/a.png", "sub/영수증 1.png", "results.png", "x" * 250 + ".png",
                          "scan.tif", "letter.pdf", "code.png", "broken.png", "broken.pdf", "junk.jpg"}
    assert {name: len(record["pages"]) for name, record in found.items() if len(record["pages"]) != 1} \
        == {"scan.tif": 2, "letter.pdf": 3, "broken.pdf": 0, "junk.jpg": 0}
    assert all(record["tasks"] == ["marks", "text", "strokes"] for record in found.values())
    assert [p["width"] for p in found["scan.tif"]["pages"]] == [220, 100]
    first = found["letter.pdf"]["pages"][0]
    assert (first["width"], first["height"], first["dpi"]) == (440, 320, 200)
    assert found["a.jpg"]["pages"][0]["dpi"] == 300 and found["a.png"]["pages"][0]["dpi"] is None


def test_broken_documents_do_not_cost_the_others(run):
    output, done = run
    found = records(output)
    assert "not a readable PDF" in found["broken.pdf"]["error"]
    assert "not a readable image" in found["broken.png"]["pages"][0]["error"]
    failed = {name for name, r in found.items() if r["error"] or any(p["error"] for p in r["pages"])}
    assert failed == {"broken.png", "broken.pdf", "junk.jpg"}
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3 and "Traceback" not in done.stderr
    assert not any(str(output.parent) in json.dumps(r) or "/test_images" in json.dumps(r) for r in found.values())


def test_files_have_names_of_their_own_in_the_folders_of_the_source(run):
    output, _ = run
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    for stem, pages in (("a.png", 1), ("a.jpg", 1), ("sub/a", 1), ("sub/영수증 1", 1), ("results.png", 1), ("code", 1),
                        ("scan", 2), ("letter", 3)):
        assert {f"{stem}.json", f"{stem}.txt"} <= files
        for number in range(1, pages + 1):
            assert {f"{stem}_p{number}_overlay.jpg", f"{stem}_p{number}_strokes.png"} <= files
    assert {name for name in files if name.startswith("broken.png")} == {"broken.png.json", "broken.png.txt"}
    assert len([name for name in files if name.startswith("xxx")]) == 4
    assert {path.name for path in output.parent.iterdir()} == {"results"}
    assert not [name for name in files if name.endswith(".tmp")]


def test_text_marks_and_strokes(run, source):
    output, _ = run
    found = records(output)
    for record in found.values():
        for read in record["pages"]:
            if read["error"]:
                assert not read["text"] and read["strokes"] is None
                continue
            text, = read["text"]
            points = np.array(text["polygon"])
            assert points.min() >= 0 and (points.max(0) <= (read["width"], read["height"])).all()
            assert set(text["text"]) <= set("ABC123가나") and text["line"] == 0 and text["box_score"] > 0.9
            raw, grouped = read["marks"]["raw"], read["marks"]["grouped"]
            assert raw and len(grouped) < len(raw) and {mark["class_name"] for mark in raw} == {"qr"}
            assert sum(mark["merged_count"] for mark in grouped) <= len(raw)
            assert {member for mark in grouped for member in mark["member_ids"]} <= {mark["id"] for mark in raw}
            for mark in raw + grouped:
                x1, y1, x2, y2 = mark["box"]
                assert 0 <= x1 <= x2 <= read["width"] and 0 <= y1 <= y2 <= read["height"] and mark["confidence"] > 0.15
    strokes = cv2.imread(str(output / "scan_p2_strokes.png"), cv2.IMREAD_UNCHANGED)
    assert strokes.shape == (90, 100) and set(np.unique(strokes)) <= {0, 255}
    assert found["scan.tif"]["pages"][1]["strokes"] == "scan_p2_strokes.png"
    text = found["letter.pdf"]["pages"]
    assert (output / "letter.txt").read_text(encoding="utf-8") == "\f".join(p["text"][0]["text"] + "\n" for p in text)
    assert load_image(output / "letter_p1_overlay.jpg").shape[1] > 2 * 440


def test_qr_codes_say_what_they_hold_or_that_they_cannot_be_read(run):
    found = records(run[0])
    code, *others = [c for c in found["code.png"]["pages"][0]["qr"] if c["status"] == "decoded"]
    assert code["payload"] == "지급: 12,000원" and not others
    blank = found["a.png"]["pages"][0]
    assert len(blank["qr"]) == len(blank["marks"]["grouped"]) > 0
    assert {(c["status"], c["payload"]) for c in blank["qr"]} == {("unreadable", None)}


def test_results_json_is_the_sum(run):
    output, done = run
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    found, summary = records(output), results["summary"]
    pages = [p for record in found.values() for p in record["pages"]]
    assert summary["documents"] == 12 == len(results["documents"]) and summary["failed_documents"] == 3
    assert summary["pages"] == len(pages) == 13 and summary["failed_pages"] == 1 and summary["text_boxes"] == 12
    assert summary["raw_detections"] == len(results["raw_detections"]) == sum(len(p["marks"]["raw"]) for p in pages)
    assert summary["merged_detections"] == len(results["merged_detections"]) == summary["merged_by_class"]["qr"]
    assert summary["qr_codes"] - summary["unreadable_qr_codes"] == 1
    assert all(mark["merged_count"] >= 1 and mark["source"] in found for mark in results["merged_detections"])
    assert all((output / entry["output"]).is_file() for entry in results["documents"])
    failed = {entry["source"] for entry in results["documents"] if entry["error"] or entry["failed_pages"]}
    assert failed == {"broken.png", "broken.pdf", "junk.jpg"}
    assert results["settings"] == {"tasks": ["marks", "text", "strokes"], "conf": 0.15, "grouping": "components",
                                   "group_dist": 50.0, "group_iou": 0.2, "dpi": 200.0}
    assert "12 documents (3 with errors), 13 pages" in done.stdout


def test_python_api_equals_the_json(run, weights, source):
    output, _ = run
    reader = DocumentReader(weights)
    for name, file in (("letter.pdf", "letter.json"), ("scan.tif", "scan.json"), ("broken.pdf", "broken.pdf.json")):
        assert reader.read(source / name) == json.loads((output / file).read_text(encoding="utf-8")), name
    from_file = reader.read(str(source / "code.png"))
    from_array = reader.read(load_image(source / "code.png"))
    jsonschema.validate(from_array, SCHEMA)
    without_names = [{key: value for key, value in p.items() if key != "strokes"} for p in from_file["pages"]]
    assert without_names == [{key: value for key, value in p.items() if key != "strokes"} for p in from_array["pages"]]
    assert "is no page" in reader.read(np.zeros((5, 5)))["error"]
    assert "no such file" in reader.read(source / "missing.png")["error"]


def test_the_users_command_runs_where_all_is_well(weights, source, tmp_path):
    folder = tmp_path / "test_images"
    folder.mkdir()
    page().save(folder / "a.png")
    done = run_script("inference", "--source", "test_images/", "--output", "results/", *USERS_FLAGS, "--weights-dir",
                      weights, "--tasks", "text,marks", "--no-overlays", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"a.json", "a.txt", "results.json"}
    assert records(tmp_path / "results")["a.png"]["tasks"] == ["marks", "text"] and "error" not in done.stderr
    bad = run_script("inference", "--source", "test_images/", "--weights-dir", tmp_path, cwd=tmp_path, status=2)
    assert bad.stderr.startswith("error: ") and "make demo" in bad.stderr and len(bad.stderr.strip().splitlines()) == 1
    assert "train_detection.py" in bad.stderr


def test_text_without_recognition_weights(weights, tmp_path):
    page().save(tmp_path / "a.png")
    status = inference.main(["--source", str(tmp_path / "a.png"), "--output", str(tmp_path / "out"), "--tasks", "text",
                             "--weights-dir", str(tmp_path), "--detection-weights", str(weights / "detection.pt")])
    text, = records(tmp_path / "out")["a.png"]["pages"][0]["text"]
    assert status == 0 and text["text"] is None and text["score"] == text["box_score"]
    assert not (tmp_path / "out" / "a.txt").exists()


def test_distance_is_scaled_by_the_pages_resolution(weights, monkeypatch):
    reader = DocumentReader(weights, ["marks"], group_iou=1.0)
    boxes = [[10, 10, 50, 50], [70, 10, 110, 50]]  # centres 60 pixels apart
    marks = [{"class_name": "stamp", "class_id": 2, "confidence": 0.9, "box": box} for box in boxes]
    monkeypatch.setattr(reader.modules["yolo"], "detect", lambda *_, **__: marks)
    image = np.full((120, 120, 3), 255, np.uint8)
    counts = [len(reader._find_marks(inference.Page(1, image, dpi))[0]["grouped"]) for dpi in (None, 200, 400)]
    assert counts == [2, 2, 1]


def test_a_page_that_upsets_a_model_does_not_cost_the_others(weights, source, monkeypatch):
    reader = DocumentReader(weights, ["text"])
    module = reader.modules["detection"]
    predict, pages = module.predict_boxes, iter(range(3))

    def second_fails(*arguments):
        if next(pages) == 1:
            raise RuntimeError("out of\nmemory")
        return predict(*arguments)

    monkeypatch.setattr(module, "predict_boxes", second_fails)
    record = reader.read(source / "letter.pdf")
    jsonschema.validate(record, SCHEMA)
    assert [p["error"] for p in record["pages"]] == [None, "RuntimeError: out of memory", None]


def test_limits(weights, source):
    reader = DocumentReader(weights, ["text"], max_pages=2, max_pixels=220 * 160)
    record = reader.read(source / "letter.pdf")
    jsonschema.validate(record, SCHEMA)
    assert "has 3 pages, of which the first 2 were read" in record["error"] and record["page_count"] == 3
    assert len(record["pages"]) == 2 and all("over the limit" in p["error"] for p in record["pages"])
    assert reader.read(source / "a.png")["pages"][0]["error"] is None


def test_only_what_a_task_needs_is_imported(weights, source):
    code = ("import sys; from inference import DocumentReader; "
            f"DocumentReader({str(weights)!r}, ['text']).read({str(source / 'a.png')!r}); "
            "sys.exit('ultralytics' in sys.modules or 'models.strokes' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, timeout=120).returncode == 0


@pytest.mark.parametrize("flags", [("--tasks", "ocr"), ("--conf", "1.5"), ("--dpi", "0"), ("--grouping", "kmeans"),
                                   ("--group-dist", "-1"), ("--max-pages", "0"), ("--unknown", "1"), ("--tasks", "")])
def test_flags_that_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        inference.main(["--source", "x", *flags])
    assert stop.value.code == 2 and flags[0] in capsys.readouterr().err


@pytest.mark.parametrize("flags, message", [
    (["--source", "missing"], "missing: no such file or folder"),
    (["--output", "."], "inside the output folder"),
    (["--weights-dir", "."], "way out: --weights-dir demo/weights after `make demo`"),
    (["--recognition-weights", "gone.pt"], "gone.pt: no such checkpoint"),
    (["--recognition-weights", "a.png"], "a.png: "),
    (["--detection-weights", "yolo.pt"], "yolo.pt: holds a model for yolo, not for detection"),
    (["--yolo-weights", "yolo.pt", "--tasks", "text"], "which the tasks text do not use"),
    (["--device", "abacus"], "is none of auto, cpu, cuda"),
    (["--output", "a.png/deeper"], "cannot be written"),
])
def test_bad_input(weights, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    page().save(tmp_path / "a.png")
    os.symlink(weights / "yolo.pt", tmp_path / "yolo.pt")
    with pytest.raises(DataError, match=message):
        inference.main(["--source", "a.png", "--output", "out", "--tasks", "text", "--weights-dir", str(weights),
                        *flags])
