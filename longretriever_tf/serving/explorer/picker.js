// Whose history: a user of the file, nobody, or pasted text.

import { count, date, h, replace } from "./dom.js";
import { HistoryError, emptyHistory, parseHistory, parseTime, readUser } from "./history.js";

const DAY_S = 86400;

/**
 * Fills `root`; calls `choose(history)` with each history that is chosen, after `note({user, asOf})` with what the address
 * says of it. `wanted`: what the address said, {user, asOf}.
 */
export function makePicker(root, { users, madeUp, model, choose, note, wanted }) {
  const asOf = users[0]?.request_timestamp ?? Math.floor(Date.now() / 1000);
  const select = h(
    "select",
    { id: "user", onchange: () => { dateInput.value = ""; dateOf = ""; pasted = null; pick(); } },
    users.map((user, index) => h("option", { value: index }, `${user.label} · ${count(user.item_id.length, "event")}`)),
    h("option", { value: "nobody" }, "Nobody yet: no history"),
    h("option", { value: "paste" }, "Paste a history…"),
  );
  let pasted = null;
  let dateOf = ""; // chosen by hand
  const paste = pasteForm(model, (history) => {
    pasted = history;
    dateOf = "";
    ask({ ...history });
  });
  const about = h("p", { class: "muted", id: "about" });
  const dateInput = h("input", { id: "as-of", type: "date", onchange: () => { dateOf = dateInput.value; pick(); } });
  const words = [];
  if (madeUp) words.push("These histories are made up: random items from the export's warm-up requests. For real ones, start the server with --explorer_users=users.json, which `longretriever sample_users` writes.");

  function pick() {
    const isPaste = select.value === "paste";
    paste.hidden = !isPaste;
    if (isPaste && !pasted) {
      paste.querySelector("textarea").focus();
      return;
    }
    const given = select.value === "nobody" ? emptyHistory(asOf) : !isPaste && readUser(users[Number(select.value)]);
    const history = given || { ...pasted };
    const chosen = parseTime(dateOf);
    if (chosen > 0) history.asOf = chosen;
    ask(history);
  }

  function ask(history) {
    dateInput.value = new Date(history.asOf * 1000).toISOString().slice(0, 10);
    // A pasted history is in no file: its address cannot hold it.
    note({ user: users[Number(select.value)]?.label ?? (pasted ? "" : select.value), asOf: pasted ? "" : dateOf });
    choose(history);
  }

  if (!users.length) select.value = "nobody";
  const at = users.findIndex(({ label }) => label === wanted.user);
  if (at >= 0) select.value = String(at);
  else if (wanted.user === "nobody") select.value = "nobody";
  else if (wanted.user) words.push(`The address asks for “${wanted.user.slice(0, 60)}”, whom this server's file of histories lacks.`);
  if (parseTime(wanted.asOf) > 0) dateOf = wanted.asOf;
  else if (wanted.asOf) words.push(`The address asks as of “${wanted.asOf.slice(0, 40)}”, which is no date.`);
  replace(
    root,
    h("div", { class: "row" }, h("label", {}, "User ", select), h("label", {}, "As of ", dateInput)),
    paste,
    about,
    words.map((text) => h("p", { class: "note" }, text)),
    h("div", { id: "past" }),
  );
  paste.hidden = true;
  pick();
}

/** One sentence about a history. */
export function describe(history, unknown, numCategories) {
  const size = history.events.length;
  if (!size) return `As of ${date(history.asOf)}: no history. The list rests on everyone's behaviour alone.`;
  const years = (history.asOf - history.events[0].seconds) / DAY_S / 365.25;
  const span = years >= 2 ? `${years.toFixed(1)} years` : count(Math.ceil(years * 365.25), "day");
  const items = new Set(history.events.map((event) => event.id));
  const profile = Object.entries(history.profile).filter(([, value]) => value);
  const words = [
    `${count(size, "event")} with ${count(items.size, "item")} in ${count(numCategories, "category")} over ${span}, asked as of ${date(history.asOf)}.`,
  ];
  if (profile.length) words.push(`Profile: ${profile.map(([name, value]) => `${name} ${value}`).join(", ")}.`);
  if (unknown.length === items.size) {
    words.push("The model knows none of these items, so the list rests on everyone's behaviour alone.");
  } else if (unknown.length) {
    const some = unknown.slice(0, 5).join(", ") + (unknown.length > 5 ? ", …" : "");
    words.push(`The model does not know ${count(unknown.length, "item")} and ignores them: ${some}.`);
  }
  return words.join(" ");
}

function pasteForm(model, choose) {
  const text = h("textarea", {
    id: "paste",
    rows: 6,
    spellcheck: "false",
    placeholder: "1029743, 2017-11-18\n995242, 1512000000",
    "aria-describedby": "paste-help paste-fault",
  });
  const fault = h("p", { id: "paste-fault", class: "fault", role: "alert" });
  const profile = model.profileNames.map((name) => h("label", {}, `${name} `, h("input", { name, size: 12, autocomplete: "off" })));
  const submit = (event) => {
    event.preventDefault();
    try {
      const history = parseHistory(text.value, (id) => model.endpoint.takesId(id));
      profile.forEach((label) => {
        const input = label.querySelector("input");
        history.profile[input.name] = input.value.trim();
      });
      replace(fault);
      text.removeAttribute("aria-invalid");
      choose(history);
    } catch (error) {
      if (!(error instanceof HistoryError)) throw error;
      text.setAttribute("aria-invalid", "true");
      replace(fault, error.message);
    }
  };
  return h(
    "form",
    { id: "paste-form", onsubmit: submit },
    h("label", { for: "paste" }, "A history, one event per line"),
    h("p", { id: "paste-help", class: "muted" }, "Item id, then a date or seconds since 1970, then a weight if there is one. JSON works too."),
    text,
    fault,
    profile.length > 0 && h("div", { class: "row" }, profile),
    h("button", { type: "submit" }, "Use this history"),
  );
}
