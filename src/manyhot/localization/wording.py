"""What `localize` found and chose, in words for a terminal."""

from __future__ import annotations

from typing import Any

from manyhot.localization.boxes import BoxRule, box_rules
from manyhot.localization.choosing import Choice


def summarize(metrics: dict[str, Any]) -> str:
    """The measures in a table for a terminal: a line a class, then the means beside their baselines."""
    width = max(len("class"), *(len(one["name"]) for one in metrics["classes"]))
    lines = [f"{'class':{width}}  pictures  objects  pointing  centre  point AP  CorLoc   AP50  AP50(07)"]
    for one in metrics["classes"]:
        cells = "  ".join(_cell(one[key], size) for key, size in _COLUMNS)
        lines.append(f"{one['name']:{width}}  {one['n_positive']:8}  {one['n_objects']:7}  {cells}")
    pointing, boxes, base = metrics["pointing"], metrics["detection"], metrics["baselines"]
    best = ", ".join(f"{_cell(value)} at IoU {least}" for least, value in metrics["max_box_acc"].items())
    proposal = base["best_proposal"]["corloc"]
    classes = f"over {boxes['n_classes_in_map']} classes, {boxes['n_boxes']} boxes"
    lines += [
        "",
        f"pointing {_cell(pointing['accuracy'])} of {metrics['n_pairs']} pairs, within {pointing['tolerance_px']:g} px",
        f"  the picture's centre: {_cell(base['centre_point']['pointing'])}",
        f"AP where a wrong place is a false positive {_cell(pointing['ap'])}",
        f"  the picture's centre: {_cell(base['centre_point']['ap'])}",
        f"CorLoc {_cell(metrics['corloc'])} over pairs, {_cell(metrics['mean_corloc'])} over classes",
        f"  centre box: {_cell(base['centre_box']['corloc'])}; whole picture: {_cell(base['whole_image']['corloc'])}"
        + ("" if proposal is None else f"; best proposal: {_cell(proposal)}"),
        f"MaxBoxAcc {best}",
        f"detection mAP50 {_cell(boxes['map_50'])} (VOC07 {_cell(boxes['map_50_voc07'])}) {classes}",
        f"split {metrics['split']}, {metrics['n_images']} images; labels: {metrics['label_rule']}",
        f"input: {metrics['crops']}; {_said(metrics['method'], 'heatmap')}; {_said(metrics['method'], 'boxes')}"
        + (", redrawn by GrabCut" if metrics["method"]["grabcut"] else "")
        + (f", snapped to {metrics['method']['proposals']}" if metrics["method"]["proposals"] else ""),
    ]
    if metrics["chosen_here"]:
        lines.append("optimistic: the box rule was chosen on these very pictures")
    if metrics["n_pairs_without_box"]:
        lines.append(f"{metrics['n_pairs_without_box']} positive pairs have no true box and are left out")
    if metrics["damaged"]:
        lines.append(f"left out as damaged: {', '.join(metrics['damaged'])}")
    return "\n".join(lines)


_COLUMNS = (
    ("pointing", 8),
    ("centre_point", 6),
    ("pointing_ap", 8),
    ("corloc", 6),
    ("ap_50", 5),
    ("ap_50_voc07", 8),
)


def _cell(value: float | None, width: int = 0) -> str:
    return f"{'–' if value is None else format(value, '.3f'):>{width}}"


def _said(method: dict[str, Any], part: str) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in method["settings"][part].items())
    return f"{method[part]} ({settings})" if settings else str(method[part])


def describe_choice(table: list[Choice], kept: int = 3) -> str:
    """The best thresholds of every rule, in lines for a terminal; the first line is what was stored."""
    best = max(table, key=lambda choice: choice.corloc)
    lines = [f"chosen: {_worded(best.rule)}, CorLoc {best.corloc:.3f}"]
    for name in dict.fromkeys(box_rules.name_of(choice.rule) for choice in table):
        own = sorted((c for c in table if box_rules.name_of(c.rule) == name), key=lambda c: -c.corloc)[:kept]
        lines.append("  " + "; ".join(f"{_worded(choice.rule)} {choice.corloc:.3f}" for choice in own))
    return "\n".join(lines)


def _worded(rule: BoxRule) -> str:
    settings = rule.model_dump(mode="json")
    value = settings.get("threshold", settings.get("thresholds"))
    return f"{box_rules.name_of(rule)} at {value[0] if isinstance(value, list) else value:g}"
