// Small helpers: elements, drawings, and words for numbers. Text goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const DAY_S = 86400;
const COUNT = new Intl.NumberFormat("en");
const DATE = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", day: "numeric", month: "short", year: "numeric" });

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value === "boolean") element[name] = value;
    else if (name === "value") element.value = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element; `on...` attributes are listeners, empty children are left out. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Replaces an element's children; what had the focus gets it back, by its `data-key`, and its caret. */
export function replace(element, ...children) {
  const active = element.contains(document.activeElement) ? document.activeElement : null;
  const [key, caret] = [active?.dataset.key, active?.selectionStart];
  element.replaceChildren(...children.flat(2).filter(Boolean));
  if (key === undefined) return;
  const next = element.querySelector(`[data-key="${CSS.escape(key)}"]`);
  next?.focus({ preventScroll: true });
  if (typeof caret === "number") next?.setSelectionRange(caret, caret);
}

/** The part of `total` rows that a page of `size` shows; a page beyond the last is the last. */
export function pageOf(page, total, size) {
  const last = Math.max(Math.ceil(total / size) - 1, 0);
  const at = Math.min(page, last);
  return { at, last, start: at * size, stop: Math.min((at + 1) * size, total) };
}

/** Buttons and a choice of pages, so that a long list stays a short page; null where one page holds all. */
export function pager(what, key, page, total, size, go) {
  if (total <= size) return null;
  const { at, last } = pageOf(page, total, size);
  const range = (number) => `${COUNT.format(number * size + 1)}–${COUNT.format(Math.min((number + 1) * size, total))} of ${COUNT.format(total)}`;
  const step = (name, text, to) => {
    const off = to < 0 || to > last; // not `disabled`, which would lose the focus
    return h("button", { type: "button", class: "quiet", "aria-disabled": String(off), "aria-label": `${text} ${what}`, "data-key": `${key}-${name}`, onclick: () => off || go(to) }, text);
  };
  const select = h(
    "select",
    { "aria-label": `Which ${what}`, "data-key": `${key}-page`, onchange: () => go(Number(select.value)) },
    Array.from({ length: last + 1 }, (_, number) => h("option", { value: number }, range(number))),
  );
  select.value = String(at);
  return h("nav", { class: "pager", "aria-label": `Pages of ${what}` }, step("back", "Previous", at - 1), select, step("next", "Next", at + 1));
}

/** What an item is called, and its id where other items have the same name. */
export function itemName(model, id, ...marks) {
  const { name, shared } = model.called(id);
  return h("span", { class: "name", title: `item ${id}` }, h("span", {}, name), shared && " ", shared && h("span", { class: "id" }, id), ...marks);
}

const plural = (noun) => (/[^aeiou]y$/.test(noun) ? `${noun.slice(0, -1)}ies` : `${noun}s`);

/** 1 event, 2 events, 3 categories. */
export const count = (number, noun) => `${COUNT.format(number)} ${number === 1 ? noun : plural(noun)}`;

export const date = (seconds) => DATE.format(new Date(seconds * 1000));

/** How long before `asOf` it was: today, 3 days ago, 14 months ago. */
export function ago(seconds, asOf) {
  const days = (asOf - seconds) / DAY_S;
  if (days < 1) return "today";
  if (days < 60) return `${count(Math.floor(days), "day")} ago`;
  if (days < 730) return `${count(Math.round(days / 30.4), "month")} ago`;
  return `${count(Math.round(days / 365.25), "year")} ago`;
}

/** A share as people read it: 12%, 3.4%, 0.27%, under 0.001%. */
export function percent(share) {
  const value = share * 100;
  if (value === 0) return "0%";
  if (value >= 10) return `${value.toFixed(0)}%`;
  if (value >= 1) return `${value.toFixed(1)}%`;
  return value >= 0.001 ? `${value.toPrecision(2)}%` : "under 0.001%";
}

/** A number in about three digits. */
export const short = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3));

/** 1st, 2nd, 3rd, 4th, 11th, 21st. */
export function ordinal(number) {
  const teen = Math.floor((number % 100) / 10) === 1;
  return `${number}${(!teen && ["th", "st", "nd", "rd"][number % 10]) || "th"}`;
}
