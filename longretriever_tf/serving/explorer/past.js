// What a user did: all events as of the request, latest first; and what the user took later, with what the list hit of it.

import { count, date, h, itemName, pageOf, pager, replace, svg } from "./dom.js";
import { windowText } from "./list.js";

const PAGE = 20;
const WIDTH = 1000;

/** A folded part that stays as it was left, in `view`. */
function folded(view, key, title, ...inside) {
  const part = h("details", { class: "past", id: key, ontoggle: () => (view[key] = part.open) }, h("summary", { "data-key": key }, title), ...inside);
  part.open = Boolean(view[key]);
  return part;
}

function rows(events, cells) {
  let last = "";
  return h(
    "ol",
    { class: "events" },
    events.map((event) => {
      const day = date(event.seconds);
      const isSame = day === last;
      last = day;
      return h("li", { "data-event": event.id }, h("span", { class: "day" }, h("span", { class: isSame ? "hidden" : "" }, day)), ...cells(event));
    }),
  );
}

function pastEvents({ history, model, categoryOf, view }) {
  const words = view.pastFilter.toLowerCase();
  const latest = [...history.events].reverse();
  const isWanted = ({ id }) => !words || `${model.nameOf(id)} ${id} ${categoryOf.get(id) ?? ""}`.toLowerCase().includes(words);
  const kept = latest.filter(isWanted);
  const { start, stop } = pageOf(view.pastPage, kept.length, PAGE);
  const go = (page) => {
    view.pastPage = page;
    view.againPast();
  };
  const filter = h("input", {
    type: "search", value: view.pastFilter, autocomplete: "off", placeholder: "item, id or category", "data-key": "past-filter",
    oninput: () => {
      view.pastFilter = filter.value;
      go(0);
    },
  });
  const cells = ({ id, weight }) => [
    itemName(model, id, weight !== 1 && h("span", { class: "mark" }, `weight ${weight}`)),
    h("span", { class: "muted" }, categoryOf.get(id) ?? "unknown to the model"),
  ];
  return folded(
    view,
    "past-events",
    `Past events: ${count(history.events.length, "event")}, latest first`,
    h("label", {}, "Find ", filter),
    kept.length ? rows(kept.slice(start, stop), cells) : h("p", { class: "muted" }, "No event is called so."),
    pager("events", "past", view.pastPage, kept.length, PAGE, go),
  );
}

function laterEvents({ history, later, model, panes, view }) {
  const ranks = panes.map(({ list }) => new Map(list.items.map((item, index) => [item.id, index + 1])));
  const { start, stop } = pageOf(view.laterPage, later.length, PAGE);
  const go = (page) => {
    view.laterPage = page;
    view.againPast();
  };
  const place = ({ id, isNew }) =>
    panes.flatMap(({ side, settings }, at) => {
      const rank = ranks[at].get(id);
      const text = rank ? `✓ no. ${rank}` : settings.onlyNew && !isNew ? "not new, so not asked for" : "not in the list";
      return [at > 0 && " ", h("span", { class: `mark ${rank ? "hit" : ""}` }, side ? `${side}: ${text}` : text)];
    });
  const cells = (item) => [itemName(model, item.id, item.isNew && h("span", { class: "mark" }, "new to this user")), h("span", {}, place(item))];
  return folded(
    view,
    "later-events",
    `Taken ${windowText(history)}: ${count(later.length, "item")}`,
    history.until !== undefined && history.asOf < history.cut && h("p", { class: "note" }, "This window lies before the end of the training, so the model may have learned from it."),
    rows(later.slice(start, stop), cells),
    pager("items taken later", "later", view.laterPage, later.length, PAGE, go),
  );
}

/** All events of a history as columns, some dozens of them over its whole time. */
function historyOverview(history) {
  if (!history.events.length) return null;
  const [bins, height] = [60, 40];
  const start = history.events[0].seconds;
  const sums = Array(bins).fill(0);
  const span = Math.max(history.asOf - start, 1);
  history.events.forEach(({ seconds }) => (sums[Math.min(bins - 1, Math.floor(((seconds - start) / span) * bins))] += 1));
  const most = Math.max(...sums);
  const bars = sums.map((sum, index) => {
    const tall = (sum / most) * height;
    return svg("rect", { x: (index * WIDTH) / bins + 1, y: height - tall, width: WIDTH / bins - 2, height: tall });
  });
  return h(
    "figure",
    { class: "overview" },
    svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, bars),
    h("figcaption", { class: "muted axis" }, h("span", {}, date(start)), h("span", {}, count(history.events.length, "event")), h("span", {}, date(history.asOf))),
  );
}

/** Fills `root` with the past events, and with the later ones where there are any. */
export function showPast(root, context) {
  replace(root, historyOverview(context.history), context.history.events.length > 0 && pastEvents(context), context.later.length > 0 && laterEvents(context));
}
