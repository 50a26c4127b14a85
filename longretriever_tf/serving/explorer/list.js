// The merged list: why each item is there, which items are hits, and what changed.

import { withinOf } from "./candidates.js";
import { ago, count, h, itemName, ordinal, pageOf, pager, percent, replace, short } from "./dom.js";

const PAGE = 25;
const DAY_S = 86400;
const RANKS_NAMED = 8;

/** How `items` differ from `other`: by id "new", or by how many ranks it rose; and what is gone. */
export function difference(items, other) {
  if (!other) return { moved: new Map(), gone: [], fresh: 0 };
  const old = new Map(other.map((item, index) => [item.id, index]));
  const moved = new Map(items.map((item, index) => [item.id, old.has(item.id) ? old.get(item.id) - index : "new"]));
  const fresh = [...moved.values()].filter((move) => move === "new").length;
  return { moved, gone: other.filter((item) => !moved.has(item.id)), fresh };
}

/** Whether `items` are those of `other` and more after them: a list that was made longer. */
const continues = (items, other) => other.length < items.length && other.every((item, index) => item.id === items[index].id);

/** One sentence about a difference. */
export function changeText(items, changed) {
  const shifted = [...changed.moved.values()].filter((move) => move !== "new" && move !== 0).length;
  if (!changed.fresh && !changed.gone.length && !shifted) return "The list stays as it was.";
  return `${changed.fresh} new, ${changed.gone.length} gone, ${shifted} moved, of ${count(items.length, "item")}.`;
}

/** The items that a list can hit, by id: what the user took later, in a list of new items those alone that are new. */
export const truthOf = (later, settings) => new Map(later.filter(({ isNew }) => isNew || !settings.onlyNew).map((item) => [item.id, item]));

/** How long the later events reach, in words. */
export const windowText = ({ asOf, end }) => (end === Infinity ? "later" : `in the ${count(Math.round((end - asOf) / DAY_S), "day")} after`);

function hitLine(each, truth, { history, view }) {
  if (!truth.size) return history.later.length ? h("p", { class: "hits" }, "What this user took later holds no item that this list may hit.") : null;
  const ranks = each.list.items.flatMap((item, index) => (truth.has(item.id) ? [index + 1] : []));
  const go = (rank) => () => {
    view.listPage = Math.floor((rank - 1) / PAGE);
    view.again();
    document.querySelector(`.pane[data-side="${each.side ?? "A"}"] [data-rank="${rank}"]`)?.scrollIntoView({ block: "center" });
  };
  const named = ranks.slice(0, RANKS_NAMED);
  const kind = each.settings.onlyNew ? "new item" : "item";
  const recall = percent(ranks.length / truth.size);
  const words = each.side
    ? ` of ${count(truth.size, kind)} taken ${windowText(history)} (recall ${recall})`
    : `: this list has ${ranks.length} of the ${count(truth.size, kind)} that the user took ${windowText(history)} (recall ${recall})`;
  const link = (rank, index) => [index > 0 && ", ", h("button", { type: "button", class: "quiet rank-link", "aria-label": `Show rank ${rank}`, onclick: go(rank) }, `${rank}`)];
  return h(
    "p",
    { class: "hits" },
    h("b", {}, ranks.length === 1 ? "1 hit" : `${ranks.length} hits`),
    words,
    named.length > 0 && h("span", { class: "ranks" }, ", at ", ...named.flatMap(link).filter(Boolean), ranks.length > named.length && " and further down"),
    ".",
  );
}

/** How likely the item is; where the model corrects items of the history, its score is no probability any more. */
function likelihood(item, each, isOwn, model) {
  const share = each.shares?.get(item.category);
  const isCorrected = isOwn && !each.settings.onlyNew && model.correctsOwn;
  const within = isCorrected ? withinOf(item, each) : item.score - share;
  if (share === undefined) return isCorrected ? `score ${short(item.score)}` : percent(Math.exp(item.score));
  const interest = `${percent(Math.exp(share))} for the interest`;
  if (within === undefined) return `${interest} × its share within it, corrected as an item of this history`;
  const product = `${interest} × ${percent(Math.exp(within))} within it = ${percent(Math.exp(share + within))}`;
  return isCorrected ? `${product}, × ${short(Math.exp(item.score - share - within))} as an item of this history` : product;
}

