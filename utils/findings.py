"""What a run's own figures give away, each with its evidence and the flag to try next.

A finding is a small pure function of what the run wrote down (Recorded), so it says the same while the run goes on, when
it has ended, and years later from its folder (python -m experiments.card findings RUN). None: nothing to be said.
The bars are rules of thumb, stated here once; a finding is a place to look at, not a verdict.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from utils.errors import DataError
from utils.run_folder import read_jsonl

PRECISION_GAP = 0.2  # precision this far above recall
RISE = 1.05  # a validation loss so many times its lowest
STILL_HIGH, NOTHING_LEFT, IDLE_SHARE = 0.5, 1e-3, 0.25  # rates as shares of the highest; share of epochs
CHANCE = 0.95  # a loss over this share of what seeing nothing costs
IGNORED = 1.05  # other crops' images cost less than this times the true ones
REPEATED, ENDLESS, DISTINCT = 0.05, 0.05, 0.5  # shares of crops; distinct readings per distinct truth
LITTLE_INK, INK_OFF = 0.01, 1.5  # share of pixels; predicted ink over true ink, either way
FEW_OBJECTS = 30  # a miss costs over 3 points
WAITING = 0.2  # share of the epoch's time
MEMORY_LOW, MEMORY_HIGH = 0.4, 0.92  # peak over total
# The loss whose course on validation is compared with that in training. DBNet's thresholds are learnt only in training.
LOSS_OF = {"detection": "prob", "recognition": "cross_entropy", "segmentation": "loss", "yolo": "loss"}
RUN_OF_FOUR = re.compile(r"(.)\1{3}")


@dataclass(frozen=True)
class Finding:
    title: str
    evidence: str
    action: str

    def __str__(self) -> str:
        return f"{self.title}: {self.evidence}; try: {self.action}"


@dataclass(frozen=True)
class Recorded:
    """rows: metrics.jsonl. per_image: of the best epoch. numbers: what does not change within a run ("cpus", "classes",
    "chance_loss", "unigram_entropy", ...)."""

    task: str
    best: str  # the validation metric that best.pt follows
    args: dict
    rows: list[dict]
    per_image: list[dict] = field(default_factory=list)
    numbers: dict = field(default_factory=dict)

    @property
    def last(self) -> dict:
        return self.rows[-1]

    @property
    def best_row(self) -> dict:
        return max(self.rows, key=lambda row: row[f"val/{self.best}"])

    @property
    def out_of_patience(self) -> bool:
        patience = self.args.get("patience") or 0
        return bool(patience) and self.last["epoch"] - self.best_row["epoch"] >= patience

    @property
    def ended(self) -> bool:
        """Whether the training has come to its own end, by the epochs asked for or by patience."""
        return self.last["epoch"] >= self.args["epochs"] or self.out_of_patience


def find_all(run: Recorded) -> list[Finding]:
    """Every finding about the run, those about its data and scores first; none before the first epoch has ended."""
    found = []
    for look in FINDINGS if run.rows else ():
        try:
            found.append(look(run))
        except KeyError:  # rows of an older version lack what it asks for: no reason to end a training that goes on
            continue
    return [finding for finding in found if finding]


def read_recorded(folder: Path) -> Recorded:
    """What a run folder holds. Raises DataError where it is none, or one of before findings were recorded."""
    folder = Path(folder)
    try:
        facts, args = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("facts.json", "args.json"))
        return Recorded(facts["task"], facts["best"], args, read_jsonl(folder / "metrics.jsonl"),
                        read_jsonl(folder / "per_image.jsonl"), facts["numbers"])
    except FileNotFoundError as error:
        raise DataError(f"{folder}: holds no {Path(error.filename).name}, so it is no run folder of this version") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: facts.json, args.json or a table of rows cannot be read ({error})") from None


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
    name = _loss_name(run)
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


# recognition ---------------------------------------------------------------------------------------------------------


def loss_at_chance(run: Recorded) -> Finding | None:
    """No better than a model that sees nothing and knows at most how frequent the characters are."""
    loss, entropy = run.last.get("train/cross_entropy"), run.numbers.get("unigram_entropy")
    if loss is None or not entropy or loss < CHANCE * entropy:
        return None
    return Finding("The loss is at chance level", f"cross entropy {loss:.2f} in epoch {run.last['epoch']}, where equal "
                   f"chances (ln V) give {run.numbers['chance_loss']:.2f} and knowing nothing but how frequent characters "
                   f"are gives {entropy:.2f}", "more steps first (`--epochs`); then `--stem resnet --depth 4 "
                   "--img-width 256 --ctc-weight 1`, a lower `--lr`, and `--overfit 32` to see whether it learns at all")


def image_is_ignored(run: Recorded) -> Finding | None:
    """Another crop's image does as well as its own."""
    name = _loss_name(run)
    true, shuffled = run.last.get(f"val/{name}"), run.last.get(f"val/shuffled_{name}")
    if not true or shuffled is None or shuffled >= IGNORED * true:
        return None
    return Finding("The image is ignored", f"{name} {true:.3f} with each crop's own image and {shuffled:.3f} with "
                   f"another's, in epoch {run.last['epoch']}: the decoder reads from its own text alone",
                   "`--stem resnet --depth 4 --img-width 256 --ctc-weight 1`, which makes the encoder read by itself; "
                   "more steps")


