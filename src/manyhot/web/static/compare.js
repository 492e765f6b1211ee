// Two models, A and B, of the same pictures: those in which they disagree most over all classes, and the classes.

import { getBytes, getJson, nameOf, thumbnail, whenNamed } from "./api.js";
import { byId, fixed, h, number, say } from "./dom.js";
import { TRUTH, wideTiles } from "./grid.js";
import { set } from "./state.js";
import { Virtual } from "./virtual.js";

const MOST = 100; // classes in the table

export class ComparePage {
  constructor(about) { Object.assign(this, { about, box: byId("compare") }); }

  async show(visible) {
    if (!visible || this.asked) return;
    this.asked = true;
    this.box.replaceChildren(h("h1", {}, "Where A and B disagree"), h("p", { class: "words" }, "Comparing …"));
    try {
      const [bytes, classes] = await Promise.all([getBytes("/api/compare/pictures"), getJson("/api/compare")]);
      this.#take(bytes);
      this.#draw(classes);
    } catch (error) {
      this.asked = false;
      this.box.lastChild.replaceWith(h("p", { class: "words" }, error.message));
    }
  }

  #take(bytes) {
    const { n } = this.about;
    Object.assign(this, {
      rows: new Uint32Array(bytes, 0, n), classes: new Uint32Array(bytes, 4 * n, n),
      a: new Float32Array(bytes, 8 * n, n), b: new Float32Array(bytes, 12 * n, n), labels: new Int8Array(bytes, 16 * n, n),
    });
  }

  #draw(classes) {
    const [a, b] = this.about.compared;
    const tiles = h("div", { class: "tiles", role: "listbox", tabindex: "0", "aria-label": "Pictures, the largest difference first" });
    this.box.lastChild.replaceWith(
      h("p", { class: "quiet" }, h("b", {}, "A"), ` ${a} · `, h("b", {}, "B"), ` ${b} · difference: |A − B| of the scores`),
      h("div", { class: "compare-body" },
        h("section", { "aria-label": "Pictures" },
          h("h2", {}, "Pictures"), h("p", { class: "quiet" }, `${number(this.about.n)} of ${number(this.about.n)} pictures, each with the class in which A and B differ most`), tiles),
        h("section", { "aria-label": "Classes" },
          h("h2", {}, "Classes"), this.#words(classes), this.#table(classes))));
    this.#virtual(tiles);
  }

  #virtual(tiles) {
    this.active = 0;
    const open = (index) => this.#open(this.classes[index], { row: this.rows[index] });
    this.virtual = new Virtual(tiles, {
      layout: wideTiles,
      create: () => h("div", { class: "tile", role: "option" }, h("img", { alt: "", decoding: "async", draggable: "false" }),
        h("span", { class: "score" }), h("span", { class: "truth" }), h("span", { class: "decided" })),
      update: (tile, index) => this.#update(tile, index),
    });
    tiles.addEventListener("click", (event) => {
      const tile = event.target.closest(".tile");
      if (tile) open(Number(tile.dataset.index));
    });
    tiles.addEventListener("keydown", (event) => {
      const { columns, rowsInSight } = this.virtual;
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns,
        PageDown: columns * rowsInSight, PageUp: -columns * rowsInSight, Home: -Infinity, End: Infinity };
      if (event.key === "Enter") open(this.active);
      else if (event.key in steps) {
        this.active = Math.max(0, Math.min(this.active + steps[event.key], this.rows.length - 1));
        this.virtual.reveal(this.active);
        this.virtual.refresh();
        tiles.setAttribute("aria-activedescendant", this.virtual.element(this.active)?.id ?? "");
      } else return;
      event.preventDefault();
    });
    this.virtual.reset(this.rows.length);
  }

  #update(tile, index) {
    const row = this.rows[index];
    const [image, score, truth, name] = tile.children;
    const source = thumbnail(row);
    if (image.getAttribute("src") !== source) image.src = source;
    const label = this.labels[index];
    say(score, `A ${fixed(this.a[index], 2)} B ${fixed(this.b[index], 2)}`);
    say(truth, TRUTH[label]);
    truth.className = `truth ${{ 1: "tp", 0: "tn", "-1": "ignored" }[label]}`;
    say(name, this.about.classes[this.classes[index]]);
    tile.id = `compared-${index}`;
    Object.assign(tile.dataset, { index, row });
    tile.setAttribute("aria-posinset", index + 1);
    tile.setAttribute("aria-setsize", this.rows.length);
    tile.setAttribute("aria-selected", index === this.active);
    const words = () => {
      if (Number(tile.dataset.row) !== row) return;
      tile.title = nameOf(row) ?? "";
      tile.setAttribute("aria-label", `${nameOf(row) ?? `picture ${number(row)}`}, ${name.textContent}: A ${fixed(this.a[index])}, B ${fixed(this.b[index])}, ${TRUTH[label]}`);
    };
    words();
    if (nameOf(row) === undefined) whenNamed(row, words);
  }

  #words(classes) {
    const [a, b] = ["ap_a", "ap_b"].map((key) => classes.map((one) => one[key]).filter((ap) => ap !== null));
    const mean = (values) => fixed(values.length ? values.reduce((sum, one) => sum + one, 0) / values.length : null);
    return h("p", { class: "quiet" }, `mAP of A ${mean(a)}, of B ${mean(b)}. Differ: pictures in which one of the two alone is above its threshold, the most first.`);
  }

  #table(classes) {
    const order = classes.map((one, c) => c).sort((x, y) => classes[y].differ - classes[x].differ || classes[y].mean - classes[x].mean);
    const rows = order.slice(0, MOST).map((c) => {
      const { ap_a: a, ap_b: b, mean, differ } = classes[c];
      const change = a === null ? null : b - a;
      return h("tr", {},
        h("th", { scope: "row" }, h("button", { type: "button", class: "link", title: "The pictures of this class, the largest difference first", onclick: () => this.#open(c, {}) }, this.about.classes[c])),
        h("td", {}, fixed(a)), h("td", {}, fixed(b)),
        h("td", {}, change === null ? "–" : `${change <= -0.0005 ? "−" : change < 0.0005 ? "" : "+"}${fixed(Math.abs(change))}`),
        h("td", {}, number(differ)), h("td", {}, fixed(mean)));
    });
    const more = order.length > MOST ? h("p", { class: "quiet" }, `${number(MOST)} of ${number(order.length)} classes; the others are in the gallery, by “largest difference to B”.`) : null;
    return h("div", {}, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Classes, compared" }, h("table", {},
      h("thead", {}, h("tr", {}, ...["Class", "AP A", "AP B", "B − A", "Differ", "Mean |A − B|"].map((one) => h("th", { scope: "col" }, one)))),
      h("tbody", {}, ...rows))), more);
  }

  #open(c, more) {
    set({ view: "gallery", class: this.about.classes[c], order: "differ", show: "", with: "", t: "", at: 0, row: "", ...more });
  }
}
