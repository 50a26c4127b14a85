// The merged list: why each item is there, and what changed.

import { ago, count, h, ordinal, percent, replace, short } from "./dom.js";

/** How `items` differ from `other`: by id "new", or by how many ranks it rose; and what is gone. */
export function difference(items, other) {
  if (!other) return { moved: new Map(), gone: [], fresh: 0 };
  const old = new Map(other.map((item, index) => [item.id, index]));
  const moved = new Map(items.map((item, index) => [item.id, old.has(item.id) ? old.get(item.id) - index : "new"]));
  const fresh = [...moved.values()].filter((move) => move === "new").length;
  return { moved, gone: other.filter((item) => !moved.has(item.id)), fresh };
}

/** One sentence about a difference. */
export function changeText(items, changed) {
  const shifted = [...changed.moved.values()].filter((move) => move !== "new" && move !== 0).length;
  if (!changed.fresh && !changed.gone.length && !shifted) return "The list stays as it was.";
  return `${changed.fresh} new, ${changed.gone.length} gone, ${shifted} moved, of ${count(items.length, "item")}.`;
}

function why(item, pane, { history, rankWithin }) {
  const own = history.events.filter((event) => event.id === item.id);
  const candidates = pane.candidates.get(item.category) ?? [];
  const within = candidates.find((each) => each.id === item.id)?.score;
  const words = [`${ordinal(rankWithin(item))} of its interest's own list`];
  if (pane.settings.merge === "calibrated") {
    const parts = within === undefined ? "" : `${percent(Math.exp(item.score - within))} for the interest × ${percent(Math.exp(within))} within it = `;
    words.unshift(`${parts}${percent(Math.exp(item.score))}`);
  } else if (pane.settings.merge === "raw") {
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

function pane(each, { history, model, rankOf, changed, against, leaveOut }) {
  const ranks = new Map();
  const seen = new Map();
  each.list.items.forEach((item) => {
    seen.set(item.category, (seen.get(item.category) ?? 0) + 1);
    ranks.set(item.id, seen.get(item.category));
  });
  const order = new Map(each.list.drawn.map((interest, index) => [interest.category, index]));
  const rankWithin = (item) => ranks.get(item.id);
  const rows = each.list.items.map((item, index) => {
    const name = model.nameOf(item.id);
    const move = changed.moved.get(item.id);
    return h(
      "li",
      { class: move === "new" ? "is-new" : "", "data-item": item.id },
      h("span", { class: "rank" }, String(index + 1)),
      h(
        "div",
        { class: "what" },
        h("span", { class: "name" }, name, mark(move, against)),
        h("span", { class: "tag" }, h("i", { class: `dot c${(order.get(item.category) ?? 0) % 8}`, "aria-hidden": "true" }), `${item.category}, interest ${rankOf(item.category)}`),
        h("span", { class: "muted why" }, why(item, each, { history, rankWithin })),
      ),
      h("button", { type: "button", class: "quiet out", "aria-label": `Leave out ${name}`, title: "Leave out", "data-key": `out-${each.side}-${item.id}`, onclick: () => leaveOut(each.side, item.id) }, "×"),
    );
  });
  const gone = changed.gone.slice(0, 8).map((item) => model.nameOf(item.id));
  return h(
    "div",
    { class: "pane", "data-side": each.side ?? "A" },
    each.side && h("h3", {}, `Setting ${each.side}`),
    rows.length ? h("ol", { class: "list" }, rows) : h("p", { class: "note" }, "Nothing is left to list: every interest is forbidden, or all its items are left out."),
    gone.length > 0 && !against && h("p", { class: "muted gone" }, `Gone: ${gone.join(", ")}${changed.gone.length > 8 ? ", …" : ""}`),
  );
}

/** Fills `root` and `status`. With two panes each is compared with the other, else with `previous`. */
export function showLists(root, status, { panes, previous, history, model, rankOf, leaveOut }) {
  const [a, b] = panes;
  const changes = b
    ? [difference(a.list.items, b.list.items), difference(b.list.items, a.list.items)]
    : [difference(a.list.items, previous)];
  const shared = b && a.list.items.length - changes[0].fresh;
  const most = b && Math.max(a.list.items.length, b.list.items.length);
  replace(
    root,
    panes.map((each, at) => pane(each, { history, model, rankOf, changed: changes[at], against: b && panes[1 - at].side, leaveOut })),
  );
  const text = b ? `${shared} of ${most} items are in both lists.` : previous ? changeText(a.list.items, changes[0]) : count(a.list.items.length, "item");
  if (status.textContent !== text) status.textContent = text;
}