def repetition(run: Recorded) -> Finding | None:
    """Four times the same character where the truth has no such run."""
    rows = run.per_image if run.task == "recognition" else []
    bad = [row for row in rows if RUN_OF_FOUR.search(row["text"]) and not RUN_OF_FOUR.search(row["truth"])]
    if not bad or len(bad) < REPEATED * len(rows):
        return None
    decoder = run.args.get("decoder_weight") != 0
    way_out = ("`--scale-positions` or `--ctc-weight 1`, and more steps: positions are not told apart yet" if decoder else
               "more steps; of weights from elsewhere, the `--stretch` and `--img-width` that they were trained with")
    return Finding("Readings repeat a character", f"{len(bad)} of {len(rows)} readings ({_percent(len(bad), len(rows))}) "
                   f"hold four alike in a row that the truth lacks, such as {bad[0]['text'][:24]!r}", way_out)


def no_end(run: Recorded) -> Finding | None:
    """Readings that ran on to the last place: EOS never came."""
    rows = run.per_image if run.task == "recognition" else []
    longest = run.args.get("max_label_length", 0)
    endless = sum(len(row["text"]) + row.get("spaces_cut", 0) > longest for row in rows)
    if not endless or endless < ENDLESS * len(rows):
        return None
    return Finding("Readings do not end", f"{endless} of {len(rows)} ({_percent(endless, len(rows))}) ran to the last of "
                   f"{longest + 1} places without EOS", "more steps; `--max-label-length` no longer than the labels need "
                   "(the Labels line says how long they are)")


def same_readings(run: Recorded) -> Finding | None:
    """Few distinct readings for many distinct truths: the model has a favourite answer."""
    rows = run.per_image if run.task == "recognition" else []
    truths, texts = {row["truth"] for row in rows}, [row["text"] for row in rows]
    if len(truths) < 10 or len(set(texts)) >= DISTINCT * len(truths):
        return None
    favourite = max(set(texts), key=texts.count)
    return Finding("The same reading again and again", f"{len(set(texts))} distinct readings for {len(truths)} distinct "
                   f"truths; {favourite[:24]!r} is read {texts.count(favourite)} times",
                   "more steps; `--stem resnet --depth 4 --img-width 256 --ctc-weight 1`; a lower `--lr`")


# segmentation --------------------------------------------------------------------------------------------------------


def little_ink(run: Recorded) -> Finding | None:
    """So few pixels are ink that background decides the loss."""
    rows = [row for row in run.per_image if "pixels" in row] if run.task == "segmentation" else []
    ink, pixels = sum(row["tp"] + row["fn"] for row in rows), sum(row["pixels"] for row in rows)
    if not pixels or ink >= LITTLE_INK * pixels:
        return None
    return Finding("Very little ink", f"{100 * ink / pixels:.2f} % of the validation pixels are ink in the truth",
                   "`--focal-alpha 0.9`, `--dice-weight 2`, or `--resize crop`, whose pieces are cut where ink is")


def ink_share_off(run: Recorded) -> Finding | None:
    """Far more or far less ink than there is."""
    rows = run.per_image if run.task == "segmentation" else []
    true, found = sum(row["tp"] + row["fn"] for row in rows), sum(row["tp"] + row["fp"] for row in rows)
    if not true or 1 / INK_OFF < found / true < INK_OFF:
        return None
    action = ("a lower `--focal-alpha` (0.5): strokes are painted too broad" if found > true else
              "a higher `--focal-alpha` (0.9): strokes are missed or painted too thin")
    return Finding("The ink share is off", f"{found / true:.2f} times as much ink is predicted as there is", action)


def threshold_at_edge(run: Recorded) -> Finding | None:
    """The best threshold is the last one that was tried: the probabilities are not centred, or mean little."""
    row = run.best_row
    if run.task == "segmentation" and run.args.get("threshold") is None and "val/threshold" in row:
        low, high, name, value = 0.06, 0.94, "threshold", row["val/threshold"]
        action = "a higher `--focal-alpha`" if value <= low else "a lower `--focal-alpha`"
    elif run.task == "detection" and "val/box_thresh" in row:
        low, high, name, value = 0.3, 0.8, "box_thresh", row["val/box_thresh"]
        action = ("more epochs: the scores of true boxes are still low" if value <= low else
                  "more background: pages or crops without text; or more epochs")
    else:
        return None
    if low < value < high or not row[f"val/{run.best}"]:
        return None
    return Finding("The threshold is at the edge of the sweep", f"{name} {value:.3g} was best in epoch {row['epoch']}, and "
                   f"the sweep ends at {low:.2g} and {high:.2g}", f"{action}; the best value may lie beyond")


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


def _loss_name(run: Recorded) -> str:
    """LOSS_OF, or of a recogniser without a decoder (--decoder-weight 0) that of its CTC head."""
    name = LOSS_OF[run.task]
    return "ctc" if run.task == "recognition" and f"val/{name}" not in run.last else name


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"


FINDINGS = (scores_of_zero, missing_predictions, precision_far_above_recall, too_few_objects, loss_at_chance,
            image_is_ignored, repetition, no_end, same_readings, little_ink, ink_share_off, threshold_at_edge, loss_rises,
            loss_is_zero, schedule_never_decayed, schedule_decayed_to_nothing, best_is_last, data_bound, gpu_memory)
