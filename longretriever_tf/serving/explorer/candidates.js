// The best items of each searched interest, before the merge.

import { h, itemName, pageOf, pager, percent, replace } from "./dom.js";

export const PER_CARD = 5;
const PAGE = 6;

/** Categories in the order of the cards: what a rule or exploration brought first, then the best interests. */
const inOrder = (drawn) => [...drawn].sort((a, b) => (a.origin === "drawn") - (b.origin === "drawn")).map(({ category }) => category);

/** The categories whose cards a pane's page shows. */
export function visibleCards(pane, view) {
  const categories = inOrder(pane.list.drawn);
  const { start, stop } = pageOf(view.cardPage, categories.length, PAGE);
  return categories.slice(start, stop);
}

/** Log share of a listed item within its category, as far as it is known. */
export const withinOf = (item, pane) => pane.candidates.get(item.category)?.find(({ id }) => id === item.id)?.score;

/** Whether an item's score is another than its probability: such a model corrects the items of the user's own history. */
export function isCorrected(item, pane) {
  const [share, within] = [pane.shares?.get(item.category), withinOf(item, pane)];
  if (pane.settings.merge !== "calibrated" || pane.settings.onlyNew || share === undefined || within === undefined) return false;
  return Math.abs(item.score - share - within) > 0.01;
}

/** Fills `root` with a card for each of a page of searched interests; items that reached the list say where. */
export function showCandidates(root, { pane, model, view }) {
  const go = (page) => {
    view.cardPage = page;
    view.again();
  };
  replace(
    root,
    h("p", { class: "muted" }, `Each interest${pane.side ? ` of setting ${pane.side}` : ""} is searched in its own category. The percentage is the item's probability within that category; the number says where the item came in the list.`),
    h("div", { class: "cards" }, visibleCards(pane, view).map((category) => card(pane, category, model))),
    pager("interests", "cards", view.cardPage, pane.list.drawn.length, PAGE, go),
  );
}

function card(pane, category, model) {
  const ranks = new Map(pane.list.items.map((item, index) => [item.id, index + 1]));
  const candidates = pane.candidates.get(category) ?? [];
  return h(
    "article",
    { class: "card" },
    h("h3", {}, category),
    candidates.length === 0 && h("p", { class: "muted" }, "No candidate is left in this category."),
    h(
      "ol",
      {},
      candidates.map(({ id, score }) =>
        h(
          "li",
          { class: ranks.has(id) ? "in" : "" },
          itemName(model, id),
          h("span", { class: "muted" }, percent(Math.exp(score))),
          h("span", { class: "at" }, ranks.has(id) ? `no. ${ranks.get(id)}` : ""),
        ),
      ),
    ),
  );
}