function why(item, each, { history, rankWithin, model }) {
  const own = history.events.filter((event) => event.id === item.id);
  const words = [`${ordinal(rankWithin(item))} of its interest's own list`];
  if (each.settings.merge === "calibrated") {
    words.unshift(likelihood(item, each, own.length > 0, model));
  } else if (each.settings.merge === "raw") {
    words.push(`raw score ${short(item.score)}`);
  }
  words.push(own.length ? `${own.length} × in this history, the last ${ago(own[own.length - 1].seconds, history.asOf)}` : "new to this user");
  return words.join(" · ");
}

function mark(move, against) {
  if (move === undefined || move === 0) return null;
  if (move === "new") return h("span", { class: "mark new" }, against ? `not in ${against}` : "new");
  const text = move > 0 ? `up ${move}` : `down ${-move}`;
  return h("span", { class: "mark" }, h("span", { "aria-hidden": "true" }, `${move > 0 ? "▲" : "▼"} ${Math.abs(move)}`), h("span", { class: "hidden" }, text));
}

/** Rank of each item among those of its interest, by id. */
function ranksWithin(items) {
  const [ranks, seen] = [new Map(), new Map()];
  items.forEach((item) => {
    seen.set(item.category, (seen.get(item.category) ?? 0) + 1);
    ranks.set(item.id, seen.get(item.category));
  });
  return ranks;
}

function pane(each, { history, later, model, rankOf, changed, against, leaveOut, view }) {
  const { items, drawn } = each.list;
  const ranks = ranksWithin(items);
  const truth = truthOf(later, each.settings);
  const order = new Map(drawn.map((interest, index) => [interest.category, index]));
  const row = (item, rank) => {
    const move = changed.moved.get(item.id);
    const isHit = truth.has(item.id);
    return h(
      "li",
      { class: `${move === "new" ? "is-new" : ""} ${isHit ? "is-hit" : ""}`, "data-item": item.id, "data-rank": rank },
      h("span", { class: "rank" }, String(rank)),
      h(
        "div",
        { class: "what" },
        itemName(model, item.id, isHit && h("span", { class: "mark hit" }, "✓ hit"), mark(move, against)),
        h("span", { class: "tag" }, h("i", { class: `dot c${(order.get(item.category) ?? 0) % 8}`, "aria-hidden": "true" }), h("span", {}, `${item.category}, interest ${rankOf(item.category)}`)),
        h("span", { class: "muted why" }, why(item, each, { history, model, rankWithin: ({ id }) => ranks.get(id) })),
      ),
      h("button", { type: "button", class: "quiet out", "aria-label": `Leave out ${model.nameOf(item.id)}`, title: "Leave out", "data-key": `out-${each.side}-${item.id}`, onclick: () => leaveOut(each.side, item.id) }, "×"),
    );
  };
  const { start, stop } = pageOf(view.listPage, items.length, PAGE);
  const gone = changed.gone.slice(0, 8).map((item) => model.nameOf(item.id));
  return h(
    "div",
    { class: "pane", "data-side": each.side ?? "A" },
    each.side && h("h3", {}, `Setting ${each.side}`),
    hitLine(each, truth, { history, view }),
    items.length
      ? h("ol", { class: "list" }, items.slice(start, stop).map((item, index) => row(item, start + index + 1)))
      : h("p", { class: "note" }, "Nothing is left to list: every interest is never searched, or all its items are left out."),
    gone.length > 0 && !against && h("p", { class: "muted gone" }, `Gone: ${gone.join(", ")}${changed.gone.length > 8 ? ", …" : ""}`),
  );
}

/** Fills `root` and `status`. With two panes each is compared with the other, else with `previous`. */
export function showLists(root, status, { panes, previous, view, ...context }) {
  const [a, b] = panes;
  const longer = !b && previous && continues(a.list.items, previous);
  const changes = b
    ? [difference(a.list.items, b.list.items), difference(b.list.items, a.list.items)]
    : [difference(a.list.items, longer ? undefined : previous)];
  const shared = b && a.list.items.length - changes[0].fresh;
  const most = Math.max(...panes.map(({ list }) => list.items.length));
  const go = (page) => {
    view.listPage = page;
    view.again();
  };
  replace(
    root,
    h("div", { class: "panes" }, panes.map((each, at) => pane(each, { ...context, view, changed: changes[at], against: b && panes[1 - at].side }))),
    pager("items", "list", view.listPage, most, PAGE, go),
  );
  const text = b ? `${shared} of ${most} items are in both lists.` : previous && !longer ? changeText(a.list.items, changes[0]) : count(a.list.items.length, "item");
  if (status.textContent !== text) status.textContent = text;
}
