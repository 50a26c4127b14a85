// Interests of a history: when their events were, their scores, what these are made of, and which were drawn.

import { ago, count, date, h, ordinal, percent, replace, short, svg } from "./dom.js";
import { recencyScore } from "./history.js";

const WIDTH = 1000;
const FIRST_SHOWN = 12;
const ORIGINS = { drawn: "drawn", explored: "explored", forced: "always", popular: "popular with everyone" };

/** Learned scores are logs of shares, so never above 0; eq. 3 is a sum of positive parts. */
export const isLearned = (interests) => interests.some(({ score }) => score < 0);

/** What an interest's score says, for people. */
export const scoreText = (interest, learned) => (learned ? percent(Math.exp(interest.score)) : short(interest.score));

/** Whether a category may be drawn from the top M under these settings, and is: by category. */
export function readDraw(interests, settings, drawn) {
  const origin = new Map(drawn.map((interest) => [interest.category, interest.origin]));
  const isFixed = ({ category }) =>
    settings.forbidden.includes(category) || ["forced", "explored"].includes(origin.get(category));
  const open = interests.filter((interest) => interest.canDraw && !isFixed(interest));
  const top = settings.numInterests
    ? open.slice(0, Math.max(settings.topInterests, settings.numInterests))
    : open.filter(({ category }) => origin.has(category)); // the model's own threshold says which
  return { origin, top: new Set(top.map(({ category }) => category)) };
}

function ticks(events, start, asOf, height) {
  const span = Math.max(asOf - start, 1);
  const at = [...new Set(events.map((event) => (((event.seconds - start) / span) * WIDTH).toFixed(0)))];
  return svg("path", { d: at.map((x) => `M${x} 0V${height}`).join(""), "vector-effect": "non-scaling-stroke" });
}

/** All events of a history as columns, some dozens of them over its whole time. */
export function historyOverview(history) {
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
  const words = [!settings.numInterests
    ? `The top ${settings.topInterests} interests and all others that can still enter the list are searched, ${taken} in all`
    : taken >= top ? `All of the top ${top} interests are searched` : `${taken} of the top ${top} interests were drawn, seed ${settings.seed}`];
  if (number("explored")) words.push(`${number("explored")} that this user has never seen`);
  if (number("forced")) words.push(`${number("forced")} always searched`);
  const meaning = number("popular")
    ? "Without history the score is how much everyone takes of a category."
    : learned
    ? "The score is learned: the share of the next items expected from this category."
    : "The score is eq. 3: the sum of 1 / days over the events of a category, so recent and frequent both count.";
  return `${words.join("; ")}. ${meaning}`;
}

function scoreDetail(interest, events, history, learned) {
  const { score, parts } = recencyScore(events, history.asOf);
  const terms = parts.slice(0, 4).map(({ seconds, part }) => `${short(part)} from ${date(seconds)}`);
  const more = parts.length > 4 ? ` and ${count(parts.length - 4, "smaller part")}` : "";
  const recency = parts.length ? `Eq. 3 by hand: ${short(score)} = ${terms.join(" + ")}${more}.` : "This user has never seen it, so eq. 3 gives no score.";
  const own = learned
    ? `The model expects ${percent(Math.exp(interest.score))} of the next items here (log share ${interest.score.toFixed(3)}). `
    : `The model's score is ${short(interest.score)}. `;
  return h("p", { class: "detail" }, own, recency);
}

function badge(interest, draw, side, settings) {
  const origin = draw.origin.get(interest.category);
  const prefix = side ? `${side}: ` : "";
  if (settings.forbidden.includes(interest.category)) return h("span", { class: "badge never" }, `${prefix}never`);
  if (origin) return h("span", { class: `badge on ${side ?? ""}` }, prefix + ORIGINS[origin]);
  return draw.top.has(interest.category) ? h("span", { class: "badge" }, `${prefix}in the top`) : null;
}

/**
 * Fills `root`. `panes`: [{side, settings, list}], side null where there is one; `view` keeps what is open;
 * `rule(category, name)` forces, forbids or frees.
 */
export function showInterests(root, { history, interests, eventsOf, panes, active, view, rule }) {
  const learned = isLearned(interests);
  const draws = panes.map((pane) => readDraw(interests, pane.settings, pane.list.drawn));
  const most = Math.max(...interests.map(({ score }) => (learned ? Math.exp(score) : score)), 1e-9);
  const start = history.events[0]?.seconds ?? history.asOf;
  const row = (interest, index) => {
    const { category } = interest;
    const events = eventsOf(category);
    const value = learned ? Math.exp(interest.score) : interest.score;
    const state = ["forced", "forbidden"].find((name) => active.settings[name].includes(category)) ?? "";
    const isOpen = view.open.has(category);
    const toggle = () => {
      if (!view.open.delete(category)) view.open.add(category);
      view.again();
    };
    const select = h(
      "select",
      { "aria-label": `Rule for ${category}`, "data-key": `rule-${category}`, onchange: () => rule(category, select.value || null) },
      [["", "by the draw"], ["forced", "always"], ["forbidden", "never"]].map(([key, text]) => h("option", { value: key }, text)),
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
        { type: "button", class: "score quiet", "aria-expanded": String(isOpen), "aria-label": `Score of ${category}: ${scoreText(interest, learned)}, ${ordinal(index + 1)}; how it comes about`, "data-key": `score-${category}`, onclick: toggle },
        svg("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { width: Math.max((value / most) * 100, 0.5), height: 6 })),
        h("span", {}, scoreText(interest, learned)),
      ),
      h("span", { class: "badges" }, panes.map((pane, at) => badge(interest, draws[at], pane.side, pane.settings))),
      select,
      isOpen && scoreDetail(interest, events, history, learned),
    );
  };
  const isMarked = ({ category }) =>
    draws.some((draw) => draw.origin.has(category)) || panes.some(({ settings }) => [...settings.forced, ...settings.forbidden].includes(category));
  const rows = interests.map((interest, index) => ({ interest, index }));
  const shown = view.all ? rows : rows.filter(({ interest, index }) => index < FIRST_SHOWN || isMarked(interest));
  const more = rows.length - shown.length;
  replace(
    root,
    panes.map((pane, at) =>
      h("p", { class: "draw" }, pane.side && h("b", {}, `${pane.side}: `), drawSentence(draws[at], pane.settings, pane.list, learned), drawStrip(interests, draws[at])),
    ),
    historyOverview(history),
    h("ol", { class: "interests" }, shown.map(({ interest, index }) => row(interest, index))),
    (more > 0 || view.all) &&
      h("button", { type: "button", class: "quiet", "data-key": "more-interests", onclick: () => { view.all = !view.all; view.again(); } },
        view.all ? "Show fewer categories" : `Show ${count(more, "more category")}`),
  );
}
