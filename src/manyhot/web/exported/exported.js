// A gallery without a server: the lists of every class that were exported, their curves, and what is known of a picture.

import { thumbnail } from "./api.js";
import { byId, fixed, h, number, openSheet, say, table } from "./dom.js";
import { Grid, TRUTH } from "./grid.js";
import { listen, showKeys } from "./keys.js";
import { narrow } from "./narrow.js";
import { linePlot } from "./plot.js";
import { Rail } from "./rail.js";
import { kindOf } from "./ranking.js";
import { set, state, subscribe } from "./state.js";
import { themeButton } from "./theme.js";

const data = globalThis.manyhotExport;
const LISTS = ["top", "bottom", "near", "loss", "fp", "fn"];

// The entries of one list in the shape of a ranking: scores and labels by row.
class Listed {
  constructor(entries) {
    this.scores = Object.fromEntries(entries.map(([row, score]) => [row, score]));
    this.labels = Object.fromEntries(entries.map(([row, , label]) => [row, label]));
    this.rows = entries.map(([row]) => row);
  }

  kind(row, t) { return kindOf(this.labels[row], this.scores[row], t); }
}

const choose = (c) => {
  if (c === undefined) return;
  set({ class: data.names[c], at: 0, row: "" });
  byId("rail-box").classList.remove("open");
  byId("classes-toggle").setAttribute("aria-expanded", "false");
};
const rail = new Rail({ classes: data.names, thresholds: data.thresholds }, choose);
let moved; // where the grid itself has scrolled to
const grid = new Grid({
  decision: () => undefined,
  open: (index) => set({ row: grid.rows[index] }),
  moved: (first) => { moved = String(first); set({ at: first }, { replace: true }); },
});

function draw(c) {
  const one = data.classes[c];
  const t = data.thresholds[c];
  say(byId("class-name"), data.names[c]);
  document.title = `${data.names[c]} · ${data.title}`;
  say(byId("class-facts"), `AP ${fixed(one.ap)} · ${number(one.n_positive)} positive${one.n_positive === 1 ? "" : "s"}${one.n_ignored ? ` · ${number(one.n_ignored)} ignored` : ""}`);
  const shown = [["threshold", t], ["precision", one.precision], ["recall", one.recall], ["F1", one.f1]];
  byId("measures").replaceChildren(...shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, fixed(value)))));
  say(byId("counted"), `Above the threshold: TP ${number(one.tp)}, FP ${number(one.fp)}; not above it: FN ${number(one.fn)}, TN ${number(one.tn)}`);
  const pr = linePlot({
    title: "Precision", xLabel: "recall", step: "before", lines: [{ name: "precision", points: one.pr }],
    point: one.recall === null ? null : [one.recall, one.precision ?? NaN], empty: one.pr.length ? "" : "no positive picture",
  });
  const tail = linePlot({
    title: "Tail accuracy", xLabel: "threshold", xs: [0.5, 1], step: "after", lines: [{ name: "tail accuracy", points: one.tail }],
    point: t < 0.5 ? null : [t, one.precision ?? NaN], empty: one.tail.length ? "" : "no known score above 0.5",
  });
  byId("curve-pr").replaceChildren(...pr.content);
  byId("curve-tail").replaceChildren(...tail.content);
}

function list(c) {
  const order = LISTS.includes(state.order) ? state.order : "top";
  byId("order").value = order;
  const listed = new Listed(data.classes[c].lists[order]);
  grid.show(listed, data.thresholds[c], listed.rows, Number(state.at) || 0);
  say(byId("count"), `${number(listed.rows.length)} of ${number(data.n)} pictures`);
  byId("empty").hidden = listed.rows.length > 0;
  say(byId("empty"), "No picture is of this kind.");
}

function open(row) {
  const one = data.pictures[row];
  if (!one) return;
  openSheet(one.id,
    h("p", { class: "alone" }, h("img", { src: thumbnail(row), alt: one.id })),
    table(["class", "score", "label"], one.scores.map(([c, score, label]) => [data.names[c], fixed(score), TRUTH[label]])),
    h("p", { class: "quiet" }, `The most probable classes and those labelled present${one.split ? ` · split ${one.split}` : ""}`));
}

function render(before = {}) {
  const c = data.names.indexOf(state.class);
  if (c < 0) {
    set({ class: data.names[0] }, { replace: true });
    return;
  }
  if (["class", "sort", "find"].some((key) => before[key] !== state[key])) rail.render();
  if (before.class !== state.class) draw(c);
  if (["class", "order"].some((key) => before[key] !== state[key]) || (before.at !== state.at && state.at !== moved)) list(c);
  if (state.row !== "" && before.row !== state.row) open(state.row);
  else if (state.row === "") byId("sheet").close();
}

const onBody = (event) => event.target === document.body || event.target.closest("#grid");
const keys = [
  { keys: ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"], when: onBody,
    words: "move among the pictures", act: (event) => grid.step(event.key) },
  { keys: ["Enter"], when: onBody, words: "open the picture", act: () => grid.rows.length > 0 && set({ row: grid.rows[grid.active] }) },
  { keys: ["["], words: "the class before", act: () => choose(rail.neighbour(-1)) },
  { keys: ["]"], words: "the next class", act: () => choose(rail.neighbour(1)) },
  { keys: ["/"], words: "find a class", act: () => byId("find").focus() },
  { keys: ["1", "2", "3", "4", "5", "6"], act: (event) => set({ order: LISTS[event.key - 1], at: 0 }),
    words: "most probable, least probable, around the threshold, highest loss, false positives, false negatives" },
  { keys: ["?"], words: "show these keys", act: () => showKeys(keys) },
];

themeButton();
say(byId("title"), data.title);
narrow(() => rail.render());
rail.measured(data.classes);
byId("order").addEventListener("change", (event) => set({ order: event.target.value, at: 0 }));
byId("sheet").addEventListener("close", () => set({ row: "" }));
listen(keys);
subscribe(render);
render();
