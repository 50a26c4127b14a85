// The page: one history, one or two settings, and everything that follows from them.

import { h, replace } from "./dom.js";
import { Endpoint, EndpointError, listModels, optional } from "./endpoint.js";
import { before } from "./history.js";
import { Model } from "./model.js";
import { makePicker, describe } from "./picker.js";
import { defaultSettings, makeBar, setRule } from "./settings.js";
import { showInterests } from "./interests.js";
import { showCandidates } from "./candidates.js";
import { showLists } from "./list.js";
import { setUpTheme } from "./theme.js";

const WAIT_MS = 150;
const at = (id) => document.getElementById(id);

const state = {
  model: null,
  history: null, // events before the as-of time, the as-of time, the profile
  interests: [],
  categoryOf: new Map(),
  sides: ["A"],
  active: "A",
  settings: {},
  panes: [],
  previous: null, // items of the last list of A
  view: { open: new Set(), all: false, allCards: false, again: () => show() },
};
let bars = {};
let waiting = 0;
let turn = 0;
let asking = new AbortController();

/** Says what went wrong, and offers to try again. */
function fail(error, again) {
  if (error.name === "AbortError") return;
  document.body.removeAttribute("aria-busy");
  const known = error instanceof EndpointError;
  if (!known) console.error(error);
  replace(
    at("alert"),
    h(
      "div",
      { class: "trouble" },
      h("p", {}, known ? error.message : "Something in this page went wrong."),
      h("p", { class: "muted" }, known ? error.detail : String(error)),
      h("button", { type: "button", onclick: again }, "Try again"),
    ),
  );
}

/** A new history: what the model knows of it, then the lists. */
async function choose(history) {
  const mine = ++turn;
  document.body.setAttribute("aria-busy", "true");
  replace(at("about"), "Reading this history…");
  try {
    const known = before(history, history.asOf);
    const interests = await state.model.interests(known);
    const categoryOf = await state.model.categories(known, interests);
    await state.model.learnNames(known.events.map((event) => event.id));
    if (mine !== turn) return; // another history was chosen meanwhile
    Object.assign(state, { history: known, interests, categoryOf, previous: null, panes: [] });
    Object.assign(state.view, { open: new Set(), all: false, allCards: false });
    const unknown = [...new Set(known.events.map((event) => event.id))].filter((id) => !categoryOf.has(id));
    replace(at("about"), describe(known, unknown, new Set(categoryOf.values()).size));
    replace(at("categories"), interests.map(({ category }) => h("option", { value: category })));
    await ask();
  } catch (error) {
    fail(error, () => choose(history));
  }
}

/** Asks for the list of every side, and what explains it. */
async function ask() {
  asking.abort();
  const { signal } = (asking = new AbortController());
  document.body.setAttribute("aria-busy", "true");
  try {
    const panes = await Promise.all(state.sides.map((side) => askSide(side, signal)));
    await state.model.learnNames(panes.flatMap(({ list, candidates }) => [...list.items, ...[...candidates.values()].flat()]).map(({ id }) => id));
    if (signal.aborted) return;
    const previous = state.sides.length === 1 && state.panes.length === 1 ? state.panes[0].list.items : null;
    Object.assign(state, { panes, previous });
    replace(at("alert"));
    show();
    document.body.removeAttribute("aria-busy");
  } catch (error) {
    fail(error, ask);
  }
}

async function askSide(side, signal) {
  const settings = state.settings[side];
  const list = await state.model.list(state.history, settings, signal);
  const listed = new Map();
  list.items.forEach(({ category }) => listed.set(category, (listed.get(category) ?? 0) + 1));
  const k = Math.max(5, ...listed.values());
  const categories = list.drawn.map(({ category }) => category);
  const candidates = await state.model.candidates(state.history, { ...settings, k }, categories, signal);
  return { side: state.sides.length > 1 ? side : null, settings, list, candidates };
}

