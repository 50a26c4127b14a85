// Interests of a history: when their events were, their scores, what these are made of, and which were drawn.

import { ago, count, date, h, itemName, ordinal, pageOf, pager, percent, replace, short, svg } from "./dom.js";
import { recencyScore } from "./history.js";

const WIDTH = 1000;
const PAGE = 12;
const ORIGINS = { drawn: "searched", explored: "searched: unseen", forced: "always searched", popular: "searched: popular with everyone" };
const SHOWN = { all: "all categories", searched: "searched ones", unsearched: "ones not searched", ruled: "ones with a rule" };

/** Learned scores are logs of shares, so never above 0; eq. 3 is a sum of positive parts. */
export const isLearned = (interests) => interests.some(({ score }) => score < 0);

/** A function of what an interest weighs: {value, text}, a share where the pane knows it, else the score of eq. 3. */
export function weigher(interests, pane) {
  const learned = isLearned(interests);
  return ({ category, score }) => {
    const share = learned ? (pane.settings.onlyNew ? pane.shares?.get(category) : score) : undefined;
    if (share !== undefined) return { value: Math.exp(share), text: percent(Math.exp(share)) };
    return learned ? { value: 0, text: "–" } : { value: score, text: short(score) };
  };
}

/** Whether a category may be drawn from the top M under these settings, and is: by category. */
export function readDraw(interests, settings, drawn) {
  const origin = new Map(drawn.map((interest) => [interest.category, interest.origin]));
  const isFixed = ({ category }) =>
    settings.forbidden.includes(category) || ["forced", "explored"].includes(origin.get(category));
  const open = interests.filter((interest) => interest.canDraw && !isFixed(interest));
  const top = settings.search !== "likely"
    ? open.slice(0, settings.search === "every" ? undefined : Math.max(settings.topInterests, settings.numInterests))
    : open.filter(({ category }) => origin.has(category)); // the model's own threshold says which
  return { origin, top: new Set(top.map(({ category }) => category)) };
}

function ticks(events, start, asOf, height) {
  const span = Math.max(asOf - start, 1);
  const at = [...new Set(events.map((event) => (((event.seconds - start) / span) * WIDTH).toFixed(0)))];
  return svg("path", { d: at.map((x) => `M${x} 0V${height}`).join(""), "vector-effect": "non-scaling-stroke" });
}

/** The draw as cells: rank 1 to M, the drawn ones filled. */
function drawStrip(interests, draw) {
  const cells = interests.filter(({ category }) => draw.top.has(category)).slice(0, 100);
  return h(
    "div",
    { class: "strip", "aria-hidden": "true" },
    cells.map(({ category }) => h("i", { class: draw.origin.has(category) ? "on" : "", title: category })),
  );
}

function drawSentence(draw, settings, list, learned) {
  const top = draw.top.size;
  const number = (origin) => list.drawn.filter((interest) => interest.origin === origin).length;
  const taken = number("drawn") + number("popular");
  const searched = {
    likely: `${count(taken, "interest")} that can still enter the list ${taken === 1 ? "is" : "are"} searched`,
    every: `Every interest is searched, ${taken} in all`,
    draw: taken >= top ? `All of the best ${top} interests are searched` : `${taken} of the best ${top} interests were drawn, seed ${settings.seed}`,
  };
  const words = [searched[settings.search]];
  if (number("explored")) words.push(`${number("explored")} that this user has never seen`);
  if (number("forced")) words.push(`${number("forced")} always searched`);
  return `${words.join("; ")}. ${meaningOf(settings, learned, number("popular"))}`;
}

function meaningOf(settings, learned, isNobody) {
  if (isNobody) return "Without history the score is how much everyone takes of a category.";
  if (!learned) return "The score is eq. 3: the sum of 1 / days over the events of a category, so recent and frequent both count.";
  if (!settings.onlyNew) return "The score is learned: the probability that the next item belongs to this category.";
  return "The percentage is the probability that the next new item belongs to this category, which the list weighs it by; the order is by the next items of all kinds.";
}

function scoreDetail(interest, events, { history, learned, model, weight, onlyNew }) {
  const { score, parts } = recencyScore(events, history.asOf);
  const terms = parts.slice(0, 4).map(({ seconds, part }) => `${short(part)} from ${date(seconds)}`);
  const more = parts.length > 4 ? ` and ${count(parts.length - 4, "smaller part")}` : "";
  const recency = parts.length ? `Eq. 3 by hand: ${short(score)} = ${terms.join(" + ")}${more}.` : "This user has never seen it, so eq. 3 gives no score.";
  const next = `The model expects ${percent(Math.exp(interest.score))} of the next items here (log-probability ${interest.score.toFixed(3)})`;
  const own = !learned ? `The model's score is ${short(interest.score)}. ` : onlyNew ? `${next}, and ${weight.text} of the next new items. ` : `${next}. `;
  const latest = [...new Map(events.map((event) => [event.id, event])).keys()].slice(-5).reverse();
  return h(
    "div",
    { class: "detail" },
    h("p", {}, own, recency),
    latest.length > 0 && h("p", {}, "Latest items here: ", latest.flatMap((id, index) => [index > 0 && ", ", itemName(model, id)]), "."),
  );
}

function badge(interest, draw, side, settings) {
  const origin = draw.origin.get(interest.category);
  const prefix = side ? `${side}: ` : "";
  if (settings.forbidden.includes(interest.category)) return h("span", { class: "badge never" }, `${prefix}never searched`);
  if (origin) return h("span", { class: `badge on ${side ?? ""}` }, prefix + (settings.search === "draw" && origin === "drawn" ? "drawn" : ORIGINS[origin]));
  return draw.top.has(interest.category) ? h("span", { class: "badge" }, `${prefix}not drawn`) : null;
}

