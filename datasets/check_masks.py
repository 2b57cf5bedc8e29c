"""Are all strokes labelled, and are close strokes apart in the masks? (docmarks)

    python -m datasets.check_masks data/segmentation/train
    python -m datasets.check_masks data/segmentation/train --out masks_train --worst 24

Strokes are looked for in the picture itself: what is clearly darker, or more coloured, than the paper round it. Then
- curved and straight strokes of the picture: what share of their middle lines the masks cover, and which are missing;
- strokes that lie close to each other in the picture: how many of these pairs are one piece of ink in the mask.
What touches the border of the page, is nearly as long as it or runs along it (frames, edges, shadows), and QR codes that can
be read are left out, and a mask that is empty, all ink or more ink than paper is named. Where the picture is faint or full
of shadows this is a hint, no verdict: look at the contact sheet. Writes check.jpg (the worst places under their page's
name: picture, and mask with missing strokes in red and merging ink in blue) and check.tsv (one line a page) to --out, and
one JSON object as the last line on stdout.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.segmentation import StrokePage, add_mask_flags, read_masked
from utils.args import fraction, new_parser, positive_int
from utils.drawing import text_tile
from utils.errors import DataError, exit_cleanly
from utils.files import replace_file
from utils.images import load_image, save_image
from utils.metrics.segmentation_strokes import close_pairs
from utils.qr import read_qr_codes
from utils.skeleton import branches_of, skeleton_of

PAPER_WINDOW = 41  # pixels: wider than any stroke
LEAST_CONTRAST = 25  # grey levels between a stroke and its paper
FAINT = 0.2  # share of the contrast round it that what lies between two pieces must stay under, to be paper
LEAST_PIECE = 20  # pixels of ink: less is dirt
LONG = 20  # pixels: shorter branches are not judged
NEAR = 3  # pixels between the middle of a stroke and its mask
FRAME = 0.9  # share of a side of the page: what is longer is a frame or an edge
MARGIN, THIN = 0.06, 5  # share of a side; times as long as wide
COVERED = 0.5  # share of a branch that must be covered, and of a piece that must be ink
TILE, CAPTION = 160, 14  # pixels of a picture on the sheet, and of the strip with its name


@dataclass
class Finding:
    """One place to look at: how bad (pixels), where (x, y), and what to paint there."""

    size: float
    centre: tuple[int, int]
    page: StrokePage
    kind: str


def visible_strokes(image: np.ndarray, share: float = 0.5) -> np.ndarray:
    """(H, W) bool of an (H, W, 3) uint8 RGB picture: what stands out from its paper in any channel by `share` of what
    stands out most round it, and by that share of twice LEAST_CONTRAST."""
    smooth = cv2.GaussianBlur(image, (3, 3), 0)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (PAPER_WINDOW, PAPER_WINDOW))
    contrast = np.zeros(image.shape[:2], np.uint8)
    for channel in cv2.split(smooth):
        contrast = np.maximum(contrast, cv2.morphologyEx(channel, cv2.MORPH_BLACKHAT, kernel))
    strongest = cv2.blur(cv2.dilate(contrast, np.ones((PAPER_WINDOW, PAPER_WINDOW), np.uint8)), (PAPER_WINDOW,) * 2)
    ink = contrast >= share * np.maximum(strongest, 2 * LEAST_CONTRAST)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= LEAST_PIECE
    keep[0] = False
    return keep[labels]


def judged_strokes(image: np.ndarray) -> np.ndarray:
    """visible_strokes() without what is seen and is no stroke: QR codes that can be read, and pieces that touch the
    border of the page, are nearly as long as it, or run along it in its margin (frames of boards, edges of paper,
    shadows)."""
    codes = np.zeros(image.shape[:2], np.uint8)
    for code in read_qr_codes(image, []):
        cv2.fillConvexPoly(codes, np.rint(code["corners"]).astype(np.int32), 1)
    seen = visible_strokes(image) & (cv2.dilate(codes, np.ones((5, 5), np.uint8)) == 0)
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(seen.astype(np.uint8), connectivity=8)
    sides = np.array(image.shape[1::-1])
    begin, lengths = stats[:, :2], stats[:, 2:4]
    end = begin + lengths
    stroke = ((begin > 0) & (end < sides) & (lengths < FRAME * sides)).all(1)
    # A frame or an edge that is seen in parts only: thin, along the border and beside it.
    beside = (end <= MARGIN * sides) | (begin >= (1 - MARGIN) * sides)
    along = lengths[:, ::-1] >= THIN * lengths
    stroke &= ~(beside & along).any(1)
    stroke[0] = False
    return stroke[pieces]


def check_page(page: StrokePage) -> tuple[dict, list[Finding]]:
    """(counts of a page, places to look at): strokes seen and labelled, close pairs seen and merged in the mask."""
    image, truth = load_image(page.image), page.truth()
    counts, findings = _unlabelled(page, judged_strokes(image), truth)
    merged_counts, merged = _merged(page, image, truth)
    return counts | merged_counts, findings + merged


def _unlabelled(page: StrokePage, seen: np.ndarray, truth: np.ndarray) -> tuple[dict, list[Finding]]:
    branches = branches_of(skeleton_of(seen))
    y, x = branches.points
    label = branches.labels[y, x] - 1
    near = cv2.distanceTransform((~truth).astype(np.uint8), cv2.DIST_L2, 3)[y, x] <= NEAR
    near &= truth.any()
    share = np.bincount(label, near, len(branches)) / np.maximum(branches.pixels, 1)
    long, labelled = branches.pixels >= LONG, share >= COVERED
    counts = {}
    for kind, chosen in (("curved", branches.curved & long), ("straight", ~branches.curved & long)):
        counts[f"{kind}_seen"], counts[f"{kind}_labelled"] = int(chosen.sum()), int((chosen & labelled).sum())
    findings = [Finding(float(branches.pixels[n]), tuple(np.rint(branches.mean[n]).astype(int).tolist()), page,
                        f"{'curved' if branches.curved[n] else 'straight'} stroke without a label")
                for n in np.flatnonzero(long & ~labelled)]
    return counts, findings


def _merged(page: StrokePage, image: np.ndarray, truth: np.ndarray) -> tuple[dict, list[Finding]]:
    """Pieces of ink that the picture shows apart, with paper between them and no faint ink, each mostly in the mask, and
    both in one piece of it."""
    count, pieces, stats, centres = cv2.connectedComponentsWithStats(visible_strokes(image, FAINT).astype(np.uint8),
                                                                     connectivity=8)
    whole = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)[1]
    home = np.zeros(count, int)
    for number in range(1, count):
        left, top, width, height = stats[number, :4]
        window = np.s_[top : top + height, left : left + width]
        inside = np.bincount(whole[window][pieces[window] == number])
        best = int(inside[1:].argmax()) + 1 if len(inside) > 1 else 0
        if best and inside[best] >= COVERED * stats[number, cv2.CC_STAT_AREA]:
            home[number] = best
    pairs = [(a, b) for a, b in close_pairs(pieces, count).tolist() if home[a] and home[b]]
    merged = [(a, b) for a, b in pairs if home[a] == home[b]]
    findings = [Finding(float(min(stats[a, cv2.CC_STAT_AREA], stats[b, cv2.CC_STAT_AREA])),
                        tuple(np.rint((centres[a] + centres[b]) / 2).astype(int).tolist()), page, "merged strokes")
                for a, b in merged]
    return {"close_pairs_seen": len(pairs), "close_pairs_merged": len(merged)}, findings


def odd_mask(truth: np.ndarray) -> str:
    """What is plainly wrong with a mask (H, W) bool as a whole, or an empty string."""
    if not truth.any():
        return "is empty; has the page no strokes?"
    if truth.all():
        return "is all ink; is it the mask of this page?"
    return "covers more than half of the page; is it inverted?" if truth.mean() > 0.5 else ""


def picture_of(finding: Finding) -> np.ndarray:
    """(TILE, 2 * TILE, 3) uint8: the place in the picture, its mask, and over both which page it is of."""
    image, truth = load_image(finding.page.image), finding.page.truth()
    shown = np.where(truth[..., None], np.uint8([60, 60, 60]), np.uint8([255, 255, 255]))
    if finding.kind == "merged strokes":
        shown[truth & ~visible_strokes(image, FAINT)] = (40, 90, 235)
    else:
        far = cv2.distanceTransform((~truth).astype(np.uint8), cv2.DIST_L2, 3) > NEAR
        shown[judged_strokes(image) & far] = (225, 30, 40)
    left, top = (max(min(c - TILE // 2, side - TILE), 0) for c, side in zip(finding.centre, truth.shape[::-1]))
    window = np.s_[top : top + TILE, left : left + TILE]
    pair = [cv2.copyMakeBorder(part[window], 0, TILE - part[window].shape[0], 0, TILE - part[window].shape[1],
                               cv2.BORDER_CONSTANT, value=(128, 128, 128)) for part in (image, shown)]
    tile = np.ascontiguousarray(np.hstack(pair))
    words = text_tile(finding.page.image.name, CAPTION, 2 * TILE - 8)
    width = min(words.shape[1], 2 * TILE - 8)
    words = cv2.resize(words, (width, CAPTION), interpolation=cv2.INTER_AREA)
    tile[:CAPTION] = 255
    tile[:CAPTION, 4 : 4 + width] = 255 - words[..., None]
    cv2.rectangle(tile, (0, 0), (2 * TILE - 1, TILE - 1), (0, 120, 200), 1)
    return tile


def contact_sheet(findings: list[Finding], worst: int, columns: int = 3) -> np.ndarray:
    """(H, W, 3) uint8: the largest findings of each kind, in turn."""
    kinds = sorted({finding.kind for finding in findings})
    by_kind = [sorted((f for f in findings if f.kind == kind), key=lambda f: -f.size) for kind in kinds]
    chosen = [some[rank] for rank in range(worst) for some in by_kind if rank < len(some)][:worst]
    tiles = [picture_of(finding) for finding in chosen]
    tiles += [np.full((TILE, 2 * TILE, 3), 255, np.uint8)] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[row : row + columns]) for row in range(0, len(tiles), columns)])


def make_parser():
    parser = new_parser(__doc__)
    parser.add_argument("folder", type=Path, help="a split, or an undivided folder: it holds images/ and masks/")
    add_mask_flags(parser)
    parser.add_argument("--out", type=Path, help="folder for check.jpg and check.tsv (default: FOLDER_check, beside it)")
    parser.add_argument("--worst", type=positive_int, default=24, help="places on the sheet (default: %(default)s)")
    parser.add_argument("--max-bad-fraction", type=fraction, default=0.01,
                        help="share of bad pages that may be left out with a report (default: %(default)s)")
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    if not args.folder.is_dir():
        raise DataError(f"{args.folder}: no such folder; name a split such as data/segmentation/train")
    pages = read_masked(args, args.folder, args.max_bad_fraction)
    out = args.out or args.folder.with_name(args.folder.name + "_check")
    results = [check_page(page) for page in tqdm(pages, unit="page", leave=False, disable=None)]
    for page in pages:
        if said := odd_mask(page.truth()):
            print(f"{page.mask}: {said}")
    names = list(results[0][0])
    rows = ["\t".join(["file", *names])]
    rows += ["\t".join([page.image.name, *(str(counts[name]) for name in names)])
             for page, (counts, _) in zip(pages, results)]
    replace_file(out / "check.tsv", "\n".join(rows) + "\n")
    findings = [finding for _, found in results for finding in found]
    if findings:
        save_image(out / "check.jpg", contact_sheet(findings, args.worst))
    total = {name: sum(counts[name] for counts, _ in results) for name in names}
    for kind in ("curved", "straight"):
        print(f"{kind} strokes: {total[f'{kind}_labelled']} of {total[f'{kind}_seen']} are labelled")
    print(f"close strokes: {total['close_pairs_merged']} of {total['close_pairs_seen']} pairs are one piece in the mask")
    print(json.dumps({"pages": len(pages), "out": str(out)} | total))


if __name__ == "__main__":
    exit_cleanly(main)
