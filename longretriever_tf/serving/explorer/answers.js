// What the model is asked for one or two settings: the lists, and what the visible parts of the page say of them.

import { PER_CARD, isCorrected, visibleCards } from "./candidates.js";
import { visibleInterests } from "./interests.js";

/** The list of a side; what explains it comes by `explain`. */
export async function askSide({ model, history, settings, sides }, side, signal) {
  const list = await model.list(history, settings[side], signal);
  return { side: sides.length > 1 ? side : null, settings: settings[side], list, candidates: new Map(), shares: null };
}

/** The pane whose rules and candidates are shown. */
export const activeOf = (panes, active) => panes.find(({ side }) => side === active) ?? panes[0];

/** Asks for what the visible parts of the page say beyond the lists: shares of interests, candidates, names. */
export async function explain({ model, history, interests, view, active: side }, panes, signal) {
  const visible = visibleInterests({ interests, panes, view });
  for (const pane of panes) {
    const drawn = pane.list.drawn.map(({ category }) => category);
    const wanted = pane.settings.onlyNew ? [...new Set([...drawn, ...visible])] : drawn;
    pane.shares = await model.shares(history, interests, pane.settings, wanted, signal);
  }
  const active = activeOf(panes, side);
  const missing = visibleCards(active, view).filter((category) => !active.candidates.has(category));
  const found = await model.candidates(history, { ...active.settings, k: PER_CARD }, missing, signal);
  found.forEach((list, category) => active.candidates.set(category, list));
  model.correctsOwn ||= active.list.items.some((item) => isCorrected(item, active));
  await model.learnNames([...panes.flatMap(({ list }) => list.items), ...[...found.values()].flat()].map(({ id }) => id));
}
