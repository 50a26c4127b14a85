// The options of one setting, in a bar; A alone, or A above B.

import { h, percent, replace } from "./dom.js";

const SEARCHES = {
  likely: "all that can enter the list",
  draw: "a random draw of the best",
  every: "every category",
};
export const MERGES = {
  calibrated: "by probability (calibrated)",
  raw: "by raw score (raw)",
  quota: "by each interest's share (quota)",
  round_robin: "in turn (round robin)",
};
/** Label, least and most, help, and in which searches the option counts. */
const NUMBERS = {
  numInterests: ["How many", 1, 100000, "num_interests, N: so many interests are drawn and searched", ["draw"]],
  topInterests: ["From the best", 1, 100000, "top_interests, M: the draw takes from these; where no number is drawn, all of them are searched", ["likely", "draw"]],
  threshold: ["Threshold", -100, 0, "interest_threshold: beyond the best, a category is searched where the log-probability of its best item is estimated at this or more", ["likely"]],
  exploration: ["Unseen categories", 0, 100000, "exploration: so many categories are searched that this user has never seen", ["likely", "draw"]],
  seed: ["Seed of the draw", 0, 2 ** 31, "The same seed draws the same interests", ["draw"]],
  k: ["Length of the list", 1, 1000, "k: how many items are listed", ["likely", "draw", "every"]],
};
const LISTS = { forced: "always search", forbidden: "never search", excluded: "left out" };

/** Settings as an export has them by default. */
export function defaultSettings(endpoint) {
  const number = endpoint.defaultOf("num_interests", 5);
  return {
    search: number ? "draw" : "likely",
    numInterests: number || 20,
    topInterests: endpoint.defaultOf("top_interests", 20),
    threshold: Number(endpoint.defaultOf("interest_threshold", -7.5).toPrecision(6)), // of single precision
    exploration: 0,
    k: 20,
    seed: 1,
    merge: endpoint.defaultOf("merge", "calibrated"),
    onlyNew: false,
    forced: [],
    forbidden: [],
    excluded: [],
  };
}

/** Lets `value` be in list `name` alone: a category is forced or forbidden, not both; null takes it out of all. */
export function setRule(settings, value, name) {
  const rest = (list) => settings[list].filter((each) => each !== value);
  const lists = Object.fromEntries(Object.keys(LISTS).map((list) => [list, rest(list)]));
  if (name) lists[name].push(value);
  return { ...settings, ...lists };
}

/** What is wrong with the number given for an option, "" for nothing. */
export function faultOf(name, text) {
  const [label, low, high] = NUMBERS[name];
  const form = name === "threshold" ? /^-?\d+(\.\d+)?$/ : /^\d+$/;
  const fine = form.test(text.trim()) && Number(text) >= low && Number(text) <= high;
  const kind = name === "threshold" ? "number" : "whole number";
  return fine ? "" : `“${label}” takes a ${kind} from ${low.toLocaleString("en")} to ${high.toLocaleString("en")}.`;
}

/** One line about settings, for a bar that is out of sight. */
export function summary(settings) {
  const searched = settings.search === "draw" ? `${settings.numInterests} drawn of the best ${Math.max(settings.topInterests, settings.numInterests)}` : SEARCHES[settings.search];
  const rules = settings.forced.length + settings.forbidden.length + settings.excluded.length;
  return [`Interests: ${searched}`, `list of ${settings.k}`, MERGES[settings.merge], settings.onlyNew && "only new items", rules && `${rules} with a rule`].filter(Boolean).join(" · ");
}

function hintOf(settings) {
  if (settings.search === "draw" && settings.numInterests > settings.topInterests) return `More are drawn than the best ${settings.topInterests}, so the model draws all of the best ${settings.numInterests}.`;
  if (settings.search !== "likely") return "";
  return `Searched are the best ${settings.topInterests}, and every category whose best item is estimated at a probability of ${percent(Math.exp(settings.threshold))} or more.`;
}

/** What says which interests are searched, and the numbers that go with it. */
function searchField(id, endpoint, set) {
  const choices = Object.entries(SEARCHES).filter(([value]) => value !== "likely" || endpoint.hasThreshold);
  const select = h("select", { id, onchange: () => set({ search: select.value }) }, choices.map(([value, text]) => h("option", { value }, text)));
  return select;
}

