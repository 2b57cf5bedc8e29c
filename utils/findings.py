"""What a run's own figures give away, each with its evidence and the flag to try next.

A finding is a small pure function of what the run wrote down (utils.recorded), so it says the same while the run goes on,
when it has ended, and years later from its folder (python -m experiments.card findings RUN). None: nothing to be said.
The bars are rules of thumb, stated once beside their findings; a finding is a place to look at, not a verdict.
"""

from pathlib import Path

from utils.recorded import Finding, Recorded, loss_name
from utils.task_findings import (image_is_ignored, ink_share_off, little_ink, loss_at_chance, marks_counted_better, no_end,
                                 repetition, same_readings, threshold_at_edge)

PRECISION_GAP = 0.2  # precision this far above recall
RISE = 1.05  # a validation loss so many times its lowest
STILL_HIGH, NOTHING_LEFT, IDLE_SHARE = 0.5, 1e-3, 0.25  # rates as shares of the highest; share of epochs
FEW_OBJECTS = 30  # a miss costs over 3 points
WAITING = 0.2  # share of the epoch's time
MEMORY_LOW, MEMORY_HIGH = 0.4, 0.92  # peak over total


def find_all(run: Recorded) -> list[Finding]:
    """Every finding about the run, those about its data and scores first; none before the first epoch has ended."""
    found = []
    for look in FINDINGS if run.rows else ():
        try:
            found.append(look(run))
        except KeyError:  # rows of an older version lack what it asks for: no reason to end a training that goes on
            continue
    return [finding for finding in found if finding]


# scores --------------------------------------------------------------------------------------------------------------


def scores_of_zero(run: Recorded) -> Finding | None:
    """Every score of the latest epoch is exactly 0: as a rule a fault in labels, frames or decoding."""
    names = {"detection": ("hmean", "precision", "recall"), "recognition": ("exact", "ned"),
             "segmentation": ("f1", "precision", "recall"), "yolo": ("map50", "precision", "recall")}[run.task]
    if any(run.last.get(f"val/{name}", 1.0) for name in names):
        return None
    return Finding("Scores of exactly 0", f"{', '.join(names)} are all 0 in epoch {run.last['epoch']}",
                   "`--overfit 8`: where even that stays at 0, labels, image size or decoding are at fault, not the "
                   "length of training; read the Preflight lines too")


def missing_predictions(run: Recorded) -> Finding | None:
    """Nothing was predicted where there is truth."""
    missing = [row["file"] for row in run.per_image if _truth_without_prediction(run.task, row)]
    if not missing:
        return None
    action = {"detection": "`--box-thresh 0.3`, and a look at these pages in TensorBoard's pictures",
              "recognition": "a look at these crops: are they empty, or far wider than `--img-width` allows?",
              "segmentation": "`--threshold 0.3` in a test of these pages, or `--focal-alpha 0.9`",
              "yolo": "a larger `--img-size`: are the marks there only a few pixels wide?"}[run.task]
    named = ", ".join(Path(name).name for name in missing[:3]) + (", ..." if len(missing) > 3 else "")
    return Finding("Missing predictions for ground truth",
                   f"nothing at all on {len(missing)} of {len(run.per_image)} with truth ({named})", action)


def _truth_without_prediction(task: str, row: dict) -> bool:
    if task == "detection":
        return row["n_truth"] > 0 and row["n_pred"] == 0
    if task == "recognition":
        return bool(row["truth"]) and not row["text"]
    if task == "segmentation":
        return row["tp"] + row["fn"] > 0 and row["tp"] + row["fp"] == 0
    return bool(row["truth"]) and not row["detections"]


def precision_far_above_recall(run: Recorded) -> Finding | None:
    """Too strict: with the value that the threshold sweep liked better, where there is one."""
    row = run.best_row
    swept = {"val/default_precision", "val/thresh", "val/box_thresh"} <= set(row)
    precision, recall = (row.get(f"val/{'default_' if swept else ''}{name}") for name in ("precision", "recall"))
    if precision is None or precision - recall < PRECISION_GAP:
        return None
    evidence = f"precision {precision:.2f}, recall {recall:.2f} in epoch {row['epoch']}"
    if swept:
        evidence += " at the thresholds that were set"
        gain = row["val/hmean"] - row["val/default_hmean"]
        if gain > 0.005:
            return Finding("Precision far above recall", f"{evidence}; the sweep reaches hmean {row['val/hmean']:.4f} "
                           f"(not {row['val/default_hmean']:.4f}) with recall {row['val/recall']:.2f} at thresh "
                           f"{row['val/thresh']:g} and box_thresh {row['val/box_thresh']:g}",
                           f"`--thresh {row['val/thresh']:g} --box-thresh {row['val/box_thresh']:g}` (best.pt keeps "
                           "these already)")
        return Finding("Precision far above recall", f"{evidence}, and no threshold of the sweep helps: the text is not "
                       "in the map", "longer training, or a larger `--test-long-side` if what is missed is small")
    action = {"segmentation": "`--focal-alpha 0.9`, which weighs missed ink more",
              "yolo": "a lower `--conf` in inference.py; for training, a larger `--img-size` or more `--epochs`"}
    return Finding("Precision far above recall", evidence + ", at the threshold that is best for both", action[run.task])


