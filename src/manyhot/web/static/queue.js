// The review over all classes: one probable label error after the other, the most suspect first.

import { getBytes, thumbnail } from "./api.js";
import { byId, h, number, say } from "./dom.js";
import { button, facts } from "./facts.js";
import { Overlay } from "./overlay.js";
import { askPicture, onPicture } from "./pictures.js";
import { set, state } from "./state.js";

const AHEAD = 8; // pictures announced below
const DONE = { keep: "kept", flip: "flipped", difficult: "difficult", skip: "skipped" };

export class QueuePage {
  constructor(about, review) {
    Object.assign(this, { about, review, box: byId("review"), overlay: new Overlay() });
    review?.listen(() => { if (this.visible) this.#render(); });
  }

  show(visible) {
    this.visible = visible && this.about.n > 0;
    if (this.visible) this.#render();
  }

  act(action) {
    if (action === "undo") { this.#undo(); return; }
    const at = Number(state.q);
    if (!this.visible || !(at < this.rows?.length) || this.drawn === undefined) return;
    this.review.decide(this.rows[at], this.classes[at], action);
    this.step(1);
  }

  step(step) { this.go(Number(state.q) + step); }

  go(at) {
    if (this.rows && at >= 0 && at <= this.rows.length) set({ q: at }, { replace: true });
  }

  async #undo() {
    const key = await this.review.undo();
    const at = this.rows?.findIndex((row, i) => `${row}/${this.classes[i]}` === key) ?? -1;
    if (at >= 0) this.go(at);
  }

  async #load() {
    this.box.replaceChildren(h("h1", {}, "Review"), h("p", { class: "words" }, "Ranking the labels …"));
    const [bytes] = await Promise.all([getBytes("/api/suspects"), this.review.loaded]);
    const n = bytes.byteLength / 9;
    this.rows = new Uint32Array(bytes, 0, n);
    this.classes = new Uint32Array(bytes, 4 * n, n);
    this.flags = new Uint8Array(bytes, 8 * n, n);
    this.held = this.flags.reduce((a, b) => a + b, 0);
  }

  #decided(i) { return this.review.decision(this.rows[i], this.classes[i]); }

  async #render() {
    const turn = (this.turn = {});
    try {
      await (this.loading ??= this.#load());
    } catch (error) {
      this.loading = undefined;
      this.box.replaceChildren(h("h1", {}, "Review"), h("p", { class: "words" }, error.message));
      return;
    }
    if (turn !== this.turn || !this.visible) return;
    const n = this.rows.length;
    if (!n) {
      this.box.replaceChildren(h("h1", {}, "Review"), h("p", { class: "words" }, "No label of these pictures is known, so none can be wrong."));
      return;
    }
    const asked = state.q === "" ? NaN : Number(state.q);
    if (!(Number.isInteger(asked) && asked >= 0 && asked <= n)) {
      const open = this.rows.findIndex((_, i) => !this.#decided(i));
      set({ q: open < 0 ? n : open }, { replace: true }); // comes back here
      return;
    }
    document.title = `Review · ${this.about.title}`;
    const row = this.rows[asked];
    let one;
    if (asked < n) {
      try {
        one = this.known?.row === row ? this.known : await askPicture(this.about, row);
      } catch (error) {
        this.drawn = undefined;
        this.box.replaceChildren(h("h1", {}, "Review"), h("p", { class: "words" }, error.message));
        return;
      }
      if (turn !== this.turn || !this.visible) return;
      this.known = one;
    }
    this.#draw(asked, one);
  }

  #draw(at, one) {
    if (one) this.overlay.show(onPicture(this.about, one, this.classes[at]));
    const decided = this.rows.reduce((sum, _, i) => sum + (this.#decided(i) ? 1 : 0), 0);
    const drawn = `${at}/${decided}/${one && this.#decided(at)}`;
    if (drawn === this.drawn && this.box.contains(this.overlay.figure)) return;
    this.drawn = drawn;
    const focused = document.activeElement?.dataset?.action;
    const words = `${number(decided)} of ${number(this.rows.length)} decided; ${number(this.held)} are held for errors${one ? `, this one ${this.flags[at] ? "too" : "not"}` : ""}`;
    this.words ??= h("p", { class: "quiet", role: "status" });
    say(this.words, words);
    this.box.replaceChildren(
      h("div", { class: "sheet-head" }, h("h1", {}, "Review"),
        h("span", { class: "quiet" }, `${number(Math.min(at + 1, this.rows.length))} of ${number(this.rows.length)}`),
        button("‹", () => this.step(-1), "Picture before", at === 0),
        button("›", () => this.step(1), "Next picture", !one)),
      this.words,
      one ? this.#body(at, one) : h("p", { class: "words" }, "That was the last of them. “reviewed” at the top takes the outcome away."),
      this.#next(at));
    this.box.querySelector(`[data-action="${focused}"]`)?.focus();
  }

  #body(at, one) {
    const c = this.classes[at];
    return h("div", { class: "picture-body" }, this.overlay.figure, facts(this.about, one, {
      c, t: this.about.thresholds[c], decision: this.#decided(at), act: (action) => this.act(action), controls: this.overlay.controls }));
  }

  #next(at) {
    const first = Math.max(0, Math.min(at + 1, this.rows.length - AHEAD));
    const items = [];
    for (let i = first; i < Math.min(first + AHEAD, this.rows.length); i++) {
      const name = this.about.classes[this.classes[i]];
      const action = this.#decided(i);
      const words = `${name}${action ? `: ${DONE[action]}` : ""}`;
      items.push(h("li", {}, h("button", { type: "button", "aria-current": i === at && "true", "aria-label": `Place ${number(i + 1)}: ${words}`, onclick: () => this.go(i) },
        h("img", { src: thumbnail(this.rows[i]), alt: "", decoding: "async" }), h("span", {}, words))));
    }
    return h("ol", { class: "next", "aria-label": "What comes next" }, ...items);
  }
}
