// What the server knows of a picture, and what an Overlay needs of it.

import { getBytes, getJson, large } from "./api.js";
import { byScore } from "./facts.js";

const NONE = { known: false, boxes: [], by: "" };

// One picture with the boxes that were found in it; a faulty table of boxes hides no picture.
export async function askPicture(about, row) {
  const [one, found] = await Promise.all([
    getJson(`/api/pictures/${row}`),
    about.localized ? getJson(`/api/pictures/${row}/detections`).catch((error) => ({ ...NONE, fault: error.message })) : NONE,
  ]);
  return { ...one, found };
}

// Boxes of the class asked about, and of those that are predicted.
function shown(about, one, c) {
  const place = new Map(about.classes.map((name, i) => [name, i]));
  return one.found.boxes.filter(({ name }) =>
    place.get(name) === c || one.scores[place.get(name)] > about.thresholds[place.get(name)]);
}

export function onPicture(about, one, c) {
  return {
    key: `row ${one.row}`, id: one.id, href: large(one.row), size: one.size, trouble: one.trouble, image: one.image,
    boxes: one.boxes, found: shown(about, one, c), by: one.found.by, classes: about.classes, c, order: byScore(one.scores),
    heat: about.run ? (of, signal) => getBytes(`/api/pictures/${one.row}/heat?class_index=${of}`, { signal })
      : "There is no trained model here: these are scores from a table. Start the gallery with a run.",
  };
}
