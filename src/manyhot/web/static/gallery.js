// The gallery: brings rail, threshold, grid, picture and review together, and keeps them in step with the address.

import { getJson } from "./api.js";
import { Arrays } from "./arrays.js";
import { byId, fixed, h, number, say } from "./dom.js";
import { Grid } from "./grid.js";
import { PictureView } from "./picture.js";
import { Rail } from "./rail.js";
import { Review } from "./review.js";
import { ON_PICTURES, set, state } from "./state.js";
import { Threshold } from "./threshold.js";

const EMPTY = {
  suspect: "No label of this class is known, so none can be wrong.",
  loss: "No label of this class is known, so there is no loss.",
};

export class Gallery {
  constructor(about, complain) {
    Object.assign(this, { about, complain, arrays: new Arrays(about.n), rows: new Uint32Array(0) });
    this.rail = new Rail(about, (c) => this.choose(c));
    this.threshold = new Threshold(about);
    this.review = new Review(about);
    this.review.listen(() => this.#decided());
    this.grid = new Grid({
      decision: (row) => this.review.decision(row, this.c),
      open: (index) => set({ row: this.rows[index] }),
      moved: (first) => { this.ownAt = String(first); set({ at: first }, { replace: true }); },
    });
    this.picture = new PictureView(about, {
      act: (action) => this.act(action),
      step: (step) => this.step(step),
      closed: () => { set({ row: "" }); byId("grid").focus({ preventScroll: true }); },
    });
    if (about.compared) byId("order").append(h("option", { value: "differ" }, "largest difference to B"));
    byId("order").addEventListener("change", (event) => set({ order: event.target.value, at: 0 }));
    this.#measure();
    this.review.load().catch((error) => complain(error));
  }

  choose(c) {
    if (c === undefined) return;
    set({ view: "gallery", class: this.about.classes[c], t: "", at: 0, row: "", with: "", show: state.with ? "" : state.show });
    byId("rail-box").classList.remove("open");
    byId("classes-toggle").setAttribute("aria-expanded", "false");
  }

  // Brings the page to what the address says; `before` is what it said.
  async render(before = {}) {
    if (this.ranking && "view" in before && Object.keys(before).every((key) => ON_PICTURES.includes(key) || before[key] === state[key])) {
      this.#picture();
      return;
    }
    const wanted = this.about.classes.indexOf(state.class);
    if (wanted < 0) {
      if (state.class) this.complain(new Error(`There is no class “${state.class}” here; this is the first one.`));
      set({ class: this.about.classes[0] }, { replace: true });
      return;
    }
    if (["class", "sort", "find"].some((key) => before[key] !== state[key])) this.rail.render();
    const turn = (this.turn = {});
    if (before.view !== state.view) this.listed = undefined;
    try {
      await this.#show(wanted, () => turn === this.turn);
    } catch (error) {
      if (turn === this.turn) this.complain(error);
    } finally {
      if (turn === this.turn) byId("grid").removeAttribute("aria-busy");
    }
  }

  // `holds`: whether the address still asks for this.
  async #show(c, holds) {
    const wanted = this.#wanted();
    if (wanted.list !== this.listed?.list) byId("grid").setAttribute("aria-busy", "true");
    const ranking = await this.arrays.ranking(c);
    if (!holds()) return;
    const t = this.threshold.value(c);
    const anew = wanted.list !== this.listed?.list || (wanted.at !== this.listed.at && wanted.at !== this.ownAt);
    const having = state.with ? this.about.classes.indexOf(state.with) : -1;
    const rows = wanted.list === this.listed?.list ? this.rows : await ranking.rows({
      order: state.order, t, kinds: this.threshold.kinds, having: having < 0 ? undefined : having,
    });
    if (state.order === "differ") await ranking.compare();
    if (!holds()) return;
    Object.assign(this, { c, ranking, rows });
    if (anew) this.grid.show(ranking, t, rows, Number(state.at) || 0, state.order);
    else if (this.listed.t !== t) this.grid.remark(t);
    this.listed = { ...wanted, t };
    this.#say();
    this.#picture();
    byId("grid").removeAttribute("aria-busy");
    const [counts] = await ranking.counts([t]);
    if (!holds()) return;
    this.threshold.count(ranking, t, counts);
    if (this.drawn === ranking) return;
    const curves = await ranking.curves();
    if (!holds()) return;
    this.threshold.draw(curves);
    this.drawn = ranking;
  }

  // What the list of pictures depends on, and the place in it.
  #wanted() {
    const keys = ["view", "class", "order", "show", "with", ...(state.order === "near" || state.show ? ["t"] : [])];
    return { list: JSON.stringify(keys.map((key) => state[key])), at: state.at };
  }

  #say() {
    byId("order").value = state.order;
    this.#head();
    say(byId("count"), `${number(this.rows.length)} of ${number(this.about.n)} pictures`);
    byId("empty").hidden = this.rows.length > 0;
    say(byId("empty"), state.show || state.with ? "No picture is of this kind at this threshold." : EMPTY[state.order] ?? "");
  }

  #head() {
    const one = this.rail.classes[this.c];
    say(byId("class-name"), state.class);
    const facts = one.measured
      ? `AP ${fixed(one.ap)} · ${number(one.n_positive)} positive${one.n_positive === 1 ? "" : "s"}${one.n_ignored ? ` · ${number(one.n_ignored)} ignored` : ""}`
      : "measuring …";
    byId("class-facts").replaceChildren(facts, ...(state.with ? [" · ", h("button", {
      type: "button", class: "chip", title: "Show all pictures again", onclick: () => set({ with: "", show: "", at: 0 }),
    }, `only those labelled ${state.with} ×`)] : []));
    document.title = `${state.class} · ${this.about.title}`;
  }

  #picture() {
    if (state.row === "" || !(Number(state.row) < this.about.n)) { this.picture.close(); return; }
    const row = Number(state.row);
    const place = this.rows.indexOf(row);
    const known = { place: place < 0 ? undefined : place, of: this.rows.length, t: this.threshold.value(this.c) };
    this.picture.show(row, this.c, { ...known, decision: this.review.decision(row, this.c) });
  }

  step(step) {
    if (state.row === "") { this.grid.activate(this.grid.active + step); return; }
    const place = this.rows.indexOf(Number(state.row)) + step;
    if (place < 0 || place >= this.rows.length) return;
    this.grid.activate(place);
    set({ row: this.rows[place] }, { replace: true });
  }

  act(action) {
    if (action === "undo") { this.review.undo(); return; }
    const row = state.row === "" ? this.rows[this.grid.active] : Number(state.row);
    if (row === undefined) return;
    this.review.decide(row, this.c, action);
    this.step(1);
  }

  #decided() {
    if (!this.ranking) return;
    this.grid.remark(this.threshold.value(this.c));
    this.#picture();
  }

  async #measure() {
    try {
      const found = await getJson("/api/classes");
      if (!found.measured) { setTimeout(() => this.#measure(), 500); return; }
      this.rail.measured(found.classes);
      if (this.c !== undefined) this.#head();
    } catch (error) {
      this.complain(error);
    }
  }
}
