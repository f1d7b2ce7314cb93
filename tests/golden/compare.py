"""What "equal" means between two sets of detections: matched one to one, not by index, since near-ties swap."""

from collections.abc import Mapping

import numpy as np


def match(boxes: np.ndarray, labels: np.ndarray, others: np.ndarray, other_labels: np.ndarray) -> np.ndarray:
    """The index in `others` of each box, or -1: greedy, one to one, by IoU of at least 0.5 within a label."""
    found = np.full(len(boxes), -1)
    if not len(boxes) or not len(others):
        return found
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inter = (high - low).clip(0).prod(2)
    area, other_area = (boxes[:, 2:] - boxes[:, :2]).prod(1), (others[:, 2:] - others[:, :2]).prod(1)
    iou = inter / np.maximum(area[:, None] + other_area[None] - inter, 1e-9)
    iou[labels[:, None] != other_labels[None]] = -1
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        i, j = divmod(int(flat), iou.shape[1])
        if iou[i, j] < 0.5:
            break
        if found[i] < 0 and j not in found:
            found[i] = j
    return found


def compare(golden: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Shares of the golden's detections that were found again: `equal`, `mask_iou`, `keypoints`, all 0..1."""
    j = match(golden["boxes"], golden["labels"], got["boxes"], got["labels"])
    same = j >= 0
    same[same] = (np.abs(golden["boxes"][same] - got["boxes"][j[same]]).max(1) <= 0.05) & (
        np.abs(golden["scores"][same] - got["scores"][j[same]]) <= 1e-3
    )
    report = {"golden": float(len(j)), "got": float(len(got["boxes"])), "equal": float(same.mean())}
    packed = next((golden[key] for key in ("masks", "masks_threshold_0.5") if key in golden), None)
    if packed is not None:
        report["mask_iou"] = _mask_iou(packed, golden["masks_shape"], got.get("masks"), j, same)
    if "keypoints" in golden:
        away = np.abs(golden["keypoints"][same][..., :2] - got["keypoints"][j[same]][..., :2]).max(-1)
        report["keypoints"] = float((away <= 0.1).mean()) if away.size else 0.0
    return report


def good(report: Mapping[str, float]) -> bool:
    """Whether a report meets the definition of equal."""
    return (
        report["equal"] >= 0.99
        and abs(report["got"] - report["golden"]) <= 1
        and report.get("mask_iou", 1) >= 0.99
        and report.get("keypoints", 1) >= 0.98
    )


def _mask_iou(
    packed: np.ndarray, shape: np.ndarray, masks: np.ndarray | None, index: np.ndarray, same: np.ndarray
) -> float:
    """Mean IoU of the first twenty image-size masks; 0 where there are none."""
    if masks is None:
        return 0.0
    count, height, width = min(20, int(shape[0])), int(shape[-2]), int(shape[-1])
    truth = np.unpackbits(packed, count=count * height * width).reshape(count, height, width).astype(bool)
    ious = []
    for i in np.flatnonzero(same[:count]):
        mine = masks[index[i]]
        union = (truth[i] | mine).sum()
        ious.append((truth[i] & mine).sum() / union if union else 1.0)
    return float(np.mean(ious)) if ious else 0.0