/** The number fields by name: [label, input]. */
function numberFields(id, endpoint, fault, set) {
  const step = (name) => (name === "threshold" ? 0.5 : 1);
  return Object.entries(NUMBERS).filter(([name]) => name !== "threshold" || endpoint.hasThreshold).map(([name, [label, low, high, help]]) => {
    const input = h("input", {
      id: id(name), type: "number", inputmode: name === "threshold" ? "decimal" : "numeric", min: low, max: high, step: step(name), title: help,
      oninput: () => {
        const wrong = faultOf(name, input.value);
        input.setAttribute("aria-invalid", String(Boolean(wrong)));
        replace(fault, wrong);
        if (!wrong) set({ [name]: Number(input.value) });
      },
    });
    return [name, h("label", { title: help }, h("span", {}, label), input), input];
  });
}

/**
 * A bar. `change(settings)` is called with new ones; `update(settings)` shows others.
 * `categories()` names those that may be forced or forbidden, `nameOf` an item.
 */
export function makeBar(side, title, settings, { change, defaults, categories, nameOf, endpoint }) {
  let current = settings;
  const id = (name) => `${name}-${side}`;
  const fault = h("p", { class: "fault", role: "alert" });
  const hint = h("p", { class: "muted hint" });
  const chips = h("ul", { class: "chips", "aria-label": "Categories and items with a rule" });
  const set = (part) => change({ ...current, ...part });
  const search = searchField(id("search"), endpoint, set);
  const numbers = numberFields(id, endpoint, fault, set);
  const labelOf = Object.fromEntries(numbers.map(([name, label]) => [name, label]));
  const merge = h(
    "select",
    { id: id("merge"), onchange: () => set({ merge: merge.value }) },
    Object.entries(MERGES).map(([value, text]) => h("option", { value }, text)),
  );
  const onlyNew = h("input", { id: id("onlyNew"), type: "checkbox", onchange: () => set({ onlyNew: onlyNew.checked }) });
  const again = h("button", { type: "button", onclick: () => set({ seed: 1 + Math.floor(Math.random() * 9999) }) }, "Draw again");
  const category = h("input", { id: id("category"), list: "categories", autocomplete: "off", placeholder: "name of a category" });
  const rule = (name) => {
    const value = category.value.trim();
    if (!categories().includes(value)) {
      replace(fault, value ? `The model has no category “${value.slice(0, 60)}”.` : "Write a category first.");
      category.focus();
      return;
    }
    category.value = "";
    replace(fault);
    change(setRule(current, value, name));
  };

  const element = h(
    "fieldset",
    { class: "bar", "data-side": side },
    h("legend", {}, title),
    h(
      "div",
      { class: "row options" },
      h("label", { class: "wide" }, h("span", {}, "Interests to search"), search),
      ["numInterests", "topInterests", "threshold", "exploration", "seed"].map((name) => labelOf[name]), again,
    ),
    hint,
    h(
      "div",
      { class: "row options" },
      labelOf.k,
      h("label", { class: "wide" }, h("span", {}, "Merge the interests' lists"), merge),
      h("label", { class: "check" }, onlyNew, h("span", {}, "Only items new to this user")),
    ),
    h(
      "div",
      { class: "row rules" },
      h("label", {}, h("span", {}, "Rule for a category"), category),
      h("button", { type: "button", onclick: () => rule("forced") }, "Always search"),
      h("button", { type: "button", onclick: () => rule("forbidden") }, "Never search"),
      chips,
      h("button", { type: "button", class: "quiet reset", onclick: () => change({ ...defaults }) }, "Reset"),
    ),
    fault,
  );

  const chip = (name, value) => {
    const text = name === "excluded" ? nameOf(value) : value;
    const remove = () => change(setRule(current, value, null));
    return h(
      "li",
      { class: `chip ${name}` },
      h("span", {}, `${LISTS[name]}: ${text}`),
      h("button", { type: "button", "aria-label": `Lift the rule for ${text}`, "data-key": `chip-${value}`, onclick: remove }, "×"),
    );
  };

  function update(next) {
    current = next;
    for (const [name, label, input] of numbers) {
      label.hidden = !NUMBERS[name][4].includes(next.search);
      if (input !== document.activeElement || Number(input.value) !== next[name]) input.value = next[name];
      input.setAttribute("aria-invalid", "false");
    }
    labelOf.topInterests.firstChild.textContent = next.search === "likely" ? "Always the best" : NUMBERS.topInterests[0];
    again.hidden = next.search !== "draw";
    search.value = next.search;
    merge.value = next.merge;
    onlyNew.checked = next.onlyNew;
    replace(fault);
    replace(hint, hintOf(next));
    replace(chips, Object.keys(LISTS).flatMap((name) => next[name].map((value) => chip(name, value))));
  }
  update(settings);
  return { element, update, say: (words) => replace(fault, words) };
}