def too_few_objects(run: Recorded) -> Finding | None:
    """Classes whose scores a single object decides."""
    names = run.numbers.get("classes", [])
    truth = [class_id for row in run.per_image for class_id in row.get("truth", [])] if run.task == "yolo" else []
    counts = {name: truth.count(class_id) for class_id, name in enumerate(names)}
    few = {name: count for name, count in counts.items() if count < FEW_OBJECTS}
    if not truth or not few:
        return None
    said = ", ".join(f"{name} {count} (one miss costs {100 / count:.1f} points of recall)" if count else
                     f"{name} none (not scored at all)" for name, count in few.items())
    return Finding("Too few validation objects", f"{said}; {FEW_OBJECTS} or more make a score worth comparing",
                   "more labelled pages in val/, or a larger share for it by `--split-fractions`; until then compare runs "
                   "by the interval of `python -m experiments.compare`, not by the score")


# course of the training ----------------------------------------------------------------------------------------------


def loss_rises(run: Recorded) -> Finding | None:
    """Validation loss rising while the training loss falls, since its lowest epoch."""
    name = loss_name(run)
    rows = [row for row in run.rows if f"val/{name}" in row and f"train/{name}" in row]
    # While the training loss itself still rises (a warm-up, YOLO's first assignments), nothing can be said.
    rows = rows[max(range(len(rows)), key=lambda i: rows[i][f"train/{name}"]) :] if rows else []
    if len(rows) < 3:
        return None
    turn = min(range(len(rows)), key=lambda i: rows[i][f"val/{name}"])
    low, last = rows[turn], rows[-1]
    # Two epochs and more above the lowest: a single bad epoch is no trend.
    since = rows[turn + 1 :]
    if (len(since) < 2 or min(row[f"val/{name}"] for row in since[-2:]) < RISE * low[f"val/{name}"]
            or last[f"train/{name}"] >= low[f"train/{name}"]):
        return None
    less = {"detection": "`--scale-range 0.5 2.0 --rotate 10 --flip 0.5` (or wider)", "recognition": "`--perm-num 12`",
            "segmentation": "`--resize crop`, which shows other pieces each time", "yolo": "`--mosaic 1 --scale 0.9`"}
    return Finding("Validation loss rises while the training loss falls",
                   f"since epoch {low['epoch']} {name} went from {low[f'val/{name}']:.3f} to {last[f'val/{name}']:.3f} on "
                   f"validation and from {low[f'train/{name}']:.3f} to {last[f'train/{name}']:.3f} in training; "
                   f"the best {run.best} was in epoch {run.best_row['epoch']}",
                   f"more pages; stronger augmentation ({less[run.task]}); a higher `--weight-decay`; or stop earlier, "
                   f"by `--patience 5`")


def loss_is_zero(run: Recorded) -> Finding | None:
    """Exactly nothing to learn since the first epoch: no training ends up there."""
    if any(row.get("train/loss", 1.0) for row in run.rows):
        return None
    action = ("a wider `--img-width`: a CTC head learns no label that is longer than the frames of its crop"
              if run.task == "recognition" else "`--overfit 8`, and a look at the Preflight lines: are there labels at all?")
    return Finding("The training loss is exactly 0", f"since epoch {run.rows[0]['epoch']}: nothing is learnt", action)


def schedule_never_decayed(run: Recorded) -> Finding | None:
    """The rate at the end is still over half of the highest."""
    rates = [row["train/lr"] for row in run.rows if "train/lr" in row]
    if not run.ended or len(rates) < 3 or rates[-1] <= STILL_HIGH * max(rates):
        return None
    args, evidence = run.args, f"the rate was {max(rates):.3g} at its highest and {rates[-1]:.3g} at the end"
    if args.get("scheduler") == "step":
        evidence += f": --step-epochs {args['step_epochs']} falls beyond the {run.last['epoch']} epochs of the run"
    elif run.out_of_patience and run.last["epoch"] < args["epochs"]:
        evidence += (f": --patience {args['patience']} stopped the run in epoch {run.last['epoch']} of {args['epochs']}, "
                     "before the schedule came down")
        return Finding("The schedule never decayed", evidence, f"`--epochs {run.last['epoch']}`, so that it decays "
                       "within the run, or a higher `--patience`")
    if args.get("cos_lr") or args.get("scheduler") == "cosine":
        evidence += f", by a cosine that warms up over {args['warmup_epochs']} epochs"
        return Finding("The schedule never decayed", evidence, "more `--epochs` than that; "
                       "of a run that was lengthened, one that knows its length from the start")
    action = "`--cos-lr --lrf 0.01`" if run.task == "yolo" else "`--scheduler cosine`"
    return Finding("The schedule never decayed", evidence, f"{action}, which comes down within `--epochs` "
                   f"{args['epochs']}")


