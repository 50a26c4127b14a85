// The best items of each searched interest, before the merge.

import { count, h, percent, replace } from "./dom.js";

const PER_CARD = 5;
const FIRST_CARDS = 6;

/** Fills `root` with a card per drawn interest of a pane; items that reached the list say where. */
export function showCandidates(root, { pane, model, view }) {
  const cards = pane.list.drawn.map((interest) => card(pane, interest, model));
  const shown = view.allCards ? cards : cards.slice(0, FIRST_CARDS);
  const more = cards.length - shown.length;
  const toggle = () => {
    view.allCards = !view.allCards;
    view.again();
  };
  replace(
    root,
    h("p", { class: "muted" }, `Each interest${pane.side ? ` of setting ${pane.side}` : ""} is searched in its own category. The share is within that category; the number says where the item came in the list.`),
    h("div", { class: "cards" }, shown),
    (more > 0 || view.allCards) &&
      h("button", { type: "button", class: "quiet", "data-key": "more-cards", onclick: toggle },
        view.allCards ? "Show fewer interests" : `Show ${count(more, "more interest")}`),
  );
}

function card(pane, interest, model) {
  const ranks = new Map(pane.list.items.map((item, index) => [item.id, index + 1]));
  const candidates = pane.candidates.get(interest.category) ?? [];
  return h(
    "article",
    { class: "card" },
    h("h3", {}, interest.category),
    candidates.length === 0 && h("p", { class: "muted" }, "No candidate is left in this category."),
    h(
      "ol",
      {},
      candidates.slice(0, PER_CARD).map(({ id, score }) =>
        h(
          "li",
          { class: ranks.has(id) ? "in" : "" },
          h("span", { class: "name", title: `item ${id}` }, model.nameOf(id)),
          h("span", { class: "muted" }, percent(Math.exp(score))),
          h("span", { class: "at" }, ranks.has(id) ? `no. ${ranks.get(id)}` : ""),
        ),
      ),
    ),
  );
}
