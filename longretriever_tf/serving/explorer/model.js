// What the model says of a history, by its signatures: interests, categories of items, the list, candidates.

import { EndpointError, optional } from "./endpoint.js";

const MAX_CELLS = 60000; // events times rows of one request: some hundred kB
const FIRST_WIDTH = 1000;
const SHARES_AT_ONCE = 500; // user vectors come with them

/** Columns of the request options, in the model's names; `numCategories` is what "every" stands for. */
export function requestOptions(settings, numCategories) {
  const isEvery = settings.search === "every";
  return {
    k: [settings.k],
    num_interests: [isEvery ? numCategories : settings.search === "likely" ? 0 : settings.numInterests],
    top_interests: [isEvery ? numCategories : settings.topInterests],
    interest_threshold: [settings.threshold],
    seed: [settings.seed],
    exploration: [isEvery ? 0 : settings.exploration],
    merge: [settings.merge],
    goal: [settings.onlyNew ? "novel" : "all"],
    exclude_item_id: [settings.excluded],
    allowed_category: [[]],
    forbidden_category: [settings.forbidden],
    forced_category: [settings.forced],
    forced_weight: [[]],
    bandit: ["none"],
    bandit_prior: [100],
    reward_category: [[]],
    reward_trials: [[]],
    reward_successes: [[]],
  };
}

const FREE = { search: "draw", k: 1, threshold: 0, seed: 0, exploration: 0, merge: "calibrated", onlyNew: false, excluded: [], forbidden: [], forced: [] };
const KNOWN = [...Object.keys(requestOptions(FREE)), "history_item_id", "history_timestamp", "history_weight", "history_action", "request_timestamp"];

/** Asks about one history; the profile's columns are what the signature has beyond all the known ones. */
export class Model {
  constructor(endpoint) {
    this.endpoint = endpoint;
    this.names = new Map();
    this.shared = new Set(); // ids of items whose name others have too
    this.numCategories = FIRST_WIDTH;
    this.kept = new WeakMap(); // log shares by history
    this.correctsOwn = false; // whether scores of items of the history were seen to be no probabilities
  }

  get profileNames() {
    return Object.keys(this.endpoint.inputs("serving_default")).filter((name) => !KNOWN.includes(name));
  }

  /** The options that this model takes: one of before there was a threshold has none. */
  options(settings) {
    const inputs = this.endpoint.inputs("serving_default");
    return Object.fromEntries(Object.entries(requestOptions(settings, this.numCategories)).filter(([name]) => name in inputs));
  }

  /** The history's columns, `times` rows of them. */
  columns(history, times = 1) {
    const profile = this.profileNames.map((name) => [name, Array(times).fill(profileOf(history)[name] ?? "")]);
    return {
      history_item_id: { row: history.events.map((event) => event.id), times },
      history_timestamp: { row: history.events.map((event) => event.seconds), times },
      history_weight: history.events.some((event) => event.weight !== 1) ? [history.events.map((event) => event.weight)] : [[1]],
      ...this.actions(history),
      request_timestamp: Array(times).fill(history.asOf),
      ...Object.fromEntries(profile),
    };
  }

  /** The column of actions, for a model that has one; an event without an action is "". */
  actions(history) {
    if (!("history_action" in this.endpoint.inputs("serving_default"))) return {};
    return { history_action: history.events.some((event) => event.action) ? [history.events.map((event) => event.action ?? "")] : [[""]] };
  }

  /**
   * Every category, best first: {category, score, events, last, canDraw}. Eq. 3 draws from seen categories alone;
   * the others come as explored ones, which may be forced all the same.
   */
  async interests(history) {
    for (let width = FIRST_WIDTH; ; width *= 10) {
      const settings = { ...FREE, numInterests: width, topInterests: width, exploration: width };
      const reply = await this.endpoint.predict("interests", { ...this.columns(history), ...this.options(settings) });
      const rows = readInterests(reply);
      if (rows.length === width) continue;
      const drawsAll = rows.some(({ score }) => score < 0) || !rows.some(({ events }) => events);
      this.numCategories = Math.max(rows.length, 1);
      rows.forEach((row) => (row.canDraw = drawsAll || row.events > 0));
      return rows.sort((a, b) => b.score - a.score);
    }
  }

  /** Categories by item id, for the items of a history that the model knows. */
  async categories(history, interests) {
    const categoryOf = new Map();
    let left = [...new Set(history.events.map((event) => event.id))];
    let open = interests.filter((interest) => interest.events).map((interest) => interest.category);
    while (left.length && open.length) {
      const full = [];
      for (const some of chunks(open, left.length)) {
        const times = some.length;
        const events = left.map((id, index) => ({ id, seconds: history.asOf - left.length + index, weight: 1 }));
        const columns = { ...this.columns({ ...history, events }, times), category: some };
        const reply = await this.endpoint.predict("user_embeddings", columns);
        reply.subsequence_item_id.forEach((items, row) => {
          const size = reply.subsequence_length[row];
          items.slice(0, size).forEach((item) => categoryOf.set(String(item), some[row]));
          if (size && size === items.length) full.push(some[row]); // there may be more than one subsequence holds
        });
      }
      left = left.filter((id) => !categoryOf.has(id));
      open = full;
    }
    return categoryOf;
  }