function show() {
  const { panes, history, interests, model, view } = state;
  const eventsOf = (category) => history.events.filter((event) => state.categoryOf.get(event.id) === category);
  const active = panes.find((pane) => pane.side === state.active) ?? panes[0];
  showInterests(at("interests-body"), { history, interests, eventsOf, panes, active, view, rule });
  showCandidates(at("candidates-body"), { pane: active, model, view });
  const ranks = new Map(interests.map(({ category }, index) => [category, index + 1]));
  const rankOf = (category) => ranks.get(category); // its row above, also where a rule shifts the server's ranks
  showLists(at("lists"), at("changes"), { panes, previous: state.previous, history, model, rankOf, leaveOut });
}

const rule = (category, name) => change(state.active, setRule(state.settings[state.active], category, name), 0);
const leaveOut = (side, id) => change(side ?? "A", setRule(state.settings[side ?? "A"], id, "excluded"), 0);

/** New settings of a side; asks once the hand rests. The page is busy from the first touch, for its list is an old one. */
function change(side, settings, wait = WAIT_MS) {
  state.settings[side] = settings;
  state.active = side;
  bars[side].update(settings);
  showActive();
  clearTimeout(waiting);
  if (!state.history) return;
  asking.abort();
  document.body.setAttribute("aria-busy", "true");
  waiting = setTimeout(ask, wait);
}

function showActive() {
  for (const bar of document.querySelectorAll(".bar")) {
    bar.classList.toggle("active", state.sides.length > 1 && bar.dataset.side === state.active);
  }
}

function layBars() {
  const defaults = defaultSettings(state.model.endpoint);
  state.settings.A ??= defaults;
  const isTwo = state.sides.length > 1;
  bars = Object.fromEntries(
    state.sides.map((side) => [
      side,
      makeBar(side, isTwo ? `Setting ${side}` : "Settings", state.settings[side], {
        defaults,
        change: (settings) => change(side, settings),
        categories: () => state.interests.map(({ category }) => category),
        nameOf: (id) => state.model.nameOf(id),
      }),
    ]),
  );
  document.body.classList.toggle("comparing", isTwo);
  replace(
    at("bars"),
    Object.values(bars).map(({ element }) => element),
    h("button", { type: "button", id: "compare", "data-key": "compare", "aria-pressed": String(isTwo), onclick: compare }, isTwo ? "Stop comparing" : "Compare with a second setting"),
    isTwo && h("p", { class: "muted" }, "Rules set in the rows below go to the framed setting; candidates are shown for it too. Touch the other one to change."),
  );
  for (const { element } of Object.values(bars)) {
    element.addEventListener("focusin", () => {
      if (state.active === element.dataset.side) return;
      state.active = element.dataset.side;
      showActive();
      if (state.panes.length) show();
    });
  }
  showActive();
}

function compare() {
  const isTwo = state.sides.length > 1;
  state.sides = isTwo ? ["A"] : ["A", "B"];
  state.active = isTwo ? "A" : "B";
  state.settings.B = isTwo ? undefined : { ...state.settings.A };
  state.panes = [];
  layBars();
  if (state.history) ask();
}

async function start() {
  replace(at("alert"));
  try {
    const wanted = new URLSearchParams(location.search).get("model");
    const models = wanted ? [wanted] : await listModels();
    const endpoint = new Endpoint(models[0]);
    await endpoint.open();
    state.model = new Model(endpoint);
    replace(at("model"), `${endpoint.model}, version ${endpoint.version}`);
    const counted = await endpoint.statisticsAsOf();
    if (counted) replace(at("model"), `${endpoint.model}, version ${endpoint.version}, statistics as of ${counted} UTC`);
    const given = await optional("users.json", endpoint.model);
    layBars();
    makePicker(at("picker-body"), { users: given?.users ?? [], madeUp: given?.made_up ?? false, model: state.model, choose });
  } catch (error) {
    fail(error, start);
  }
}

document.body.append(h("datalist", { id: "categories" }));
setUpTheme(at("theme"));
start();
