"""PDFs and drawn marks made into YOLO folders: boxes where they were drawn, splits without leaks, bad boxes named."""

import copy
import json
import re

import numpy as np
import pytest
from PIL import Image

from datasets.prepare_yolo import main
from datasets.yolo import index_marks, read_data_yaml
from utils.errors import DataError
from utils.images import load_image

COLOURS = {"qr": (0, 0, 255), "signature": (0, 160, 0), "stamp": (255, 0, 0)}
WIDTH, HEIGHT, INCH = 200, 300, 72  # of a page in points


def make_pdf(path, pages):
    """pages: for each a list of (class, [x, y, w, h] in points), drawn filled, and a number that makes it unique."""
    images = []
    for number, marks in pages:
        image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        if number is not None:
            image[2:6, 2 : 3 + number] = 90
        for name, (x, y, w, h) in marks:
            image[y : y + h, x : x + w] = COLOURS[name]
        images.append(Image.fromarray(image))
    images[0].save(path, save_all=True, append_images=images[1:], resolution=INCH, quality=95)


def page(marks, scale=1.0, form=dict):
    """A page of the annotation file, at `scale` pixels a point."""
    def numbers(keys, values):
        values = [value * scale for value in values]
        return dict(zip(keys, values)) if form is dict else values

    return {"page_size": numbers(("width", "height"), (WIDTH, HEIGHT)),
            "annotations": [{f"annotation_{n}": {"category": name, "bbox": numbers(("x", "y", "width", "height"), box)}}
                            for n, (name, box) in enumerate(marks)]}


@pytest.fixture
def source(tmp_path):
    """Ten PDFs of two pages, each with a mark or two on the first and none on the second."""
    (tmp_path / "pdfs").mkdir()
    annotations = {}
    for number in range(10):
        marks = [("stamp", [20 + number, 40, 50, 30])] + [("qr", [100, 200, 40, 40])] * (number % 2)
        make_pdf(tmp_path / f"pdfs/letter {number}.pdf", [(number, marks), (50 + number, [])])
        annotations[f"letter {number}.pdf"] = {"page_1": page(marks, 2.0, list if number % 3 else dict)}
    return tmp_path, annotations


def prepare(source, annotations, *flags):
    (source / "marks.json").write_text(json.dumps(annotations), encoding="utf-8")
    main(["--annotations", str(source / "marks.json"), "--pdf-dir", str(source / "pdfs"), "--out", str(source / "out"),
          *flags])
    return read_data_yaml(source / "out")


def everything(data, splits=("train", "val")):
    return {sample.file.stem: (split, sample) for split in splits for sample in index_marks(data, split, 0.0)}


def test_boxes_lie_on_what_was_drawn(source, capsys):
    folder, annotations = source
    data = prepare(folder, annotations)
    assert data.names == {0: "qr", 1: "stamp"}
    pages = everything(data)
    assert len(pages) == 20
    for number in range(10):
        split, sample = pages[f"letter {number}_page_1"]
        image = load_image(sample.file)
        assert image.shape == (2 * HEIGHT, 2 * WIDTH, 3)  # the annotation's page size
        for class_id, (x1, y1, x2, y2) in zip(sample.classes, sample.corners()):
            colour = COLOURS[data.names[class_id]]
            drawn = np.abs(image.astype(int) - colour).sum(2) < 120
            rows, columns = np.nonzero(drawn)
            np.testing.assert_allclose([x1, y1, x2, y2], [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1],
                                       atol=3)
        other_split, empty = pages[f"letter {number}_page_2"]
        assert other_split == split and not len(empty.classes)  # a negative, with the rest of its document
    told = capsys.readouterr().out
    assert "train: 18 pages of 9 documents, 9 without marks" in told and "val: 2 pages of 1 documents" in told
    summary = json.loads((folder / "out/summary.json").read_text())
    assert summary["classes"]["stamp"]["share"] == pytest.approx(10 / 15, abs=1e-4)
    assert summary["classes"]["stamp"]["width_px"] == [100, 100, 100]
    assert summary["classes"]["stamp"]["width_mm"][1] == pytest.approx(50 / INCH * 25.4, abs=0.1)


def test_every_page_is_pictured_in_the_agreed_colours(source):
    folder, annotations = source
    pages = everything(prepare(folder, annotations))
    for name, (split, _) in pages.items():
        assert (folder / f"out/vis/{split}/{name}.jpg").is_file()
    image = load_image(folder / f"out/vis/{pages['letter 1_page_1'][0]}/letter 1_page_1.jpg").astype(int)
    assert (np.abs(image - (25, 90, 235)).sum(2) < 60).any() and (np.abs(image - (220, 30, 45)).sum(2) < 60).any()


