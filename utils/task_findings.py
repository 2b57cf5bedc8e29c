"""Findings of one task each: what a run's readings, its ink or its marks give away (utils.findings lists them)."""

import re

from utils.metrics.marks import count_errors_at
from utils.recorded import Finding, Recorded, loss_name

CHANCE = 0.95  # a loss over this share of what seeing nothing costs
IGNORED = 1.05  # other crops' images cost less than this times the true ones
REPEATED, ENDLESS, DISTINCT = 0.05, 0.05, 0.5  # shares of crops; distinct readings per distinct truth
LITTLE_INK, INK_OFF = 0.01, 1.5  # share of pixels; predicted ink over true ink, either way
MISCOUNTED, FEWER = 0.1, 0.75  # marks a page; of what is miscounted now
RUN_OF_FOUR = re.compile(r"(.)\1{3}")


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
    name = loss_name(run)
    true, shuffled = run.last.get(f"val/{name}"), run.last.get(f"val/shuffled_{name}")
    if not true or shuffled is None or shuffled >= IGNORED * true:
        return None
    why = "nothing is read from it yet" if name == "ctc" else "the decoder reads from its own text alone"
    return Finding("The image is ignored", f"{name} {true:.3f} with each crop's own image and {shuffled:.3f} with "
                   f"another's, in epoch {run.last['epoch']}: {why}", f"more steps{_encoder_that_reads(run)}")


def _encoder_that_reads(run: Recorded) -> str:
    """The flags of an encoder that learns to read by itself, where the run had not both of them."""
    if run.args.get("stem") == "resnet" and run.args.get("ctc_weight"):
        return ""
    return "; `--stem resnet --depth 4 --img-width 256 --ctc-weight 1`, which makes the encoder read by itself"


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
                   f"more steps{_encoder_that_reads(run)}; a lower `--lr`")


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


# marks ---------------------------------------------------------------------------------------------------------------


def marks_counted_better(run: Recorded) -> Finding | None:
    """Another confidence for some classes counts the marks of a page much better than the one that inference starts from."""
    rows = [row for row in run.per_image if "counts_at" in row] if run.task == "yolo" else []
    if not rows:
        return None
    errors = count_errors_at(rows, dict(enumerate(run.numbers["classes"])))
    usual = {name: next(iter(by_conf.values())) for name, by_conf in errors.items()}
    best = {name: min(by_conf, key=by_conf.get) for name, by_conf in errors.items()}
    better = {name: conf for name, conf in best.items() if errors[name][conf] < usual[name]}
    least = sum(errors[name][conf] for name, conf in best.items())
    if sum(usual.values()) < MISCOUNTED or least > FEWER * sum(usual.values()):
        return None
    first = next(iter(rows[0]["counts_at"]))
    return Finding("Marks are counted better at another confidence", f"on validation a page is counted wrong by "
                   f"{sum(usual.values()):.2f} marks with --conf {first}, and by {least:.2f} with what is best for each class",
                   f"`--class-conf {' '.join(f'{name}={conf}' for name, conf in better.items())}` in inference.py, where "
                   "false marks cost more than missed ones")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"
