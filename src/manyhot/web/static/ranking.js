// One class: scores and labels of all pictures, what is counted at a threshold, and the pictures in any order.

export const KINDS = ["tp", "fp", "fn", "tn", "ignored"];
export const KIND_WORDS = {
  tp: "true positives", fp: "false positives", fn: "false negatives", tn: "true negatives", ignored: "ignored",
};

// The place in KINDS of a picture with this label and score.
export function kindOf(label, score, t) {
  if (label < 0) return 4;
  return score > t ? 1 - label : 3 - label;
}

export class Ranking {
  // The bytes of /api/classes/C/ranking: float32 scores, uint32 rows in order, int8 labels, `n` each.
  constructor(bytes, n) {
    this.n = n;
    this.scores = new Float32Array(bytes, 0, n);
    this.order = new Uint32Array(bytes, 4 * n, n);
    this.labels = new Int8Array(bytes, 8 * n, n);
  }

  counts(t) {
    const { scores, labels, n } = this;
    const found = [0, 0, 0, 0, 0];
    for (let row = 0; row < n; row++) found[kindOf(labels[row], scores[row], t)]++;
    const [tp, fp, fn, tn, ignored] = found;
    const precision = tp + fp ? tp / (tp + fp) : null;
    const recall = tp + fn ? tp / (tp + fn) : null;
    const f1 = tp + fn || tp + fp ? (2 * tp) / (2 * tp + fp + fn) : null;
    return { tp, fp, fn, tn, ignored, precision, recall, f1 };
  }

  // Rows in the wanted order, which `listed` gives where it does not follow from this class's scores; `kinds`: those to
  // keep, empty for all; `having`: labels of which 1 is asked for.
  rows({ order, t, kinds, listed, having }) {
    const ordered = listed ?? this.#ordered(order, t);
    if (!kinds.length && !having) return ordered;
    const wanted = KINDS.map((name) => !kinds.length || kinds.includes(name));
    const kept = new Uint32Array(ordered.length);
    let n = 0;
    for (let i = 0; i < ordered.length; i++) {
      const row = ordered[i];
      if (wanted[kindOf(this.labels[row], this.scores[row], t)] && (!having || having[row] === 1)) kept[n++] = row;
    }
    return kept.subarray(0, n);
  }

  #ordered(order, t) {
    if (order === "near") return this.#near(t);
    if (order === "loss") return this.#byLoss();
    return order === "bottom" ? this.order.slice().reverse() : this.order;
  }

  // From the threshold outwards: two fingers on the ranking.
  #near(t) {
    const { order, scores, n } = this;
    let low = 0;
    let high = n;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (scores[order[middle]] > t) low = middle + 1;
      else high = middle;
    }
    const found = new Uint32Array(n);
    let above = low - 1;
    for (let i = 0, below = low; i < n; i++) {
      const up = above < 0 ? Infinity : scores[order[above]] - t;
      const down = below >= n ? Infinity : t - scores[order[below]];
      found[i] = up <= down ? order[above--] : order[below++];
    }
    return found;
  }

  // The loss of a known label falls with the score of that label: present from below, absent from above, merged.
  #byLoss() {
    const { order, scores, labels, n } = this;
    const found = new Uint32Array(n);
    let count = 0;
    for (let top = 0, bottom = n - 1; ;) {
      while (top < n && labels[order[top]] !== 0) top++;
      while (bottom >= 0 && labels[order[bottom]] !== 1) bottom--;
      if (top >= n && bottom < 0) return found.subarray(0, count);
      const absent = top < n ? scores[order[top]] : -1;
      const present = bottom >= 0 ? 1 - scores[order[bottom]] : -1;
      found[count++] = absent >= present ? order[top++] : order[bottom--];
    }
  }

  // Scores and labels in the order of the ranking, and how many labels are 1.
  #sorted() {
    const { order, n } = this;
    const scores = new Float32Array(n);
    const labels = new Int8Array(n);
    let positives = 0;
    for (let i = 0; i < n; i++) {
      const row = order[i];
      scores[i] = this.scores[row];
      labels[i] = this.labels[row];
      if (labels[i] === 1) positives++;
    }
    return [scores, labels, positives];
  }

  // Precision by recall, and tail accuracy by threshold from 0.5 on, thinned to what a plot can show.
  curves(points = 240) {
    const { n } = this;
    const [scores, labels, positives] = this.#sorted();
    const pr = [];
    const tail = [];
    let [tp, known, recall, height, open] = [0, 0, -1, 2, true];
    for (let i = 0; i < n;) {
      const score = scores[i];
      if (open && known && (score <= 0.5 || height - score > 0.5 / points)) {
        height = Math.max(score, 0.5);
        tail.push([height, tp / known]);
      }
      open &&= score > 0.5;
      let found = 0;
      for (; i < n && scores[i] === score; i++) {
        const label = labels[i];
        if (label >= 0) known++;
        if (label === 1) found++;
      }
      tp += found;
      if (found && (tp / positives - recall > 1 / points || tp === positives)) {
        recall = tp / positives;
        pr.push([recall, tp / known]);
      }
    }
    if (open && known) tail.push([0.5, tp / known]);
    return { pr, tail: tail.reverse(), positives };
  }
}