function isShown({ category }, { view, draws, panes }) {
  const searched = draws.some((draw) => draw.origin.has(category));
  const ruled = panes.some(({ settings }) => settings.forced.includes(category) || settings.forbidden.includes(category));
  return { all: true, searched, unsearched: !searched, ruled }[view.shown] && category.toLowerCase().includes(view.categoryFilter.toLowerCase());
}

/** The interests that the page shows, and how many there are to show; with their ranks. */
function visibleRows({ interests, panes, view }) {
  const draws = panes.map((pane) => readDraw(interests, pane.settings, pane.list.drawn));
  const rows = interests.map((interest, index) => ({ interest, index })).filter(({ interest }) => isShown(interest, { view, draws, panes }));
  const { start, stop } = pageOf(view.interestPage, rows.length, PAGE);
  return { draws, total: rows.length, rows: rows.slice(start, stop) };
}

/** The categories of these rows. */
export const visibleInterests = (context) => visibleRows(context).rows.map(({ interest }) => interest.category);

function chooser(view, key, label, field) {
  const again = () => {
    view[key] = field.value;
    view.interestPage = 0;
    view.again();
  };
  field.addEventListener(field.tagName === "SELECT" ? "change" : "input", again);
  return h("label", {}, `${label} `, field);
}

function choosers(view) {
  const shown = h("select", { "data-key": "shown" }, Object.entries(SHOWN).map(([value, text]) => h("option", { value }, text)));
  shown.value = view.shown;
  const filter = h("input", { type: "search", value: view.categoryFilter, autocomplete: "off", placeholder: "part of a name", "data-key": "category-filter" });
  return h("div", { class: "row choosers" }, chooser(view, "shown", "Show", shown), chooser(view, "categoryFilter", "Find a category", filter));
}

const header = (learned) =>
  h("div", { class: "interest head", "aria-hidden": "true" }, ["", "Category", "When", learned ? "Probability" : "Score", "Searched?", "Rule"].map((text) => h("span", {}, text)));

/**
 * Fills `root`. `panes`: [{side, settings, list}], side null where there is one; `view` keeps what is open;
 * `rule(category, name)` forces, forbids or frees.
 */
export function showInterests(root, { history, interests, eventsOf, panes, active, view, rule, model }) {
  const learned = isLearned(interests);
  const { draws, total, rows } = visibleRows({ interests, panes, view });
  const weigh = weigher(interests, active);
  const most = Math.max(...interests.map((interest) => weigh(interest).value), 1e-9);
  const start = history.events[0]?.seconds ?? history.asOf;
  const row = ({ interest, index }) => {
    const { category } = interest;
    const events = eventsOf(category);
    const weight = weigh(interest);
    const state = ["forced", "forbidden"].find((name) => active.settings[name].includes(category)) ?? "";
    const isOpen = view.open.has(category);
    const toggle = () => {
      if (!view.open.delete(category)) view.open.add(category);
      view.again();
    };
    const select = h(
      "select",
      { "aria-label": `Rule for ${category}`, "data-key": `rule-${category}`, onchange: () => rule(category, select.value || null) },
      [["", "no rule"], ["forced", "always search"], ["forbidden", "never search"]].map(([key, text]) => h("option", { value: key }, text)),
    );
    select.value = state;
    const isOn = draws.some((draw) => draw.origin.has(category));
    const past = interest.events ? `${count(interest.events, "event")}, the last ${ago(interest.last, history.asOf)}` : "never seen";
    return h(
      "li",
      { class: `interest${isOn ? " on" : ""}`, "data-category": category },
      h("span", { class: "rank" }, String(index + 1)),
      h("div", { class: "who" }, h("strong", {}, category), h("span", { class: "muted" }, past)),
      svg("svg", { class: "history", viewBox: `0 0 ${WIDTH} 20`, preserveAspectRatio: "none", "aria-hidden": "true" }, ticks(events, start, history.asOf, 20)),
      h(
        "button",
        { type: "button", class: "score quiet", "aria-expanded": String(isOpen), "aria-label": `Score of ${category}: ${weight.text}, ${ordinal(index + 1)}; how it comes about`, "data-key": `score-${category}`, onclick: toggle },
        svg("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { width: Math.max((weight.value / most) * 100, 0.5), height: 6 })),
        h("span", {}, weight.text),
      ),
      h("span", { class: "badges" }, panes.map((pane, at) => badge(interest, draws[at], pane.side, pane.settings))),
      select,
      isOpen && scoreDetail(interest, events, { history, learned, model, weight, onlyNew: active.settings.onlyNew }),
    );
  };
  const go = (page) => {
    view.interestPage = page;
    view.again();
  };
  replace(
    root,
    panes.map((pane, at) =>
      h("p", { class: "draw" }, pane.side && h("b", {}, `${pane.side}: `), drawSentence(draws[at], pane.settings, pane.list, learned), pane.settings.search === "draw" && drawStrip(interests, draws[at])),
    ),
    panes.some(({ settings }) => settings.onlyNew !== active.settings.onlyNew) && h("p", { class: "muted" }, `Percentages are those of setting ${active.side}.`),
    choosers(view),
    header(learned),
    rows.length ? h("ol", { class: "interests" }, rows.map(row)) : h("p", { class: "note" }, "No category is like that."),
    pager("categories", "interests", view.interestPage, total, PAGE, go),
  );
}
