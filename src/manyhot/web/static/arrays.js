// The arrays of classes, asked for when they are needed; the last few stay in memory.

import { getBytes } from "./api.js";
import { Ranking } from "./ranking.js";

const KEPT = 4;

export class Arrays {
  constructor(n) { Object.assign(this, { n, kept: new Map() }); }

  ranking(c) {
    return this.#kept(`/api/classes/${c}/ranking`, (bytes) => new Ranking(bytes, this.n));
  }

  // Rows of the known labels of a class, most suspect first.
  suspects(c) {
    return this.#kept(`/api/classes/${c}/suspects`, (bytes) => new Uint32Array(bytes, 0, bytes.byteLength / 5));
  }

  // The one asked for longest ago goes first.
  #kept(path, made) {
    const found = this.kept.get(path) ?? getBytes(path).then(made);
    this.kept.delete(path);
    this.kept.set(path, found);
    found.catch(() => this.kept.delete(path));
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    return found;
  }
}