def schedule_decayed_to_nothing(run: Recorded) -> Finding | None:
    """A good part of the run was spent at a rate that changes nothing."""
    rates = [row["train/lr"] for row in run.rows if "train/lr" in row]
    top = rates.index(max(rates)) if rates else 0
    idle = sum(rate < NOTHING_LEFT * max(rates) for rate in rates[top:])
    if idle < 2 or idle < IDLE_SHARE * len(rates):
        return None
    first = next(row["epoch"] for row in run.rows[top:] if row["train/lr"] < NOTHING_LEFT * max(rates))
    action = (f"`--step-epochs {max(run.args['epochs'] // 3, 1)}`, or `--scheduler cosine`"
              if run.args.get("scheduler") == "step" else "`--scheduler cosine` over the same `--epochs`")
    return Finding("The schedule decayed to nothing", f"from epoch {first} on the rate was below a thousandth of its "
                   f"highest ({max(rates):.3g}): {idle} of {len(rates)} epochs changed next to nothing", action)


def best_is_last(run: Recorded) -> Finding | None:
    """The score was still rising when the epochs were used up."""
    if not run.ended or len(run.rows) < 3 or run.best_row["epoch"] != run.last["epoch"]:
        return None
    score = f"val/{run.best}"
    before = max(row[score] for row in run.rows[:-1])
    return Finding("The best epoch is the last", f"{run.best} {run.last[score]:.4f} in epoch {run.last['epoch']}, after "
                   f"{before:.4f} at best before: it had not come to rest", f"`--epochs {2 * run.args['epochs']}` "
                   "(a new run, by `--from-run`: the schedule spans the epochs)")


# speed and memory ----------------------------------------------------------------------------------------------------


def data_bound(run: Recorded) -> Finding | None:
    """The device waits for pages."""
    shares = [row["perf/data_wait_share"] for row in run.rows[1:] or run.rows if "perf/data_wait_share" in row]
    if not shares or sum(shares) / len(shares) < WAITING:  # the first epoch starts the workers
        return None
    share, workers, cpus = sum(shares) / len(shares), run.args["num_workers"], run.numbers.get("cpus", 1)
    evidence = (f"{100 * share:.0f} % of the steps' time is spent waiting for the loader "
                f"(--num-workers {workers}, {cpus} cores)")
    if workers < cpus:
        return Finding("Steps wait for data", evidence, f"`--num-workers {cpus}`")
    return Finding("Steps wait for data", evidence, "smaller image files on disk; every core loads already" if
                   "cache_targets" not in run.args else "`--cache-targets`, or smaller image files on disk: every core "
                   "loads already")


def gpu_memory(run: Recorded) -> Finding | None:
    """A GPU that could take more, or is about to run out."""
    row = max(run.rows, key=lambda row: row.get("perf/gpu_memory_share", 0))
    if "perf/gpu_memory_share" not in row:
        return None
    share, batch = row["perf/gpu_memory_share"], run.args["batch_size"]
    evidence = f"{100 * share:.0f} % of the GPU's memory at the peak, with --batch-size {batch}"
    if share < MEMORY_LOW:
        larger = max(int(batch * 0.7 / max(share, 0.05)) // 2 * 2, batch + 1)
        return Finding("The GPU's memory is underused", evidence, f"`--batch-size {larger}`, or larger images; "
                       "scale `--lr` with it")
    if share <= MEMORY_HIGH:
        return None
    action = f"`--batch-size {max(batch // 2, 1)}`"
    action += (" (`--nbs` keeps the step as it is)" if run.task == "yolo" else
               f" `--accumulation-steps {2 * run.args['accumulation_steps']}` gives the same step")
    return Finding("The GPU's memory is nearly full", evidence, action)


FINDINGS = (scores_of_zero, missing_predictions, precision_far_above_recall, too_few_objects, loss_at_chance,
            image_is_ignored, repetition, no_end, same_readings, little_ink, ink_share_off, threshold_at_edge,
            marks_counted_better, loss_rises, loss_is_zero, schedule_never_decayed, schedule_decayed_to_nothing,
            best_is_last, data_bound, gpu_memory)