def test_the_split_depends_on_the_seed_and_on_nothing_else(source):
    folder, annotations = source
    def split_of(*flags):
        return {name: split for name, (split, _) in everything(prepare(folder, annotations, *flags)).items()}

    first = split_of("--val-fraction", "0.3")
    assert first == split_of("--val-fraction", "0.3", "--seed", "42")
    assert any(split_of("--val-fraction", "0.3", "--seed", str(seed)) != first for seed in (1, 2, 3))
    assert sum(split == "val" for split in first.values()) == 6


def test_documents_that_share_a_page_share_a_split(source):
    """A copy under another name, and a document with one page of another in it."""
    folder, annotations = source
    for seed in range(2):
        for number in range(5):
            (folder / f"pdfs/copy {number}.pdf").write_bytes((folder / f"pdfs/letter {number}.pdf").read_bytes())
            annotations[f"copy {number}.pdf"] = annotations[f"letter {number}.pdf"]
        pages = everything(prepare(folder, annotations, "--val-fraction", "0.4", "--seed", str(seed)))
        for number in range(5):
            assert pages[f"copy {number}_page_1"][0] == pages[f"letter {number}_page_1"][0]


def test_a_copy_of_which_other_pages_are_annotated_shares_the_split(source):
    """Pages are scaled to the size that their annotation names, and those without one stay as they were rendered."""
    folder, annotations = source
    for seed in range(2):
        for number in range(5):
            (folder / f"pdfs/copy {number}.pdf").write_bytes((folder / f"pdfs/letter {number}.pdf").read_bytes())
            annotations[f"copy {number}.pdf"] = {"page_2": page([("stamp", [30, 50, 40, 20])], 1.5)}
        pages = everything(prepare(folder, annotations, "--val-fraction", "0.4", "--seed", str(seed)))
        for number in range(5):
            assert pages[f"copy {number}_page_1"][0] == pages[f"letter {number}_page_1"][0]


def test_one_document_cannot_be_dealt_out(source, capsys):
    folder, annotations = source
    for number in range(1, 10):
        (folder / f"pdfs/letter {number}.pdf").unlink()
    annotations = {"letter 0.pdf": annotations["letter 0.pdf"]}
    with pytest.raises(DataError, match="^letter 0.pdf: 1 document cannot be dealt out to train and val; way out: "
                       "--val-fraction 0, or more PDFs$"):
        prepare(folder, annotations)
    assert not (folder / "out").exists()
    (folder / "pdfs/copy.pdf").write_bytes((folder / "pdfs/letter 0.pdf").read_bytes())
    with pytest.raises(DataError, match="^copy.pdf, letter 0.pdf: 2 documents that share pages cannot be dealt out to"):
        prepare(folder, annotations | {"copy.pdf": {}})
    prepare(folder, annotations, "--val-fraction", "0")
    assert "train: 2 pages of 1 documents" in capsys.readouterr().out


def test_a_class_without_marks_keeps_its_number_where_nothing_else_is_left_out(source, capsys):
    folder, annotations = source
    data = prepare(folder, annotations, "--names", "qr,signature,stamp")
    assert data.names == {0: "qr", 1: "signature", 2: "stamp"}
    assert "warning: " in (said := capsys.readouterr().err) and "has no mark of signature" in said
    with pytest.raises(DataError, match="--names signature: no mark is called so; there are qr, stamp"):
        prepare(folder, annotations, "--names", "signature,stamp")


def test_gaps_between_the_splits_are_said(source, capsys):
    folder, annotations = source
    last = annotations["letter 9.pdf"]
    annotations = {name: {"page_1": page([("stamp", [20, 40, 50, 30])])} for name in annotations} | {"letter 9.pdf": last}
    prepare(folder, annotations, "--val-fraction", "0.2")
    assert re.search("warning: (train|val): has no mark of qr; another --seed", capsys.readouterr().err)
    prepare(folder, annotations, "--val-fraction", "0")
    assert "warning: no val: train_yolo.py needs one" in capsys.readouterr().err


