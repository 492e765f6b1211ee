// One picture, large: what lies on it, all scores beside it, its truth, and the keys of the review.

import { byId, h, number } from "./dom.js";
import { button, facts } from "./facts.js";
import { Overlay } from "./overlay.js";
import { askPicture, onPicture } from "./pictures.js";

export class PictureView {
  // act(action or "undo"); step(±1); closed().
  constructor(about, { act, step, closed }) {
    Object.assign(this, { about, act, step, overlay: new Overlay() });
    this.dialog = byId("picture");
    this.dialog.addEventListener("close", () => { this.row = this.drawn = undefined; this.dialog.replaceChildren(); closed(); });
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
  }

  close() { if (this.dialog.open) this.dialog.close(); }

  async show(row, c, { place, of, decision, t }) {
    this.wanted = row;
    if (!this.dialog.open) this.dialog.showModal();
    if (this.row !== row) {
      this.dialog.setAttribute("aria-busy", "true");
      let found;
      try {
        found = await askPicture(this.about, row);
      } catch (error) {
        this.drawn = undefined;
        this.dialog.replaceChildren(h("p", { class: "words" }, error.message), button("Close", () => this.close()));
        return;
      }
      if (this.wanted !== row || !this.dialog.open) return;
      this.known = found;
      this.row = row;
    }
    this.dialog.removeAttribute("aria-busy");
    const one = this.known;
    this.overlay.show(onPicture(this.about, one, c));
    const drawn = [row, c, place, of, decision, t].join("/");
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    const focused = document.activeElement?.dataset?.action;
    this.dialog.setAttribute("aria-label", `Picture ${one.id}`);
    this.dialog.replaceChildren(
      h("div", { class: "sheet-head" }, h("h2", {}, one.id),
        h("span", { class: "quiet" }, place === undefined ? "" : `${number(place + 1)} of ${number(of)}`),
        button("‹", () => this.step(-1), "Picture before", place === undefined || place === 0),
        button("›", () => this.step(1), "Next picture", place === undefined || place + 1 >= of),
        button("Close", () => this.close())),
      h("div", { class: "picture-body" }, this.overlay.figure,
        facts(this.about, one, { c, t, decision, act: (action) => this.act(action), controls: this.overlay.controls })));
    (this.dialog.querySelector(`[data-action="${focused}"]`) ?? this.dialog).focus?.();
  }
}
