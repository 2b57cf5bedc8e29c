"""Each finding fires on what deserves it and keeps quiet on what does not."""

import json

import pytest

from utils import findings
from utils.errors import DataError
from utils.findings import FINDINGS, find_all
from utils.recorded import Recorded, read_recorded

BEST = {"detection": "hmean", "recognition": "exact", "segmentation": "f1", "yolo": "map50_95"}
ARGS = {"epochs": 4, "patience": 0, "batch_size": 8, "accumulation_steps": 1, "num_workers": 2, "scheduler": "cosine",
        "step_epochs": 30, "max_label_length": 5, "threshold": None}


def course(**columns) -> list[dict]:
    """Rows of metrics.jsonl from columns; '/' is written as '__'."""
    length = max(len(values) for values in columns.values())
    return [{"epoch": i + 1, "step": 10 * (i + 1)} | {name.replace("__", "/"): values[i] for name, values in columns.items()}
            for i in range(length)]


def run_of(task, rows=None, per_image=(), numbers=None, **args) -> Recorded:
    rows = [{f"val/{BEST[task]}": 0.5} | row for row in rows or course(val__x=[0])]
    return Recorded(task, BEST[task], ARGS | args, rows, list(per_image), numbers or {})


def readings(*pairs) -> list[dict]:
    return [{"file": f"{i}.png", "truth": truth, "text": text} for i, (truth, text) in enumerate(pairs)]


def swept(precision, recall, hmean, default_hmean):
    return [{"epoch": 1, "val/default_precision": precision, "val/default_recall": recall, "val/hmean": hmean,
             "val/default_hmean": default_hmean, "val/recall": 0.9, "val/thresh": 0.3, "val/box_thresh": 0.35}]


def pages(n_pred, n_truth=3):
    return [{"file": "a/1.png", "tp": 0, "n_pred": n_pred, "n_truth": n_truth}]


def masks(tp, fp, fn, pixels=10_000):
    return [{"file": "1.png", "tp": tp, "fp": fp, "fn": fn, "pixels": pixels}]


def marks(truth, detections):
    return [{"file": "1.png", "truth": truth, "detections": detections}]


def counted(truth, **by_conf):
    """A page of truth {class: how many}, where so many of each class are counted at confidence 0.2, 0.5 and 0.7."""
    return {"file": "1.png", "truth": [class_id for class_id, count in truth.items() for _ in range(count)],
            "detections": [[0, 0.5, "0" * 10]],
            "counts_at": {conf: {str(number): counts[place] for number, counts in enumerate(by_conf.values())}
                          for place, conf in enumerate(("0.2", "0.5", "0.7"))}}


words = [(f"w{i}", f"w{i}") for i in range(12)]
GPU = {"epoch": 1, "perf/gpu_memory_gb": 20.0}

