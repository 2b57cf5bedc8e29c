"""What a run wrote down, for findings; and what a finding is."""

from dataclasses import dataclass, field
from pathlib import Path

from utils.errors import DataError
from utils.files import read_json, read_jsonl

# The loss whose course on validation is compared with that in training. DBNet's thresholds are learnt only in training.
LOSS_OF = {"detection": "prob", "recognition": "cross_entropy", "segmentation": "loss", "yolo": "loss"}


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


def read_recorded(folder: Path) -> Recorded:
    """What a run folder holds. Raises DataError where it is none, or one of before findings were recorded."""
    folder = Path(folder)
    try:
        facts, args = (read_json(folder / name) for name in ("facts.json", "args.json"))
        return Recorded(facts["task"], facts["best"], args, read_jsonl(folder / "metrics.jsonl"),
                        read_jsonl(folder / "per_image.jsonl"), facts["numbers"])
    except FileNotFoundError as error:
        raise DataError(f"{folder}: holds no {Path(error.filename).name}, so it is no run folder of this version") from None
    except (OSError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: facts.json, args.json or a table of rows cannot be read ({error})") from None


def loss_name(run: Recorded) -> str:
    """LOSS_OF, or of a recogniser without a decoder (--decoder-weight 0) that of its CTC head."""
    name = LOSS_OF[run.task]
    return "ctc" if run.task == "recognition" and f"val/{name}" not in run.last else name
