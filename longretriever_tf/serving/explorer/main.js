// The page: one history, one or two settings, and everything that follows from them.

import { h, replace } from "./dom.js";
import { Endpoint, EndpointError, listModels, optional } from "./endpoint.js";
import { before, laterItems } from "./history.js";
import { Model } from "./model.js";
import { makePicker, describe } from "./picker.js";
import { defaultSettings, makeBar, setRule, summary } from "./settings.js";
import { readAddress, writeAddress } from "./address.js";
import { activeOf, askSide, explain } from "./answers.js";
import { showInterests } from "./interests.js";
import { showCandidates } from "./candidates.js";
import { showLists } from "./list.js";
import { showPast } from "./past.js";
import { setUpTheme } from "./theme.js";
import { setUpTour } from "./tour.js";

const WAIT_MS = 150;
const at = (id) => document.getElementById(id);

const state = {
  model: null,
  history: null, // events before the as-of time, the as-of time, the profile
  later: [], // distinct items that the user took from the as-of time on
  interests: [],
  categoryOf: new Map(),
  sides: ["A"],
  active: "A",
  settings: {},
  panes: [],
  previous: null, // items of the last list of A
  picked: {}, // user and as-of time, as the address says them
  defaults: null,
  view: { pastFilter: "", categoryFilter: "", shown: "all", again: () => refresh(), againPast: () => showThePast() },
};
const FIRST_PAGES = { pastPage: 0, laterPage: 0, interestPage: 0, cardPage: 0, listPage: 0 };
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
    await state.model.learnNames([...known.events, ...known.later].map((event) => event.id));
    if (mine !== turn) return; // another history was chosen meanwhile
    Object.assign(state, { history: known, later: laterItems(known), interests, categoryOf, previous: null, panes: [] });
    Object.assign(state.view, { ...FIRST_PAGES, open: new Set(), pastFilter: "", categoryFilter: "" });
    const unknown = [...new Set(known.events.map((event) => event.id))].filter((id) => !categoryOf.has(id));
    replace(at("about"), describe(known, unknown, new Set(categoryOf.values()).size));
    replace(at("categories"), interests.map(({ category }) => h("option", { value: category })));
    await ask();
  } catch (error) {
    if (mine === turn) fail(error, () => choose(history));
  }
}

/** Asks for the list of every side, and what explains it. */
async function ask() {
  asking.abort();
  const { signal } = (asking = new AbortController());
  document.body.setAttribute("aria-busy", "true");
  try {
    const panes = await Promise.all(state.sides.map((side) => askSide(state, side, signal)));
    if (signal.aborted) return;
    const previous = state.sides.length === 1 && state.panes.length === 1 ? state.panes[0].list.items : null;
    state.view.cardPage = 0;
    await explain(state, panes, signal);
    if (signal.aborted) return;
    Object.assign(state, { panes, previous });
    replace(at("alert"));
    show();
    writeAddress({ ...state.picked, settings: state.settings, defaults: state.defaults });
    document.body.removeAttribute("aria-busy");
  } catch (error) {
    fail(error, ask);
  }
}

/** The same lists, another part of them in sight. */
async function refresh() {
  const { panes } = state;
  if (!panes.length) return;
  try {
    await explain(state, panes, asking.signal);
    if (panes === state.panes) show();
  } catch (error) {
    fail(error, refresh);
  }
}

function show() {
  const { panes, history, later, interests, model, view } = state;
  const eventsOf = (category) => history.events.filter((event) => state.categoryOf.get(event.id) === category);
  const active = activeOf(panes, state.active);
  showThePast();
  showInterests(at("interests-body"), { history, interests, eventsOf, panes, active, view, rule, model });
  showCandidates(at("candidates-body"), { pane: active, model, view });
  const ranks = new Map(interests.map(({ category }, index) => [category, index + 1]));
  const rankOf = (category) => ranks.get(category); // its row above, also where a rule shifts the server's ranks
  showLists(at("lists"), at("changes"), { panes, previous: state.previous, history, later, model, rankOf, leaveOut, view });
}

