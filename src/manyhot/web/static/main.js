// Starts the page: asks what there is to see, and keeps the view in step with the address.

import { getJson } from "./api.js";
import { ComparePage } from "./compare.js";
import { byId, say } from "./dom.js";
import { Gallery } from "./gallery.js";
import { listen, showKeys } from "./keys.js";
import { LivePage } from "./live.js";
import { narrow } from "./narrow.js";
import { toggleLayers } from "./overlay.js";
import { PairsPage } from "./pairs.js";
import { QueuePage } from "./queue.js";
import { address, set, state, subscribe } from "./state.js";
import { themeButton } from "./theme.js";
import { TryPage } from "./try.js";

function complain(error) {
  say(byId("notice"), error?.message ?? "");
  byId("notice").hidden = !error;
}

function keysOf(gallery, queue) {
  const inQueue = () => gallery && state.view === "review";
  const onPicture = () => inQueue() || state.view === "try" || (inGallery() && state.row !== "");
  const reviewing = () => inGallery() || inQueue();
  const inGallery = () => gallery && state.view === "gallery";
  const onBody = (event) => inGallery() && event.target.localName !== "input" && (event.target === document.body || event.target.closest("#grid, #picture"));
  const act = (action) => () => (inQueue() ? queue : gallery).act(action);
  const focus = (id) => () => { byId(id).closest("details")?.setAttribute("open", ""); byId(id).focus(); };
  const order = { 1: "top", 2: "bottom", 3: "near", 4: "loss", 5: "suspect" };
  return [
    { keys: ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"], when: onBody, words: "move among the pictures",
      act: (event) => (state.row === "" ? gallery.grid.step(event.key) : gallery.step({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0)) },
    { keys: ["ArrowLeft", "ArrowRight"], when: (event) => inQueue() && event.target.localName !== "input",
      act: (event) => queue.step(event.key === "ArrowLeft" ? -1 : 1) },
    { keys: ["Home", "End", "PageUp", "PageDown"], when: (event) => onBody(event) && state.row === "",
      words: "first and last picture; a page up or down", act: (event) => gallery.grid.step(event.key) },
    { keys: ["Enter"], when: (event) => onBody(event) && state.row === "", words: "open the picture",
      act: () => gallery.rows.length > 0 && set({ row: gallery.rows[gallery.grid.active] }) },
    { keys: ["Escape"], words: "close what is open", act: () => false },
    { keys: ["k"], when: reviewing, words: "keep: the label is right", act: act("keep") },
    { keys: ["f"], when: reviewing, words: "flip: the other label is right", act: act("flip") },
    { keys: ["d"], when: reviewing, words: "difficult: the picture leaves it open", act: act("difficult") },
    { keys: ["s"], when: reviewing, words: "skip: not decided", act: act("skip") },
    { keys: ["u"], when: reviewing, words: "take the last decision back", act: act("undo") },
    { keys: ["h"], when: onPicture, words: "heat map on the picture: on or off", act: () => toggleLayers("heat") },
    { keys: ["b"], when: onPicture, words: "boxes on the picture: on or off", act: () => toggleLayers("truth", "found") },
    { keys: ["["], when: inGallery, words: "the class before", act: () => gallery.choose(gallery.rail.neighbour(-1)) },
    { keys: ["]"], when: inGallery, words: "the next class", act: () => gallery.choose(gallery.rail.neighbour(1)) },
    { keys: ["/"], when: inGallery, words: "find a class", act: focus("find") },
    { keys: ["t"], when: inGallery, words: "go to the threshold; arrows move it", act: focus("threshold") },
    { keys: ["g"], when: inGallery, words: "go to the pictures", act: focus("grid") },
    { keys: ["1", "2", "3", "4", "5"], when: inGallery, act: (event) => set({ order: order[event.key], at: 0 }),
      words: "order: most probable, least probable, around the threshold, highest loss, probable label errors" },
  ];
}

async function start() {
  themeButton();
  let about;
  try {
    about = await getJson("/api/gallery");
  } catch (error) {
    complain(error);
    return;
  }
  say(byId("title"), about.title);
  document.title = about.title;
  const gallery = about.n ? new Gallery(about, complain) : null;
  narrow(() => gallery?.rail.render());
  const queue = new QueuePage(about, gallery?.review);
  const pages = {
    review: queue, pairs: new PairsPage(about), compare: new ComparePage(about), live: new LivePage(about), try: new TryPage(about),
  };
  const available = {
    gallery: about.n > 0, review: about.n > 0, pairs: about.n > 0, compare: Boolean(about.compared), live: about.run, try: true,
  };
  const keys = keysOf(gallery, queue);
  keys.push({ keys: ["?"], words: "show these keys", act: () => showKeys(keys) });
  listen(keys);

  const views = [...document.querySelectorAll("nav [data-view]")];
  for (const link of views) {
    link.hidden = !available[link.dataset.view];
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      set({ view: link.dataset.view, row: "" });
    });
  }
  const render = (before) => {
    complain(null);
    const view = available[state.view] ? state.view : available.gallery ? "gallery" : "live";
    for (const link of views) {
      link.href = address({ view: link.dataset.view, row: "" });
      if (link.dataset.view === view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    for (const name of Object.keys(available)) byId(name).hidden = name !== view;
    for (const [name, page] of Object.entries(pages)) page.show(name === view);
    if (view === "gallery") gallery.render(before);
  };
  subscribe(render);
  render({});
}

start();
