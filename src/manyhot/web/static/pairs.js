// Which false positive comes with which true class; a click shows those pictures.

import { getJson } from "./api.js";
import { byId, h, number } from "./dom.js";
import { set } from "./state.js";

export class PairsPage {
  constructor(about) { Object.assign(this, { about, box: byId("pairs") }); }

  async show(visible) {
    if (!visible || this.asked) return;
    this.asked = true;
    this.box.replaceChildren(h("h1", {}, "False positives by true class"), h("p", { class: "words" }, "Counting …"));
    try {
      this.#draw(await getJson("/api/pairs"));
    } catch (error) {
      this.asked = false;
      this.box.lastChild.replaceWith(h("p", { class: "words" }, error.message));
    }
  }

  #draw(pairs) {
    const { classes } = this.about;
    const words = "Pictures that have the true class, and in which the other class is predicted above its threshold but labelled absent. The most frequent first.";
    if (!pairs.length) {
      this.box.lastChild.replaceWith(h("p", { class: "words" }, "No false positive stands beside a true class."));
      return;
    }
    const most = pairs[0][2];
    const rows = pairs.map(([truth, predicted, n, of]) => h("tr", {},
      h("th", { scope: "row" }, classes[predicted]), h("td", { class: "text" }, classes[truth]),
      h("td", {}, h("span", { class: "track", "aria-hidden": "true" }, h("span", { style: { width: `${(100 * n) / most}%` } })), h("span", { class: "count" }, number(n))),
      h("td", {}, `${((100 * n) / of).toFixed(1)} %`),
      h("td", {}, h("button", {
        type: "button", "aria-label": `Show ${number(n)} pictures: ${classes[predicted]} predicted beside ${classes[truth]}`,
        onclick: () => set({ view: "gallery", class: classes[predicted], with: classes[truth], show: "fp", order: "top", t: "", at: 0, row: "" }),
      }, "Show"))));
    this.box.lastChild.replaceWith(h("p", { class: "quiet" }, words),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Pairs of classes" }, h("table", {},
        h("thead", {}, h("tr", {}, ...["Predicted, wrongly", "True class", "Pictures", "Of the true class", ""].map((one) =>
          h("th", { scope: "col", class: one === "True class" && "text" }, one || h("span", { class: "sr" }, "pictures"))))),
        h("tbody", {}, ...rows))));
  }
}
