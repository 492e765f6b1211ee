// One picture, large: true objects on it, all scores beside it, its truth, and the keys of the review.

import { getJson, large } from "./api.js";
import { byId, fixed, h, number, s } from "./dom.js";
import { ACTIONS } from "./review.js";

const MOST = 30; // classes shown at first

export class PictureView {
  // act(action or "undo"); step(±1); closed().
  constructor(about, { act, step, closed }) {
    Object.assign(this, { about, act, step });
    this.dialog = byId("picture");
    this.dialog.addEventListener("close", () => { this.row = undefined; this.dialog.replaceChildren(); closed(); });
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
  }

  close() { if (this.dialog.open) this.dialog.close(); }

  async show(row, c, { place, of, decision, t }) {
    this.wanted = row;
    if (!this.dialog.open) this.dialog.showModal();
    if (this.row !== row) {
      this.dialog.setAttribute("aria-busy", "true");
      try {
        this.known = await getJson(`/api/pictures/${row}`);
      } catch (error) {
        this.dialog.replaceChildren(h("p", { class: "words" }, error.message), this.#button("Close", () => this.close()));
        return;
      }
      if (this.wanted !== row || !this.dialog.open) return;
      this.row = row;
    }
    this.dialog.removeAttribute("aria-busy");
    const one = this.known;
    const focused = document.activeElement?.dataset?.action;
    this.dialog.setAttribute("aria-label", `Picture ${one.id}`);
    this.dialog.replaceChildren(
      h("div", { class: "sheet-head" }, h("h2", {}, one.id),
        h("span", { class: "quiet" }, place === undefined ? "" : `${number(place + 1)} of ${number(of)}`),
        this.#button("‹", () => this.step(-1), "Picture before", place === undefined || place === 0),
        this.#button("›", () => this.step(1), "Next picture", place === undefined || place + 1 >= of),
        this.#button("Close", () => this.close())),
      h("div", { class: "picture-body" }, this.#drawing(one, c), this.#side(one, c, decision, t)));
    (this.dialog.querySelector(`[data-action="${focused}"]`) ?? this.dialog).focus?.();
  }

  #button(text, onclick, label, disabled) {
    return h("button", { type: "button", onclick, "aria-label": label, title: label, disabled, "data-action": label ?? text }, text);
  }

  #drawing(one, c) {
    if (one.trouble || !one.size) {
      return h("div", { class: "large gone" }, h("b", {}, one.trouble ?? "no picture"), h("span", {}, one.image));
    }
    const [width, height] = one.size;
    const name = this.about.classes[c];
    const boxes = one.boxes.flatMap((box) => [
      s("rect", {
        class: `box${box.name === name ? " own" : ""}${box.difficult ? " difficult" : ""}`,
        x: box.x0, y: box.y0, width: Math.max(0, box.x1 - box.x0), height: Math.max(0, box.y1 - box.y0),
      }),
      s("text", { class: "box-name", x: box.x0 + 0.006 * width, y: box.y0 + 0.027 * width, "font-size": 0.023 * width },
        box.name + (box.difficult ? " (difficult)" : ""))]);
    const told = boxes.length ? `, with ${one.boxes.length} true objects` : "";
    return h("figure", { class: "large" },
      s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${one.id}${told}` },
        s("image", { href: large(one.row), width, height }), ...boxes));
  }

  #side(one, c, decision, t) {
    const label = { 1: "present", 0: "absent", "-1": "ignored" };
    const keys = ACTIONS.map(([action, key, words]) => h("button", {
      type: "button", class: "act", title: words, "aria-pressed": String(decision === action), "data-action": action,
      onclick: () => this.act(action),
    }, action, " ", h("kbd", {}, key)));
    const undo = h("button", { type: "button", class: "act", "data-action": "undo", onclick: () => this.act("undo") }, "undo ", h("kbd", {}, "u"));
    return h("div", { class: "side" },
      h("p", { class: "asked" }, h("b", {}, this.about.classes[c]),
        ` ${fixed(one.scores[c])}, ${one.scores[c] > t ? "predicted" : "not predicted"}; labelled ${label[one.labels[c]]}`),
      h("div", { class: "acts", role: "group", "aria-label": "Is the label right?" }, ...keys, undo),
      this.#bars(one, c, MOST),
      h("p", { class: "quiet" }, [one.image !== one.id && one.image, one.split && `split ${one.split}`,
        one.size && `${one.size[0]} × ${one.size[1]} pixels`].filter(Boolean).join(" · ")));
  }

  #bars(one, c, most) {
    const order = one.scores.map((score, i) => i).sort((a, b) => one.scores[b] - one.scores[a]);
    const kept = order.filter((i, place) => place < most || i === c || (one.labels[i] === 1 && most < order.length)).slice(0, 2 * most);
    const list = h("ol", { class: "bars", "aria-label": "Scores of all classes" }, ...kept.map((i) => {
      const truth = one.labels[i];
      return h("li", { class: `${i === c ? "own " : ""}${truth === 1 ? "true" : truth === -1 ? "unknown" : ""}` },
        h("span", { class: "name", title: this.about.classes[i] }, this.about.classes[i]),
        h("span", { class: "track", "aria-hidden": "true" },
          h("span", { style: { width: `${100 * one.scores[i]}%` } }),
          h("i", { style: { left: `${100 * Math.min(1, this.about.thresholds[i])}%` } })),
        h("span", { class: "figure" }, fixed(one.scores[i]), truth === 1 ? h("span", { class: "sr" }, ", present") : null));
    }));
    if (kept.length >= order.length) return list;
    const all = h("button", { type: "button", onclick: () => all.parentNode.replaceWith(this.#bars(one, c, order.length)) },
      `All ${number(order.length)} classes`);
    return h("div", {}, list, all);
  }
}
