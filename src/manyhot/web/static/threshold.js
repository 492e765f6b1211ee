// The threshold: slider and number, what is counted at it, and its point on the two curves.

import { byId, fixed, h, number, openSheet, say, table } from "./dom.js";
import { linePlot } from "./plot.js";
import { KIND_WORDS, KINDS } from "./ranking.js";
import { set, state } from "./state.js";

const WORDS = Object.fromEntries(KINDS.map((kind) => [kind, kind === "ignored" ? kind : kind.toUpperCase()]));

export class Threshold {
  constructor(about) {
    this.about = about;
    const change = (text) => {
      const value = Math.max(0, Math.min(1, Number(text)));
      if (text !== "" && Number.isFinite(value)) set({ t: value }, { replace: true });
    };
    byId("threshold").addEventListener("input", (event) => change(event.target.value));
    byId("threshold-number").addEventListener("change", (event) => change(event.target.value));
    byId("threshold-reset").addEventListener("click", () => set({ t: "" }));
    byId("numbers").addEventListener("click", () => this.#table());
    this.boxes = KINDS.map((kind) => h("button", {
      type: "button", class: `filter ${kind}`, title: KIND_WORDS[kind], "aria-pressed": "false",
      onclick: () => this.toggle(kind),
    }, WORDS[kind]));
    byId("filters").append(...this.boxes);
  }

  // The threshold that holds for a class: the one in the address, else its own.
  value(c) {
    const asked = state.t === "" ? NaN : Number(state.t);
    return asked >= 0 && asked <= 1 ? asked : this.about.thresholds[c];
  }

  get kinds() { return state.show.split(",").filter((kind) => KINDS.includes(kind)); }

  toggle(kind) {
    const now = this.kinds;
    set({ show: (now.includes(kind) ? now.filter((one) => one !== kind) : [...now, kind]).join(","), at: 0 });
  }

  // Draws the curves of another class.
  draw({ pr, tail, positives }) {
    this.pr = linePlot({
      title: "Precision", xLabel: "recall", step: "before", lines: [{ name: "precision", points: pr }],
      empty: positives ? "" : "no positive picture",
    });
    this.tail = linePlot({
      title: "Tail accuracy", xLabel: "threshold", xs: [0.5, 1], step: "after",
      lines: [{ name: "tail accuracy", points: tail }], empty: tail.length ? "" : "no known score above 0.5",
      pick: (value) => set({ t: value.toFixed(3) }, { replace: true }),
    });
    byId("curve-pr").replaceChildren(...this.pr.content);
    byId("curve-tail").replaceChildren(...this.tail.content);
    this.#mark();
  }

  // Shows what is counted at threshold `t`.
  count(ranking, t, counts) {
    this.ranking = ranking;
    byId("threshold").value = t;
    byId("threshold").setAttribute("aria-valuetext", `${fixed(t)}: precision ${fixed(counts.precision)}, recall ${fixed(counts.recall)}`);
    if (document.activeElement !== byId("threshold-number")) byId("threshold-number").value = Number(t.toFixed(4));
    byId("threshold-reset").disabled = state.t === "";
    this.places = [counts.recall === null ? null : [counts.recall, counts.precision], t < 0.5 ? null : [t, counts.precision]];
    this.#mark();
    const shown = [["precision", counts.precision], ["recall", counts.recall], ["F1", counts.f1]];
    byId("measures").replaceChildren(...shown.map(([name, value]) =>
      h("div", {}, h("dt", {}, name), h("dd", {}, fixed(value)))));
    const pressed = this.kinds;
    KINDS.forEach((kind, i) => {
      say(this.boxes[i], `${WORDS[kind]} ${number(counts[kind])}`);
      this.boxes[i].dataset.count = counts[kind];
      this.boxes[i].setAttribute("aria-pressed", pressed.includes(kind));
      this.boxes[i].setAttribute("aria-label", `${KIND_WORDS[kind]}: ${number(counts[kind])}`);
    });
  }

  #mark() {
    this.pr?.mark(this.places[0]);
    this.tail?.mark(this.places[1]);
  }

  async #table() {
    const thresholds = [...Array(20).keys()].map((i) => i / 20);
    const counted = await this.ranking.counts(thresholds);
    const rows = counted.map((one, i) => {
      const cells = [one.tp, one.fp, one.fn, one.tn].map(number);
      return [fixed(thresholds[i], 2), ...cells, fixed(one.precision), fixed(one.recall), fixed(one.f1)];
    });
    openSheet(`Scores above a threshold: ${state.class}`,
      table(["threshold", "TP", "FP", "FN", "TN", "precision", "recall", "F1"], rows),
      h("p", {}, "From 0.5 on, precision is the tail accuracy. Ignored pictures are not counted."));
  }
}
