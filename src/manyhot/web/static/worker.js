// Fetches, orders and counts the arrays of classes beside the page, which stays free to answer.

import { getBytes } from "./api.js";
import { Ranking } from "./ranking.js";

const KEPT = 4;
const kept = new Map();

// The one asked for longest ago goes first.
function asked(path, made) {
  const found = kept.get(path) ?? getBytes(path).then(made);
  kept.delete(path);
  kept.set(path, found);
  found.catch(() => kept.delete(path));
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  return found;
}

const ranking = (c, n) => asked(`/api/classes/${c}/ranking`, (bytes) => new Ranking(bytes, n));
// Rows of the known labels of a class, most suspect first.
const suspects = (c) => asked(`/api/classes/${c}/suspects`, (bytes) => new Uint32Array(bytes, 0, bytes.byteLength / 5));

// Scores of the compared model, and rows by the difference to them, the largest first.
const compare = (c, n) => asked(`/api/classes/${c}/compare`, (bytes) =>
  ({ other: new Float32Array(bytes, 0, n), rows: new Uint32Array(bytes, 4 * n, n) }));

const WORK = {
  async open({ c, n }) {
    const { scores, labels } = await ranking(c, n);
    return { scores: scores.slice(), labels: labels.slice() };
  },
  async rows({ c, n, order, t, kinds, having }) {
    const one = await ranking(c, n);
    const listed = order === "suspect" ? await suspects(c) : order === "differ" ? (await compare(c, n)).rows : undefined;
    const labels = having === undefined ? undefined : (await ranking(having, n)).labels;
    return one.rows({ order, t, kinds, listed, having: labels }).slice();
  },
  async other({ c, n }) { return (await compare(c, n)).other.slice(); },
  async counts({ c, n, thresholds }) {
    const one = await ranking(c, n);
    return thresholds.map((t) => one.counts(t));
  },
  async curves({ c, n }) { return (await ranking(c, n)).curves(); },
};

addEventListener("message", async ({ data }) => {
  try {
    const found = await WORK[data.what](data);
    const arrays = ArrayBuffer.isView(found) ? [found] : Object.values(found).filter(ArrayBuffer.isView);
    postMessage({ id: data.id, found }, arrays.map((one) => one.buffer));
  } catch (error) {
    postMessage({ id: data.id, fault: error.message });
  }
});
