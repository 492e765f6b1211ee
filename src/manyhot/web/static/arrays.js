// The arrays of classes. They live in a worker, which also orders and counts: with a million pictures that takes the
// time of several frames. The page itself holds scores and labels of the last few classes, for the tiles.

import { kindOf } from "./ranking.js";

const KEPT = 4;

// The page's policy lets no address become a script but this one.
const policy = globalThis.trustedTypes?.createPolicy("manyhot-worker", {
  createScriptURL: (address) => {
    if (address !== "/static/worker.js") throw new TypeError("no other worker");
    return address;
  },
});

export class Arrays {
  constructor(n) {
    const address = "/static/worker.js";
    Object.assign(this, { n, kept: new Map(), asked: new Map(), next: 0 });
    this.worker = new Worker(policy?.createScriptURL(address) ?? address, { type: "module" });
    this.worker.addEventListener("message", ({ data }) => {
      const { resolve, reject } = this.asked.get(data.id);
      this.asked.delete(data.id);
      if (data.fault === undefined) resolve(data.found);
      else reject(new Error(data.fault));
    });
    this.worker.addEventListener("error", (event) => {
      for (const { reject } of this.asked.values()) reject(new Error(`The page's worker failed: ${event.message ?? "it did not start"}`));
      this.asked.clear();
    });
  }

  // The one asked for longest ago goes first.
  ranking(c) {
    const found = this.kept.get(c) ?? this.#ask("open", { c }).then((arrays) => new Ranked(c, arrays, (what, more) => this.#ask(what, { c, ...more })));
    this.kept.delete(c);
    this.kept.set(c, found);
    found.catch(() => this.kept.delete(c));
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    return found;
  }

  #ask(what, more) {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.asked.set(id, { resolve, reject });
      this.worker.postMessage({ id, what, n: this.n, ...more });
    });
  }
}

// One class: scores and labels at hand; orders, counts and curves as promises.
class Ranked {
  constructor(c, { scores, labels }, ask) { Object.assign(this, { c, scores, labels, ask }); }

  kind(row, t) { return kindOf(this.labels[row], this.scores[row], t); }

  // Rows in the wanted order; `kinds`: those to keep, empty for all; `having`: index of a class that they must have.
  rows({ order, t, kinds, having }) { return this.ask("rows", { order, t, kinds, having }); }

  // Scores of the compared model for the tiles, once they are asked for.
  async compare() { this.other ??= await this.ask("other"); }

  // Counts at each of the thresholds.
  counts(thresholds) { return this.ask("counts", { thresholds }); }

  curves() { return this.ask("curves"); }
}
