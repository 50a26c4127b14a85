// The options of one setting, in a bar; A alone, or A above B.

import { h, replace } from "./dom.js";

const MERGES = { calibrated: "calibrated", raw: "raw score", quota: "quota", round_robin: "round robin" };
const NUMBERS = {
  numInterests: ["Draw", 0, 200, "N: interests drawn and searched; 0: the top M, and all that can still enter the list"],
  topInterests: ["of the top", 1, 10000, "M: the best interests, which the N are drawn from"],
  exploration: ["unexplored", 0, 200, "How many of the N go to categories that this user has never seen"],
  k: ["List of", 1, 500, "k: length of the list"],
  seed: ["Seed", 0, 2 ** 31, "The same seed draws the same interests"],
};
const LISTS = { forced: "always", forbidden: "never", excluded: "left out" };

/** Settings as an export has them by default. */
export function defaultSettings(endpoint) {
  return {
    numInterests: endpoint.defaultOf("num_interests", 5),
    topInterests: endpoint.defaultOf("top_interests", 20),
    threshold: endpoint.defaultOf("interest_threshold", -7.5),
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
function faultOf(name, text) {
  const [label, low, high] = NUMBERS[name];
  const fine = /^\d+$/.test(text.trim()) && Number(text) >= low && Number(text) <= high;
  return fine ? "" : `“${label}” takes a whole number from ${low.toLocaleString("en")} to ${high.toLocaleString("en")}.`;
}

/**
 * A bar. `change(settings)` is called with new ones; `update(settings)` shows others.
 * `categories()` names those that may be forced or forbidden, `nameOf` an item.
 */
export function makeBar(side, title, settings, { change, defaults, categories, nameOf }) {
  let current = settings;
  const id = (name) => `${name}-${side}`;
  const fault = h("p", { class: "fault", role: "alert" });
  const hint = h("p", { class: "muted hint" });
  const chips = h("ul", { class: "chips", "aria-label": "Categories and items with a rule" });
  const set = (part) => change({ ...current, ...part });

  const numbers = Object.entries(NUMBERS).map(([name, [label, low, high, help]]) => {
    const input = h("input", {
      id: id(name), type: "number", inputmode: "numeric", min: low, max: high, step: 1, title: help,
      oninput: () => {
        const wrong = faultOf(name, input.value);
        input.setAttribute("aria-invalid", String(Boolean(wrong)));
        replace(fault, wrong);
        if (!wrong) set({ [name]: Number(input.value) });
      },
    });
    return [name, h("label", { title: help }, h("span", {}, label), input), input];
  });
  const labelOf = Object.fromEntries(numbers.map(([name, label]) => [name, label]));
  const merge = h(
    "select",
    { id: id("merge"), onchange: () => set({ merge: merge.value }) },
    Object.entries(MERGES).map(([value, text]) => h("option", { value }, text)),
  );
  const onlyNew = h("input", { id: id("onlyNew"), type: "checkbox", onchange: () => set({ onlyNew: onlyNew.checked }) });
  const redraw = () => set({ seed: 1 + Math.floor(Math.random() * 9999) });
  const category = h("input", { id: id("category"), list: "categories", autocomplete: "off", placeholder: "a category" });
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
      labelOf.numInterests, labelOf.topInterests, labelOf.exploration, labelOf.seed,
      h("button", { type: "button", onclick: redraw }, "Draw again"),
      labelOf.k,
      h("label", { class: "merge" }, h("span", {}, "Merge"), merge),
      h("label", { class: "check" }, onlyNew, h("span", {}, "Only items new to this user")),
    ),
    h(
      "div",
      { class: "row rules" },
      h("label", {}, h("span", {}, "Category"), category),
      h("button", { type: "button", onclick: () => rule("forced") }, "Always"),
      h("button", { type: "button", onclick: () => rule("forbidden") }, "Never"),
      chips,
      h("button", { type: "button", class: "quiet reset", onclick: () => change({ ...defaults }) }, "Reset"),
    ),
    hint,
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
    for (const [name, , input] of numbers) {
      if (input !== document.activeElement || Number(input.value) !== next[name]) input.value = next[name];
      input.setAttribute("aria-invalid", "false");
    }
    merge.value = next.merge;
    onlyNew.checked = next.onlyNew;
    replace(fault);
    replace(hint, next.numInterests > next.topInterests && `N is above M, so the model draws all of the top ${next.numInterests}.`);
    replace(chips, Object.keys(LISTS).flatMap((name) => next[name].map((value) => chip(name, value))));
  }
  update(settings);
  return { element, update };
}
