// The ranked pictures: tiles, the active one among them, their names.

import { nameOf, thumbnail, whenNamed } from "./api.js";
import { byId, fixed, h, number, say } from "./dom.js";
import { KIND_WORDS, KINDS } from "./ranking.js";
import { Virtual } from "./virtual.js";

const [NARROW, WIDE] = [132, 172]; // pixels of a tile at least, with one score and with two
const FEWEST = 2;
const MOST = 70; // tiles in sight; on larger screens tiles are larger
const CAPTION = 36;

const layoutOf = (narrowest) => (width, height) => {
  const inner = Math.max(width, 1);
  const area = Math.max(narrowest, Math.sqrt((inner * Math.max(height, 1)) / MOST));
  const columns = Math.max(FEWEST, Math.floor(inner / area));
  const tile = Math.floor(inner / columns);
  return { columns, width: tile, height: Math.round(tile * 0.78) + CAPTION };
};
export const narrowTiles = layoutOf(NARROW);
export const wideTiles = layoutOf(WIDE);

const WORDS = { keep: "kept", flip: "flipped", difficult: "difficult", skip: "skipped" };
export const TRUTH = { 1: "present", 0: "absent", "-1": "ignored" };

export class Grid {
  // decision(row) → action or undefined; open(index); activated(index).
  constructor({ decision, open, moved }) {
    this.box = byId("grid");
    this.rows = new Uint32Array(0);
    this.active = 0;
    this.decision = decision;
    this.virtual = new Virtual(this.box, {
      layout: narrowTiles,
      create: () => this.#create(),
      update: (tile, index) => this.#update(tile, index),
      moved: () => moved(this.virtual.first),
    });
    this.box.addEventListener("click", (event) => {
      const tile = event.target.closest(".tile");
      if (!tile) return;
      this.activate(Number(tile.dataset.index));
      open(this.active);
    });
  }

  show(ranking, t, rows, at, order) {
    Object.assign(this, { ranking, t, rows, order });
    this.active = Math.min(at, Math.max(0, rows.length - 1));
    this.virtual.layout = order === "differ" ? wideTiles : narrowTiles;
    this.virtual.measure();
    this.virtual.reset(rows.length, this.active);
    this.box.hidden = !rows.length;
    this.#point();
  }

  // The same tiles in the same place with what is known of them now.
  remark(t) {
    this.t = t;
    this.virtual.refresh();
    this.#point();
  }

  activate(index) {
    if (!this.rows.length) return;
    this.active = Math.max(0, Math.min(index, this.rows.length - 1));
    this.virtual.reveal(this.active);
    this.virtual.refresh();
    this.#point();
  }

  step(key) {
    const { columns, rowsInSight } = this.virtual;
    const steps = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns,
      PageDown: columns * rowsInSight, PageUp: -columns * rowsInSight, Home: -Infinity, End: Infinity,
    };
    if (!(key in steps)) return false;
    this.activate(this.active + steps[key]);
    return true;
  }

  #point() {
    const tile = this.virtual.element(this.active);
    if (tile) this.box.setAttribute("aria-activedescendant", tile.id);
    else this.box.removeAttribute("aria-activedescendant");
  }

  #create() {
    const image = h("img", { alt: "", decoding: "async", draggable: "false" });
    return h("div", { class: "tile", role: "option" }, image,
      h("span", { class: "score" }), h("span", { class: "truth" }), h("span", { class: "decided" }));
  }

  #update(tile, index) {
    const row = this.rows[index];
    const [image, score, truth, decided] = tile.children;
    const label = this.ranking.labels[row];
    const kind = KINDS[this.ranking.kind(row, this.t)];
    const action = this.decision(row);
    const source = thumbnail(row);
    if (image.getAttribute("src") !== source) image.src = source;
    const other = this.order === "differ" ? this.ranking.other[row] : undefined;
    say(score, other === undefined ? fixed(this.ranking.scores[row]) : `A ${fixed(this.ranking.scores[row], 2)} B ${fixed(other, 2)}`);
    say(truth, TRUTH[label]);
    truth.className = `truth ${kind}`;
    say(decided, action ? WORDS[action] : "");
    tile.id = `tile-${index}`;
    tile.dataset.index = index;
    tile.dataset.row = row;
    tile.setAttribute("aria-posinset", index + 1);
    tile.setAttribute("aria-setsize", this.rows.length);
    tile.setAttribute("aria-selected", index === this.active);
    this.#name(tile, row, `score ${fixed(this.ranking.scores[row])}${other === undefined ? "" : `, of B ${fixed(other)}`}, ${TRUTH[label]}, ${KIND_WORDS[kind]}`, action);
  }

  #name(tile, row, words, action) {
    const rest = `${words}${action ? `, ${WORDS[action]}` : ""}`;
    const write = () => {
      if (Number(tile.dataset.row) !== row) return;
      tile.title = nameOf(row) ?? "";
      tile.setAttribute("aria-label", `${nameOf(row) ?? `picture ${number(row)}`}, ${rest}`);
    };
    write();
    if (nameOf(row) === undefined) whenNamed(row, write);
  }
}
