// What is said of a picture beside it: the question of the review and its keys, scores of all classes as bars.

import { fixed, h, number } from "./dom.js";
import { ACTIONS } from "./review.js";

const MOST = 30; // classes shown at first
const LABEL = { 1: "present", 0: "absent", "-1": "ignored" };

export function button(text, onclick, label, disabled) {
  return h("button", { type: "button", onclick, "aria-label": label, title: label, disabled, "data-action": label ?? text }, text);
}

// one: what /api/pictures/ROW says; c: the class asked about; act(action or "undo"); controls: of the picture's layers.
export function facts(about, one, { c, t, decision, act, controls }) {
  const keys = ACTIONS.map(([action, key, words]) => h("button", {
    type: "button", class: "act", title: words, "aria-pressed": String(decision === action), "data-action": action,
    onclick: () => act(action),
  }, action, " ", h("kbd", {}, key)));
  const undo = h("button", { type: "button", class: "act", "data-action": "undo", onclick: () => act("undo") }, "undo ", h("kbd", {}, "u"));
  return h("div", { class: "side" },
    h("p", { class: "asked" }, h("b", {}, about.classes[c]),
      ` ${fixed(one.scores[c])}, ${one.scores[c] > t ? "predicted" : "not predicted"}; labelled ${LABEL[one.labels[c]]}`),
    h("div", { class: "acts", role: "group", "aria-label": "Is the label right?" }, ...keys, undo),
    controls,
    bars({ ...one, classes: about.classes, thresholds: about.thresholds }, c),
    h("p", { class: "quiet" }, [one.image !== one.id && one.image, one.split && `split ${one.split}`,
      one.size && `${one.size[0]} × ${one.size[1]} pixels`, one.found.fault].filter(Boolean).join(" · ")));
}

export const byScore = (scores) => scores.map((score, i) => i).sort((a, b) => scores[b] - scores[a]);

// Scores of all classes, the highest first; labels may be missing.
export function bars(one, c, most = MOST) {
  const { scores, labels = [], classes, thresholds } = one;
  const order = byScore(scores);
  const kept = order.filter((i, place) => place < most || i === c || (labels[i] === 1 && most < order.length)).slice(0, 2 * most);
  const list = h("ol", { class: "bars", "aria-label": "Scores of all classes" }, ...kept.map((i) => {
    const truth = labels[i];
    return h("li", { class: `${i === c ? "own " : ""}${truth === 1 ? "true" : truth === -1 ? "unknown" : ""}` },
      h("span", { class: "name", title: classes[i] }, classes[i]),
      h("span", { class: "track", "aria-hidden": "true" },
        h("span", { style: { width: `${100 * scores[i]}%` } }),
        h("i", { style: { left: `${100 * Math.min(1, thresholds[i])}%` } })),
      h("span", { class: "figure" }, fixed(scores[i]), truth === 1 ? h("span", { class: "sr" }, ", present") : null));
  }));
  if (kept.length >= order.length) return list;
  const all = h("button", { type: "button", onclick: () => all.parentNode.replaceWith(bars(one, c, order.length)) },
    `All ${number(order.length)} classes`);
  return h("div", {}, list, all);
}