# finding: (a run that deserves it, what its evidence and action must name, runs that do not)
CASES = {
    "scores_of_zero": (
        run_of("detection", course(val__hmean=[0.0], val__precision=[0.0], val__recall=[0.0])), ["epoch 1", "--overfit 8"],
        [run_of("detection", course(val__hmean=[0.0], val__precision=[0.01], val__recall=[0.0])),
         run_of("recognition", course(val__exact=[0.0], val__ned=[0.3]))]),
    "missing_predictions": (
        run_of("detection", per_image=pages(0)), ["1 of 1", "1.png", "--box-thresh"],
        [run_of("detection", per_image=pages(1)), run_of("detection", per_image=pages(0, n_truth=0)),
         run_of("recognition", per_image=readings(("", ""), ("a", "b"))),
         run_of("segmentation", per_image=masks(0, 0, 0) + masks(0, 5, 5)),
         run_of("yolo", per_image=marks([], []) + marks([0], [[0, 0.5, "0" * 10]]))]),
    "precision_far_above_recall": (
        run_of("detection", swept(0.99, 0.44, 0.85, 0.6)), ["0.99", "0.44", "0.8500", "--thresh 0.3 --box-thresh 0.35"],
        [run_of("detection", swept(0.9, 0.8, 0.85, 0.6)), run_of("detection", swept(0.44, 0.99, 0.85, 0.6)),
         run_of("recognition")]),
    "too_few_objects": (
        run_of("yolo", per_image=marks([0] * 40 + [2] * 8, []), numbers={"classes": ["qr", "sign", "stamp"]}),
        ["stamp 8 (one miss costs 12.5 points", "sign none"],
        [run_of("yolo", per_image=marks([0] * 40, []), numbers={"classes": ["qr"]}),
         run_of("detection", per_image=pages(1), numbers={"classes": ["qr"]})]),
    "loss_rises": (
        run_of("segmentation", course(train__loss=[1, 0.8, 0.6, 0.4], val__loss=[1, 0.7, 0.8, 0.9])),
        ["epoch 2", "0.700 to 0.900", "0.800 to 0.400", "--weight-decay"],
        [run_of("segmentation", course(train__loss=[1, 0.8, 0.6, 0.4], val__loss=[1, 0.7, 0.6, 0.9])),  # once is no trend
         run_of("segmentation", course(train__loss=[1, 0.8, 0.9, 1.0], val__loss=[1, 0.7, 0.8, 0.9])),  # both rise
         run_of("segmentation", course(train__loss=[1, 0.8, 0.6, 0.4], val__loss=[1, 0.9, 0.8, 0.7])),
         run_of("yolo", course(train__loss=[2, 3, 9, 8, 7], val__loss=[1, 1.5, 3, 2.9, 2.8])),  # a first rise of both
         run_of("segmentation", course(train__loss=[1, 0.5])), run_of("segmentation", course(val__loss=[1, 0.5]))]),
    "loss_is_zero": (
        run_of("recognition", course(train__loss=[0.0, 0.0])), ["epoch 1", "--img-width"],
        [run_of("recognition", course(train__loss=[0.5, 0.0])), run_of("detection"),
         run_of("segmentation", course(train__loss=[0.1, 0.1]))]),
    "schedule_never_decayed": (
        run_of("detection", course(train__lr=[1e-3] * 4), scheduler="step", step_epochs=100),
        ["0.001", "--step-epochs 100", "4 epochs", "--scheduler cosine"],
        [run_of("detection", course(train__lr=[1e-3, 6e-4, 3e-4, 1e-5])),
         run_of("detection", course(train__lr=[1e-3] * 4), epochs=9)]),  # it goes on
    "schedule_decayed_to_nothing": (
        run_of("detection", course(train__lr=[1e-3, 1e-5, 1e-7, 1e-9]), scheduler="step", step_epochs=1),
        ["epoch 3", "2 of 4", "--step-epochs"],
        [run_of("detection", course(train__lr=[1e-3, 6e-4, 3e-4, 1e-9])),
         run_of("detection", course(train__lr=[1e-9, 1e-9, 1e-3, 1e-3]))]),  # a warm-up is no decay
    "best_is_last": (
        run_of("detection", course(val__hmean=[0.1, 0.2, 0.3, 0.4])), ["0.4000", "0.3000", "--epochs 8"],
        [run_of("detection", course(val__hmean=[0.1, 0.4, 0.3, 0.2])),
         run_of("detection", course(val__hmean=[0.1, 0.2, 0.3, 0.4]), epochs=9)]),
    "loss_at_chance": (
        run_of("recognition", course(train__cross_entropy=[4.7]), numbers={"chance_loss": 7.8, "unigram_entropy": 4.66}),
        ["4.70", "ln V", "7.80", "4.66", "--stem resnet"],
        [run_of("recognition", course(train__cross_entropy=[2.0]), numbers={"chance_loss": 7.8, "unigram_entropy": 4.66}),
         run_of("detection", course(train__loss=[9.0]))]),
    "image_is_ignored": (
        run_of("recognition", course(val__cross_entropy=[2.0], val__shuffled_cross_entropy=[2.05])),
        ["2.000", "2.050", "--ctc-weight 1"],
        [run_of("recognition", course(val__cross_entropy=[1.0], val__shuffled_cross_entropy=[6.0])),
         run_of("recognition", course(val__cross_entropy=[1.0]))]),  # batches of one cannot be shuffled
    "repetition": (
        run_of("recognition", per_image=readings(("ab", "aaaa"), *words)), ["1 of 13", "'aaaa'", "--scale-positions"],
        [run_of("recognition", per_image=readings(("1000000", "1000000"), *words)),
         run_of("recognition", per_image=readings(("ab", "aaab"), *words))]),
    "no_end": (
        run_of("recognition", per_image=readings(("ab", "abcdef"), *words)), ["1 of 13", "6 places"],
        [run_of("recognition", per_image=readings(*words)), run_of("segmentation", per_image=masks(1, 1, 1))]),
    "same_readings": (
        run_of("recognition", per_image=readings(*((truth, "the") for truth, _ in words))), ["1 distinct", "12", "'the'"],
        [run_of("recognition", per_image=readings(*words)),
         run_of("recognition", per_image=readings(("a", "x"), ("b", "x")))]),  # too few to tell
    "little_ink": (
        run_of("segmentation", per_image=masks(20, 0, 20)), ["0.40 %", "--focal-alpha 0.9"],
        [run_of("segmentation", per_image=masks(900, 0, 100)), run_of("detection", per_image=pages(1))]),
    "ink_share_off": (
        run_of("segmentation", per_image=masks(100, 200, 0)), ["3.00 times", "--focal-alpha"],
        [run_of("segmentation", per_image=masks(100, 10, 10)), run_of("segmentation", per_image=masks(0, 5, 0))]),
    "threshold_at_edge": (
        run_of("segmentation", course(val__threshold=[13 / 256])), ["0.0508", "epoch 1", "--focal-alpha"],
        [run_of("segmentation", course(val__threshold=[0.4])),
         run_of("segmentation", course(val__threshold=[0.05]), threshold=0.05),  # given, not swept
         run_of("detection", course(val__box_thresh=[0.6])), run_of("recognition")]),
    "marks_counted_better": (
        run_of("yolo", per_image=[counted({0: 1, 1: 1}, qr=(1, 1, 0), sign=(4, 2, 1)), counted({}, qr=(0, 0, 0), sign=(1, 0, 0))],
               numbers={"classes": ["qr", "sign"]}),
        ["by 2.00 marks with --conf 0.2, and by 0.00", "--class-conf sign=0.7`"],
        [run_of("yolo", per_image=[counted({0: 1, 1: 5}, qr=(1, 1, 0), sign=(0, 1, 1))],
                numbers={"classes": ["qr", "sign"]}),
         run_of("yolo", per_image=[counted({0: 1}, qr=(1, 1, 1), sign=(0, 0, 0))], numbers={"classes": ["qr", "sign"]}),
         run_of("yolo", per_image=marks([0], [[0, 0.5, "0" * 10]]), numbers={"classes": ["qr"]}),  # of an older version
         run_of("detection", per_image=pages(1))]),
    "data_bound": (
        run_of("detection", course(perf__data_wait_share=[0.9, 0.4, 0.5]), numbers={"cpus": 8}, num_workers=2),
        ["45 %", "8 cores", "--num-workers 8"],
        [run_of("detection", course(perf__data_wait_share=[0.9, 0.05]), numbers={"cpus": 8}),  # workers starting
         run_of("detection")]),
    "gpu_memory": (
        run_of("detection", [GPU | {"perf/gpu_memory_share": 0.97}]), ["97 %", "--batch-size 4", "--accumulation-steps 2"],
        [run_of("detection", [GPU | {"perf/gpu_memory_share": 0.7}]), run_of("detection", course(perf__memory_gb=[1.0]))]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_finding_fires_where_it_should_and_nowhere_else(name):
    deserving, named, others = CASES[name]
    found = getattr(findings, name)(deserving)
    for part in named:
        assert part in str(found), part
    for other in others:
        assert getattr(findings, name)(other) is None


def test_every_finding_is_looked_for_and_tested():
    assert {look.__name__ for look in FINDINGS} == set(CASES)
    for deserving, _, _ in CASES.values():
        assert find_all(deserving)


def test_other_ways_a_finding_comes_about():
    low = findings.gpu_memory(run_of("yolo", [GPU | {"perf/gpu_memory_share": 0.1}]))
    assert "underused" in low.title and "--batch-size" in low.action
    assert "--nbs" in findings.gpu_memory(run_of("yolo", [GPU | {"perf/gpu_memory_share": 0.95}])).action
    no_gain = findings.precision_far_above_recall(run_of("detection", swept(0.99, 0.44, 0.6, 0.6)))
    assert "no threshold of the sweep helps" in no_gain.evidence
    assert "--focal-alpha" in findings.precision_far_above_recall(
        run_of("segmentation", course(val__precision=[0.9], val__recall=[0.4]))).action
    assert "edge" in findings.threshold_at_edge(run_of("detection", course(val__box_thresh=[0.3]))).title
    patient = run_of("detection", course(train__lr=[1e-3] * 4, val__hmean=[0.5, 0.4, 0.4, 0.4]), epochs=99, patience=3)
    assert "--patience 3 stopped the run in epoch 4 of 99" in findings.schedule_never_decayed(patient).evidence
    busy = run_of("detection", course(perf__data_wait_share=[0.5]), numbers={"cpus": 2}, cache_targets=False)
    assert "--cache-targets" in findings.data_bound(busy).action
    assert "1 of 2" in findings.missing_predictions(
        run_of("segmentation", per_image=masks(0, 0, 9) + masks(5, 0, 0))).evidence
    assert findings.missing_predictions(run_of("recognition", per_image=readings(("a", ""))))
    assert findings.missing_predictions(run_of("yolo", per_image=marks([1], [])))


def test_a_ctc_head_alone_is_judged_by_its_own_loss():
    """--decoder-weight 0: there is no cross entropy to look at."""
    rows = course(train__ctc=[1, 0.8, 0.6, 0.4], val__ctc=[1, 0.7, 0.8, 0.9])
    assert "since epoch 2 ctc went from 0.700 to 0.900" in findings.loss_rises(run_of("recognition", rows)).evidence
    both = [row | {"train/cross_entropy": 1 / row["epoch"], "val/cross_entropy": 1 / row["epoch"]} for row in rows]
    assert findings.loss_rises(run_of("recognition", both)) is None  # the decoder's is looked at where there is one


def test_readings_that_ran_on_in_spaces_did_not_end():
    endless = [row | {"spaces_cut": 6} for row in readings(("ab", ""), ("cd", "x"))]
    assert "2 of 2" in findings.no_end(run_of("recognition", per_image=endless)).evidence


def test_a_sound_run_and_one_without_epochs_have_no_findings():
    rows = course(train__loss=[1, 0.6, 0.4, 0.3], train__prob=[1, 0.6, 0.4, 0.3], val__prob=[1, 0.7, 0.5, 0.5],
                  train__lr=[1e-3, 7e-4, 3e-4, 1e-5], val__hmean=[0.5, 0.8, 0.9, 0.89], val__precision=[0.9] * 4,
                  val__recall=[0.9] * 4, perf__data_wait_share=[0.3, 0.01, 0.01, 0.01])
    assert find_all(run_of("detection", rows, pages(3))) == []
    assert find_all(Recorded("detection", "hmean", ARGS, [])) == []


def test_rows_of_an_older_version_end_nothing():
    assert [found.title for found in find_all(run_of("segmentation", course(val__threshold=[0.05]), [{"file": "a"}]))] == [
        "The threshold is at the edge of the sweep"]


def test_findings_of_a_folder(tmp_path):
    with pytest.raises(DataError, match="holds no facts.json"):
        read_recorded(tmp_path)
    (tmp_path / "facts.json").write_text(json.dumps({"task": "detection", "best": "hmean", "numbers": {"cpus": 2}}))
    (tmp_path / "args.json").write_text(json.dumps(ARGS))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "val/hmean": 0.0}) + "\n")
    (tmp_path / "per_image.jsonl").write_text(json.dumps(pages(0)[0]) + "\n")
    recorded = read_recorded(tmp_path)
    assert [found.title for found in find_all(recorded)] == ["Missing predictions for ground truth"]
    (tmp_path / "facts.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read_recorded(tmp_path)


def test_what_is_done_already_is_not_advised():
    rows = course(val__ctc=[4.58], val__shuffled_ctc=[4.583])
    blind = findings.image_is_ignored(run_of("recognition", rows, stem="resnet", ctc_weight=1.0, decoder_weight=0.0))
    assert "decoder" not in str(blind) and "--stem" not in str(blind) and "more steps" in blind.action
    favourite = readings(*((truth, "the") for truth, _ in words))
    assert "--stem" not in str(findings.same_readings(run_of("recognition", per_image=favourite, stem="resnet", ctc_weight=1)))
