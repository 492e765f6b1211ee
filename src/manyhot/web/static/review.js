// Decisions about labels: one key each, sent one after the other, each on disk when the server answers.

import { getJson, post } from "./api.js";
import { byId, h, number, openSheet, say, toast } from "./dom.js";

export const ACTIONS = [["keep", "k", "the label is right"], ["flip", "f", "the other label is right"],
  ["difficult", "d", "the picture leaves it open: ignore it"], ["skip", "s", "not decided"]];

const EXPORTS = { csv: "Decisions as CSV", voc: "VOC Main lists with the new labels (ZIP)", manifest: "Manifest with the new labels (Parquet)" };

export class Review {
  constructor(about, changed) {
    Object.assign(this, { about, changed, made: new Map(), sending: Promise.resolve() });
    byId("reviewed").hidden = false;
    byId("reviewed").addEventListener("click", () => this.#sheet());
    this.#count();
  }

  async load() { this.#take(await getJson("/api/review")); }

  decision(row, c) { return this.made.get(`${row}/${c}`); }

  decide(row, c, action) {
    const key = `${row}/${c}`;
    const before = this.made.get(key);
    this.made.set(key, action);
    this.#changed();
    this.#send(async () => {
      await post("/api/review", { row, class_index: c, action });
    }, () => {
      if (before === undefined) this.made.delete(key);
      else this.made.set(key, before);
    });
  }

  undo() {
    this.#send(async () => {
      this.#take(await post("/api/review/undo"));
      toast("Taken back.");
    }, () => {});
  }

  #send(work, failed) {
    this.sending = this.sending.then(work).catch((error) => {
      failed();
      this.#changed();
      toast(`Not saved: ${error.message}`);
    });
  }

  #take(list) {
    this.made = new Map(list.map(([row, c, action]) => [`${row}/${c}`, action]));
    this.#changed();
  }

  #changed() {
    this.#count();
    this.changed();
  }

  #count() { say(byId("reviewed"), `${number(this.made.size)} reviewed`); }

  #sheet() {
    const tally = ACTIONS.map(([action]) => [action, [...this.made.values()].filter((one) => one === action).length]);
    openSheet("Review",
      h("p", {}, tally.map(([action, n]) => `${action} ${number(n)}`).join(" · ")),
      h("p", {}, "Every decision is appended to a file of its own. Labels and pictures stay as they are; take the outcome away as:"),
      h("ul", { class: "links" }, ...this.about.exports.map((one) =>
        h("li", {}, h("a", { href: `/api/review/export?as=${one}`, download: "" }, EXPORTS[one])))));
  }
}
