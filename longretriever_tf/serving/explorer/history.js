// A history: item ids (text), times (seconds), weights; oldest first. Read from a users file or from pasted text.

import { parse } from "./endpoint.js";

const DAY_S = 86400;
const EXAMPLE = "1029743, 2017-11-18";
const MILLISECONDS_FROM = 1e11; // as seconds this is the year 5138

/** What is wrong with pasted text, as a sentence. */
export class HistoryError extends Error {}

/** Seconds of a time as people write it: seconds, milliseconds, or a date; NaN for anything else. */
export function parseTime(text) {
  const trimmed = String(text).trim();
  if (/^\d+(\.\d+)?$/.test(trimmed)) {
    const number = Number(trimmed);
    const seconds = number >= MILLISECONDS_FROM ? number / 1000 : number;
    return seconds < MILLISECONDS_FROM ? Math.floor(seconds) : NaN;
  }
  if (!/^\d{4}-\d{2}-\d{2}/.test(trimmed)) return NaN;
  const zoned = /T.*(Z|[+-]\d\d:?\d\d)$/.test(trimmed) || trimmed.length === 10 ? trimmed : `${trimmed.replace(" ", "T")}Z`;
  return Math.floor(Date.parse(zoned) / 1000);
}

function parseEvent(item, time, weight, position, takesId) {
  const id = String(item ?? "");
  const seconds = parseTime(time ?? "");
  if (!id || time === undefined || time === "") throw new HistoryError(`${position} must hold an item id and a time, such as “${EXAMPLE}”.`);
  if (!takesId(id)) throw new HistoryError(`${position} has the item id “${id.slice(0, 40)}”; this model's ids are whole numbers.`);
  if (!(seconds > 0)) throw new HistoryError(`${position} has the time “${String(time).slice(0, 40)}”; write seconds or a date, such as “${EXAMPLE}”.`);
  const number = weight === undefined || weight === "" ? 1 : Number(weight);
  if (!(number >= 0 && number < Infinity)) throw new HistoryError(`${position} has the weight “${weight}”; write a number, or leave it out.`);
  return { id, seconds, weight: number };
}

/** Cells between commas, semicolons or tabs; in quotes, doubled to stand for themselves, a cell may hold any of them. */
function readCells(line) {
  const cells = [...line.matchAll(/\s*(?:"((?:[^"]|"")*)"\s*|([^,;\t]*))(?:[,;\t]|$)/g)];
  return cells.map(([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? plain.trim());
}

function parseLines(text, takesId) {
  const lines = text.split(/\r?\n/).map((line, index) => ({ line: line.trim(), position: `Line ${index + 1}` }));
  const rows = lines.filter(({ line }) => line && !line.startsWith("#"));
  if (/^["']?item/i.test(rows[0]?.line ?? "")) rows.shift(); // a header
  return rows.map(({ line, position }) => {
    const cells = readCells(line);
    return parseEvent(cells[0], cells[1], cells[2], `${position}, “${line.slice(0, 40)}”,`, takesId);
  });
}

function parseJson(text, takesId) {
  let document;
  try {
    document = parse(text);
  } catch (error) {
    throw new HistoryError(`This begins like JSON and is not: ${error.message}.`);
  }
  const columns = document.inputs ?? document.users?.[0] ?? document;
  if (Array.isArray(columns)) {
    return columns.map((row, index) => {
      const [item, time, weight] = Array.isArray(row) ? row : [row?.item_id, row?.timestamp, row?.weight];
      return parseEvent(item, time, weight, `Event ${index + 1}`, takesId);
    });
  }
  const items = [columns.history_item_id ?? columns.item_id].flat(2);
  const times = [columns.history_timestamp ?? columns.timestamp].flat(2);
  if (items[0] === undefined || items.length !== times.length) {
    throw new HistoryError("This JSON must hold “item_id” and “timestamp”, two lists of one length, or a list of events.");
  }
  return items.map((item, index) => parseEvent(item, times[index], undefined, `Event ${index + 1}`, takesId));
}

/** A history from lines of `item_id, timestamp` or from JSON; throws HistoryError with a sentence. */
export function parseHistory(text, takesId) {
  const trimmed = text.trim();
  if (!trimmed) throw new HistoryError("Nothing was pasted. Write one event per line, such as “1029743, 2017-11-18”.");
  const events = /^[[{]/.test(trimmed) ? parseJson(trimmed, takesId) : parseLines(trimmed, takesId);
  if (!events.length) throw new HistoryError("No event was found. Write one per line, such as “1029743, 2017-11-18”.");
  events.sort((a, b) => a.seconds - b.seconds);
  const latest = events[events.length - 1].seconds;
  return makeHistory(events, latest + 1, {});
}

/** The history of a users file's entry; what it holds out lies at its end. */
export function readUser(user) {
  const read = ({ item_id: items, timestamp: times, weight, action }) =>
    items.map((item, index) => ({ id: String(item), seconds: times[index], weight: weight?.[index] ?? 1, action: action?.[index] ?? "" }));
  const events = [...read(user), ...(user.held_out ? read(user.held_out) : [])];
  events.sort((a, b) => a.seconds - b.seconds);
  return makeHistory(events, user.request_timestamp, user.profile ?? {}, user.held_out?.until);
}

/** `cut`: the time that it was meant to be asked as of; `until`: where what is held out ends, undefined if nothing is. */
function makeHistory(events, asOf, profile, until) {
  return { events, asOf, profile, cut: asOf, until };
}

export const emptyHistory = (asOf) => makeHistory([], asOf, {});

/**
 * The history as of a time: `events` are those strictly before it, `later` those from it on. These end where a window as
 * long as the held-out one ends, so that its length does not depend on the time.
 */
export function before(history, asOf) {
  const end = history.until === undefined ? Infinity : Math.min(history.until, asOf + history.until - history.cut);
  const isLater = ({ seconds }) => seconds >= asOf && seconds < end;
  return { ...history, asOf, end, events: history.events.filter(({ seconds }) => seconds < asOf), later: history.events.filter(isLater) };
}

/** Distinct items of the later events, oldest first: {id, seconds, isNew}. */
export function laterItems({ events, later }) {
  const own = new Set(events.map(({ id }) => id));
  const first = new Map();
  later.forEach(({ id, seconds }) => first.has(id) || first.set(id, { id, seconds, isNew: !own.has(id) }));
  return [...first.values()];
}

/** Eq. 3 by hand: the sum of weight / days, days at least one; with the part of each time, the largest first. */
export function recencyScore(events, asOf) {
  const bySecond = new Map();
  for (const { seconds, weight } of events) {
    const part = weight / Math.max((asOf - seconds) / DAY_S, 1);
    bySecond.set(seconds, (bySecond.get(seconds) ?? 0) + part);
  }
  const parts = [...bySecond].map(([seconds, part]) => ({ seconds, part })).sort((a, b) => b.part - a.part);
  return { score: parts.reduce((sum, { part }) => sum + part, 0), parts };
}