function showThePast() {
  const { panes, history, later, model, categoryOf, view } = state;
  showPast(at("past"), { panes, history, later, model, categoryOf, view });
}

const rule = (category, name) => change(state.active, setRule(state.settings[state.active], category, name), 0);
const leaveOut = (side, id) => change(side ?? "A", setRule(state.settings[side ?? "A"], id, "excluded"), 0);

/** New settings of a side; asks once the hand rests. The page is busy from the first touch, for its list is an old one. */
function change(side, settings, wait = WAIT_MS) {
  if (settings.excluded.length === state.settings[side].excluded.length) state.view.listPage = 0; // else whoever left an item out reads on
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
  const isTwo = state.sides.length > 1;
  for (const bar of document.querySelectorAll(".bar")) bar.classList.toggle("active", isTwo && bar.dataset.side === state.active);
  for (const tab of document.querySelectorAll(".sides button")) {
    tab.setAttribute("aria-pressed", String(tab.dataset.side === state.active));
    replace(tab, h("b", {}, `Setting ${tab.dataset.side}`), h("span", {}, summary(state.settings[tab.dataset.side])));
  }
}

function activate(side) {
  if (state.active === side) return;
  state.active = side;
  showActive();
  if (state.panes.length) refresh();
}

function layBars() {
  state.settings.A ??= { ...state.defaults };
  const isTwo = state.sides.length > 1;
  bars = Object.fromEntries(
    state.sides.map((side) => [
      side,
      makeBar(side, isTwo ? `Setting ${side}` : "Settings", state.settings[side], {
        defaults: state.defaults,
        change: (settings) => change(side, settings),
        categories: () => state.interests.map(({ category }) => category),
        nameOf: (id) => state.model.nameOf(id),
        endpoint: state.model.endpoint,
      }),
    ]),
  );
  document.body.classList.toggle("comparing", isTwo);
  const tab = (side) => h("button", { type: "button", "data-side": side, onclick: () => activate(side) });
  replace(
    at("bars"),
    isTwo && h("div", { class: "sides", role: "group", "aria-label": "Which setting to change" }, state.sides.map(tab)),
    Object.values(bars).map(({ element }) => element),
    h("button", { type: "button", id: "compare", "data-key": "compare", "aria-pressed": String(isTwo), onclick: compare }, isTwo ? "Stop comparing" : "Compare with a second setting"),
    isTwo && h("p", { class: "muted" }, "Rules set in the rows below go to the framed setting; its candidates are shown too. Touch the other one to change."),
  );
  for (const { element } of Object.values(bars)) element.addEventListener("focusin", () => activate(element.dataset.side));
  showActive();
}

function compare() {
  const isTwo = state.sides.length > 1;
  state.sides = isTwo ? ["A"] : ["A", "B"];
  state.active = isTwo ? "A" : "B";
  if (isTwo) delete state.settings.B;
  else state.settings.B = { ...state.settings.A };
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
    state.defaults = defaultSettings(endpoint);
    const { user, asOf, settings, faults } = readAddress(location.search, state.defaults);
    Object.assign(state, { settings, sides: Object.keys(settings) });
    replace(at("model"), `${endpoint.model}, version ${endpoint.version}`);
    const counted = await endpoint.statisticsAsOf();
    if (counted) replace(at("model"), `${endpoint.model}, version ${endpoint.version}, statistics as of ${counted} UTC`);
    const given = await optional("users.json", endpoint.model);
    layBars();
    if (faults.length) bars.A.say(`The address holds what is no value of an option, and is left out: ${faults.join(", ")}.`);
    makePicker(at("picker-body"), {
      users: given?.users ?? [], madeUp: given?.made_up ?? false, model: state.model, choose, wanted: { user, asOf },
      note: (picked) => (state.picked = picked),
    });
  } catch (error) {
    fail(error, start);
  }
}

document.body.append(h("datalist", { id: "categories" }));
setUpTheme(at("theme"));
setUpTour(at("tour-button"), at("invitation"));
start();