def test_empty_paper_does_not_join_documents(source, capsys):
    folder, annotations = source
    for name in annotations:
        make_pdf(folder / "pdfs" / name, [(int(name[7]), annotations[name] and []), (None, [])])
        annotations[name] = {"page_1": page([("stamp", [20, 40, 50, 30])])}
    pages = everything(prepare(folder, annotations))
    assert {split for split, _ in pages.values()} == {"train", "val"} and len(pages) == 11
    assert capsys.readouterr().err.count("empty paper like a page before") == 9


def test_invalid_boxes_are_named_and_left_out(source, capsys):
    folder, annotations = source
    wrong = {"none": ("stamp", [20, 40, 0, 30]), "outside": ("stamp", [380, 40, 50, 30]),
             "negative": ("qr", [20, 40, 30, -3]), "nan": ("qr", [float("nan"), 1, 2, 3])}
    annotations["letter 0.pdf"]["page_1"]["annotations"] += [
        {key: {"category": name, "bbox": box}} for key, (name, box) in wrong.items()] + [
        {"texts": {"category": "qr", "bbox": ["a", 1, 2, 3]}}, {"without": {"category": "qr"}}, "nothing", {"bare": 7},
        {"category": "qr", "bbox": [10, 10, 20, 20]}]
    with pytest.raises(DataError, match="8 of 24 samples are bad"):
        prepare(folder, annotations)
    assert not (folder / "out").exists() and not list(folder.glob(".making-*"))
    capsys.readouterr()
    pages = everything(prepare(folder, annotations, "--max-bad-fraction", "0.5"))
    told = capsys.readouterr().err
    for key in (*wrong, "texts", "without", "annotation 8", "bare"):
        assert f"letter 0.pdf page_1 {key}" in told, key
    assert len(pages["letter 0_page_1"][1].classes) == 2
    assert len(json.loads((folder / "out/summary.json").read_text())["left_out"]) == 8


def test_pdfs_that_the_annotations_do_not_name_are_in_the_summary(source, capsys):
    folder, annotations = source
    for number in range(2, 10):
        del annotations[f"letter {number}.pdf"]
    prepare(folder, annotations)
    marks = folder / "marks.json"
    assert f"8 PDFs are not in {marks} and were left out: letter 2.pdf, letter 3.pdf, " in capsys.readouterr().out
    assert json.loads((folder / "out/summary.json").read_text())["left_out"] == [
        f"{folder}/pdfs/letter {number}.pdf: is not in {marks}" for number in range(2, 10)]


def test_an_earlier_build_is_replaced_and_nothing_else_is(source):
    folder, annotations = source
    prepare(folder, annotations)
    fewer = copy.deepcopy(annotations)
    del fewer["letter 3.pdf"]
    pages = everything(prepare(folder, fewer))
    assert len(pages) == 18 and not list((folder / "out").rglob("*letter 3*"))
    (folder / "out/summary.json").unlink()
    with pytest.raises(DataError, match="was not made by this command"):
        prepare(folder, annotations)
    assert len(everything(read_data_yaml(folder / "out"))) == 18


@pytest.mark.parametrize(("change", "reason"), [
    (lambda a: a.update({"../outside.pdf": a["letter 0.pdf"]}), "leaves the folder"),
    (lambda a: a.update({"absent.pdf": a["letter 0.pdf"]}), "absent.pdf: no such file"),
    (lambda a: a["letter 0.pdf"].update({"page_9": page([])}), "page 9 is annotated"),
    (lambda a: a["letter 0.pdf"].update({"first": page([])}), "'first' is no page"),
    (lambda a: a["letter 0.pdf"]["page_1"].update(page_size=[300, 200]), "not the same page"),
    (lambda a: a["letter 0.pdf"]["page_1"].update(page_size=[1e9, 1e9]), "no size in pixels"),
    (lambda a: a["letter 0.pdf"]["page_1"].update(page_size="A4"), "page_size must be"),
    (lambda a: a["letter 0.pdf"]["page_1"].update(annotations={}), "must be a list"),
    (lambda a: a.update({"letter 0.pdf": []}), "must hold an object of pages"),
    (lambda a: a.clear(), "must hold an object"),
])
def test_annotations_that_cannot_be_used(source, change, reason):
    folder, annotations = source
    (folder / "outside.pdf").write_bytes((folder / "pdfs/letter 0.pdf").read_bytes())
    change(annotations)
    with pytest.raises(DataError, match=reason):
        prepare(folder, annotations, "--max-bad-fraction", "0")
    assert not (folder / "out").exists()


