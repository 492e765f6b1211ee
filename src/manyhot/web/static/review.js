// Decisions about labels: one key each, sent one after the other, each on disk when the server answers.

import { getJson, post } from "./api.js";
import { byId, h, number, openSheet, say, toast } from "./dom.js";

export const ACTIONS = [["keep", "k", "the label is right"], ["flip", "f", "the other label is right"],
  ["difficult", "d", "the picture leaves it open: ignore it"], ["skip", "s", "not decided"]];

const EXPORTS = { csv: "Decisions as CSV", voc: "VOC Main lists with the new labels (ZIP)", manifest: "Manifest with the new labels (Parquet)" };

export class Review {
  constructor(about) {
    Object.assign(this, { about, listeners: [], made: new Map(), sent: new Map(), sending: Promise.resolve() });
    byId("reviewed").hidden = false;
    byId("reviewed").addEventListener("click", () => this.#sheet());
    this.#count();
  }

  // Calls `changed` whenever a decision is taken, taken back or lost.
  listen(changed) { this.listeners.push(changed); }

  load() {
    this.loaded = getJson("/api/review").then((list) => this.#take(list));
    return this.loaded;
  }

  decision(row, c) { return this.made.get(`${row}/${c}`); }

  decide(row, c, action) {
    const key = `${row}/${c}`;
    const before = this.made.get(key);
    this.made.set(key, action);
    this.sent.set(key, action);
    this.#changed();
    const arrived = () => { if (this.sent.get(key) === action) this.sent.delete(key); };
    this.#send(async () => {
      await post("/api/review", { row, class_index: c, action });
      arrived();
    }, () => {
      arrived();
      if (before === undefined) this.made.delete(key);
      else this.made.set(key, before);
    });
  }

  // Takes the last decision back; promises the key "row/class" of what changed.
  async undo() {
    let key;
    await this.#send(async () => {
      const before = this.made;
      this.#take(await post("/api/review/undo"));
      key = [...before.keys()].find((one) => before.get(one) !== this.made.get(one));
      toast("Taken back.");
    }, () => {});
    return key;
  }

  #send(work, failed) {
    this.sending = this.sending.then(work).catch((error) => {
      failed();
      this.#changed();
      toast(`Not saved: ${error.message}`);
    });
    return this.sending;
  }

  #take(list) {
    this.made = new Map([...list.map(([row, c, action]) => [`${row}/${c}`, action]), ...this.sent]);
    this.#changed();
  }

  #changed() {
    this.#count();
    for (const changed of this.listeners) changed();
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
