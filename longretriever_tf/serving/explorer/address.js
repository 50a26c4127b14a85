// The state of the page as its address: user, as-of time, settings. What is not said there is as the export has it.

import { MERGES, faultOf } from "./settings.js";

const LISTS = { forced: "forced_category", forbidden: "forbidden_category", excluded: "exclude_item_id" };
const NUMBERS = { topInterests: "top_interests", threshold: "interest_threshold", exploration: "exploration", k: "k", seed: "seed" };
const SEARCHES = { 0: "likely", all: "every" }; // any other num_interests is that of a draw
const prefixOf = (side) => (side === "A" ? "" : "b.");

const searchText = ({ search, numInterests }) => ({ likely: "0", every: "all" })[search] ?? String(numInterests);

function writeSettings(query, side, settings, defaults) {
  const set = (name, value) => query.set(prefixOf(side) + name, value);
  if (searchText(settings) !== searchText(defaults)) set("num_interests", searchText(settings));
  for (const [key, name] of Object.entries(NUMBERS)) if (settings[key] !== defaults[key]) set(name, settings[key]);
  if (settings.merge !== defaults.merge) set("merge", settings.merge);
  if (settings.onlyNew) set("goal", "novel");
  for (const [key, name] of Object.entries(LISTS)) settings[key].forEach((value) => query.append(prefixOf(side) + name, value));
}

/** Settings of a side; what is no value of an option is left as the export has it, and named in `faults`. */
function readSettings(query, side, defaults, faults) {
  const settings = { ...defaults };
  const take = (name, isValue, set) => {
    const text = query.get(prefixOf(side) + name);
    if (text === null) return;
    if (isValue(text)) set(text);
    else faults.push(`${prefixOf(side)}${name}=${text.slice(0, 40)}`);
  };
  const takeNumber = (name, key) => take(name, (text) => !faultOf(key, text), (text) => (settings[key] = Number(text)));
  const isSearch = (text) => Object.hasOwn(SEARCHES, text) || !faultOf("numInterests", text);
  take("num_interests", isSearch, (text) => {
    settings.search = SEARCHES[text] ?? "draw";
    if (settings.search === "draw") settings.numInterests = Number(text);
  });
  for (const [key, name] of Object.entries(NUMBERS)) takeNumber(name, key);
  take("merge", (text) => Object.hasOwn(MERGES, text), (text) => (settings.merge = text));
  take("goal", (text) => ["all", "novel"].includes(text), (text) => (settings.onlyNew = text === "novel"));
  for (const [key, name] of Object.entries(LISTS)) settings[key] = query.getAll(prefixOf(side) + name);
  return settings;
}

/** What the address says: {model, user, asOf, settings by side, faults}; a user of null is whoever comes first. */
export function readAddress(search, defaults) {
  const query = new URLSearchParams(search);
  const faults = [];
  const sides = query.get("compare") ? ["A", "B"] : ["A"];
  const settings = Object.fromEntries(sides.map((side) => [side, readSettings(query, side, defaults, faults)]));
  return { user: query.get("user"), asOf: query.get("as_of") ?? "", settings, faults };
}

/** Brings the address to the state, without a new page and without a step of the browser's history. */
export function writeAddress({ user, asOf, settings, defaults }) {
  const model = new URLSearchParams(location.search).get("model");
  const query = new URLSearchParams();
  if (model) query.set("model", model);
  if (user) query.set("user", user);
  if (asOf) query.set("as_of", asOf);
  if (settings.B) query.set("compare", "1");
  for (const [side, own] of Object.entries(settings)) if (own) writeSettings(query, side, own, defaults);
  const text = query.toString();
  history.replaceState(null, "", (text ? `?${text}` : location.pathname) + location.hash);
}