def test_a_page_is_stretched_as_it_was_annotated_and_that_is_said(source, capsys):
    """Squares, on which the user's own pages were annotated."""
    folder, annotations = source
    for number in range(3):
        square = annotations[f"letter {number}.pdf"]["page_1"]
        square["page_size"] = [600, 600]
        for entry in square["annotations"]:
            for mark in entry.values():
                box = list(mark["bbox"].values()) if isinstance(mark["bbox"], dict) else mark["bbox"]
                mark["bbox"] = [box[0] * 1.5, box[1], box[2] * 1.5, box[3]]
    pages = everything(prepare(folder, annotations))
    told = capsys.readouterr().err
    assert "warning: 3 of 20 pages were stretched to the page_size of their annotation, at most by 50%" in told
    for number in range(3):
        sample = pages[f"letter {number}_page_1"][1]
        image = load_image(sample.file)
        assert image.shape == (600, 600, 3)
        rows, columns = np.nonzero(np.abs(image.astype(int) - COLOURS["stamp"]).sum(2) < 120)
        place = sample.classes.tolist().index(1)
        np.testing.assert_allclose(sample.corners()[place], [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1],
                                   atol=4)
    stamp = json.loads((folder / "out/summary.json").read_text())["classes"]["stamp"]
    for side, points in (("width_mm", 50), ("height_mm", 30)):  # on paper they are what they were
        assert stamp[side] == pytest.approx([points / INCH * 25.4] * 3, abs=0.1)


def test_pages_that_are_enlarged_to_their_annotation_are_said_with_the_dpi_that_would_do(source, capsys):
    folder, annotations = source  # drawn at 144 DPI
    prepare(folder, annotations, "--dpi", "72")
    told = capsys.readouterr().err
    assert "warning: 10 of 20 pages were enlarged to the page_size of their annotation, at most 2 times" in told
    assert "(letter 0_page_1: 400 x 600)" in told and "--dpi 144" in told and "stretched" not in told
    prepare(folder, annotations, "--dpi", "144")
    assert "enlarged" not in capsys.readouterr().err
    prepare(folder, annotations, "--dpi", "100.5")
    assert "at most 1.43 times" in (told := capsys.readouterr().err) and "--dpi 144 " in told


def test_what_is_too_large_is_said_once_and_with_a_way_out_that_is_here(source):
    folder, annotations = source
    with pytest.raises(DataError) as error:
        prepare(folder, annotations, "--dpi", "5000")
    first = str(error.value).split("; /")[0]
    assert first.count("letter 0.pdf") == 1 and "page 1 would have 13889 x 20834 pixels" in first
    assert first.endswith("way out: a lower --dpi") and "--max-pixels" not in str(error.value)
    annotations["letter 0.pdf"]["page_1"]["page_size"] = [20000, 30000]
    with pytest.raises(DataError, match="its annotation 20000 x 30000: over the limit of 100000000 pixels"):
        prepare(folder, annotations, "--max-bad-fraction", "0")


def test_a_page_that_hangs_costs_that_page(source, tmp_path, monkeypatch, capsys):
    folder, annotations = source
    (tmp_path / "sabotage").mkdir()
    (tmp_path / "sabotage/sitecustomize.py").write_text(
        "import time\nfrom utils import documents\nplain = documents.render_page\n"
        "def render_page(pdf, number, path, *rest):\n"
        "    time.sleep(60 if (number, path.stem) == (2, 'letter 3') else 0)\n"
        "    return plain(pdf, number, path, *rest)\n"
        "documents.render_page = render_page\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "sabotage"))
    pages = everything(prepare(folder, annotations, "--timeout", "2"))
    assert len(pages) == 19 and "letter 3_page_2" not in pages
    assert "letter 3.pdf: page 2: took longer than 2 s; way out: a higher --timeout" in capsys.readouterr().err


def test_a_pdf_that_cannot_be_opened_ends_it_by_name(source):
    folder, annotations = source
    (folder / "pdfs/letter 4.pdf").write_bytes(b"%PDF-1.4 nothing")
    with pytest.raises(DataError, match="^[^:]*letter 4.pdf: not a readable PDF$"):
        prepare(folder, annotations)


def test_a_link_out_of_the_pdf_folder_is_refused(source):
    folder, annotations = source
    (folder / "pdfs/letter 0.pdf").rename(folder / "elsewhere.pdf")
    (folder / "pdfs/letter 0.pdf").symlink_to(folder / "elsewhere.pdf")
    with pytest.raises(DataError, match="leaves the folder"):
        prepare(folder, annotations)