  /** The merged list with its interests. */
  async list(history, settings, signal) {
    const reply = await this.endpoint.predict("serving_default", { ...this.columns(history), ...this.options(settings) }, signal);
    const items = reply.item_id[0].slice(0, reply.num_valid[0]).map((id, index) => ({
      id: String(id),
      score: reply.score[0][index],
      category: reply.category[0][index],
    }));
    return { items, drawn: readInterests(reply) };
  }

  /** The best items of each category's own index, by category: [{id, score}], score the log share within it. */
  async candidates(history, settings, categories, signal) {
    const lists = new Map();
    for (const some of chunks(categories, history.events.length)) {
      const columns = { ...this.columns(history, some.length), ...this.options(settings), category: some };
      const reply = await this.endpoint.predict("retrieve_in_category", columns, signal);
      some.forEach((category, row) => {
        const ids = reply.item_id[row].slice(0, reply.num_valid[row]);
        lists.set(category, ids.map((id, index) => ({ id: String(id), score: reply.score[row][index] })));
      });
    }
    return lists;
  }

  /**
   * Log p(category | user) that lists are merged by, by category; null where the model does not tell. Where the score is
   * learned, it is this very share, but for new items: they have shares of their own.
   */
  async shares(history, interests, settings, categories, signal) {
    if (!settings.onlyNew && interests.some(({ score }) => score < 0)) {
      return new Map(interests.map(({ category, score }) => [category, score]));
    }
    if (!this.endpoint.signatures.interest_embeddings) return null;
    const goal = settings.onlyNew ? "novel" : "all";
    if (!this.kept.has(history)) this.kept.set(history, { all: new Map(), novel: new Map() });
    const known = this.kept.get(history)[goal];
    const missing = categories.filter((category) => !known.has(category));
    while (missing.length) {
      const forced = missing.splice(0, SHARES_AT_ONCE);
      const free = { ...FREE, onlyNew: settings.onlyNew, forced, numInterests: forced.length, topInterests: forced.length };
      const columns = { ...this.columns(history), ...this.options(free) };
      const reply = await this.endpoint.predict("interest_embeddings", columns, signal).catch((error) => {
        if (error instanceof EndpointError) return null; // former exports fail without a history
        throw error;
      });
      if (!reply) return null;
      reply.interest_category[0].forEach((category, index) => known.set(category, reply.log_share[0][index]));
    }
    return known;
  }

  /** Learns the names of items, where the server knows them. */
  async learnNames(ids) {
    const unknown = [...new Set(ids)].filter((id) => !this.names.has(id));
    if (!unknown.length) return;
    const { names = {}, shared = [] } = (await optional("names", this.endpoint.model, { item_id: unknown })) ?? {};
    unknown.forEach((id) => this.names.set(id, names[id] ?? ""));
    shared.forEach((id) => this.shared.add(id));
  }

  /** What to call an item, and whether others are called so too. */
  called(id) {
    return { name: this.names.get(id) || `item ${id}`, shared: this.shared.has(id) };
  }

  /** The same as one text. */
  nameOf(id) {
    const { name, shared } = this.called(id);
    return shared ? `${name} (${id})` : name;
  }
}

/** The interests of a reply; padding, which has no origin, may stand between them. */
function readInterests(reply) {
  const rows = reply.interest_category[0].map((category, index) => ({
    category,
    score: reply.interest_score[0][index],
    rank: reply.interest_rank_drawn[0][index],
    origin: reply.interest_origin[0][index],
    events: reply.interest_num_events[0][index],
    last: reply.interest_last_timestamp[0][index],
  }));
  return rows.filter(({ origin }) => origin);
}

function* chunks(list, cells) {
  const size = Math.max(1, Math.floor(MAX_CELLS / Math.max(cells, 1)));
  for (let start = 0; start < list.length; start += size) yield list.slice(start, start + size);
}

/** The history's profile by input: `input_names.input_of_profile`, for columns that can be no input by their own name. */
function profileOf(history) {
  const spell = (letter) => (/\w/.test(letter) ? letter : letter < "\x80" ? "_" : `u${letter.codePointAt(0).toString(16)}`);
  const called = ([column, value]) => [`profile_${[...column].map(spell).join("")}`, value];
  return { ...Object.fromEntries(Object.entries(history.profile).map(called)), ...history.profile };
}
