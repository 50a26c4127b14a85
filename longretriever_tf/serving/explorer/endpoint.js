// TensorFlow Serving's REST API: status, metadata, predict. What goes wrong becomes a sentence for people.

const NUMBERS = /^-?\d{1,19}$/;

/** `message` is for people; `detail` holds the server's own words. */
export class EndpointError extends Error {
  constructor(message, detail = "") {
    super(message);
    this.detail = detail;
  }
}

/** Texts of JSON, which are left alone, and whole numbers that may be too long for JavaScript's. */
const TEXT_OR_LONG = /"(?:[^"\\]|\\.)*"|(?<![\d.eE+-])-?\d{16,}(?=\s*[,\]}])/g;

/** Whole numbers beyond 2^53, as item ids may be, become text: JavaScript's numbers would round them. */
export function parse(text) {
  const isKept = (token) => token.startsWith('"') || Number.isSafeInteger(Number(token));
  return JSON.parse(text.replace(TEXT_OR_LONG, (token) => (isKept(token) ? token : `"${token}"`)));
}

/** JSON of a column; ids of whole-number type are text here and numbers there. `{row, times}` is a row many times. */
function encode(value, dtype) {
  if (value?.row) return `[${Array(value.times).fill(encode(value.row, dtype)).join(",")}]`;
  if (Array.isArray(value)) return `[${value.map((each) => encode(each, dtype)).join(",")}]`;
  return dtype === "DT_STRING" ? JSON.stringify(String(value)) : String(value);
}

function explain(status, model, words) {
  if (status === 404) return `This endpoint has no model “${model}” ready to answer.`;
  if (status === 413) return "This history is longer than the server takes in one request.";
  if (status === 429 || status === 503) return "The server is busy. Try again in a moment.";
  if (status === 504) return "The server took too long to answer.";
  if (/history/i.test(words)) return "The server does not take this history.";
  return "The server refused this request.";
}

async function call(path, model, options) {
  let response;
  let text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new EndpointError("The endpoint does not answer. Is the server still running?", `${location.host}: no answer`);
  }
  let reply = null;
  try {
    reply = parse(text);
  } catch {
    // a proxy's HTML page, say: its status says enough
  }
  if (response.ok && reply !== null) return reply;
  const words = String(reply?.error ?? text).slice(0, 300);
  throw new EndpointError(explain(response.status, model, words), `HTTP ${response.status}: ${words}`);
}

/** Names of the models, as the server that sends this page lists them. */
export async function listModels() {
  return (await call("settings.json", "", {})).models;
}

/** A default of a signature, first element: a TensorProto in JSON. */
function firstValue(proto) {
  if (!proto) return undefined;
  if (proto.string_val?.length) return atob(proto.string_val[0]);
  const typed = proto.int_val?.[0] ?? proto.int64_val?.[0] ?? proto.float_val?.[0];
  if (typed !== undefined) return Number(typed);
  if (!proto.tensor_content) return undefined;
  const bytes = Uint8Array.from(atob(proto.tensor_content), (letter) => letter.charCodeAt(0));
  if (bytes.length < 4) return undefined;
  const view = new DataView(bytes.buffer);
  return { DT_INT32: () => view.getInt32(0, true), DT_FLOAT: () => view.getFloat32(0, true) }[proto.dtype]?.();
}

/** One model; `open` it before anything else. */
export class Endpoint {
  constructor(model) {
    this.model = model;
    this.base = `../v1/models/${encodeURIComponent(model)}`;
  }

  /** Reads the signatures; throws EndpointError where it is no retriever's export. */
  async open() {
    const { metadata, model_spec: spec } = await call(`${this.base}/metadata`, this.model);
    this.version = spec.version?.value ?? spec.version;
    this.signatures = metadata.signature_def.signature_def ?? metadata.signature_def;
    for (const name of ["serving_default", "interests", "retrieve_in_category", "user_embeddings"]) {
      if (!this.signatures[name]) {
        throw new EndpointError(`“${this.model}” cannot be explored: it has no signature “${name}”.`);
      }
    }
  }

  inputs(signature) {
    return this.signatures[signature].inputs;
  }

  /** An option's default, or `otherwise` where the metadata gives none. */
  defaultOf(name, otherwise) {
    return firstValue(this.signatures.serving_default.defaults?.[name]) ?? otherwise;
  }

  /** Whether requests may leave the number of interests to a threshold: exports of before there was one have none. */
  get hasThreshold() {
    return "interest_threshold" in this.inputs("serving_default");
  }

  get hasNumberIds() {
    return this.inputs("serving_default").history_item_id.dtype !== "DT_STRING";
  }

  /** Whether the model can read an id at all; it may still not know it. */
  takesId(id) {
    if (!this.hasNumberIds) return id !== "";
    return NUMBERS.test(id) && BigInt.asIntN(64, BigInt(id)) === BigInt(id);
  }

  /** Until when the model's statistics of items count events, to the minute; "" where it cannot tell. */
  async statisticsAsOf() {
    if (!this.signatures.fingerprint?.outputs?.statistics_as_of) return "";
    const { statistics_as_of: [seconds] } = await this.predict("fingerprint", { expected: [""] });
    return seconds ? new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ") : "";
  }

  /** Outputs by name; `columns` must hold every input that the signature names, others are left out. */
  async predict(signature, columns, signal) {
    const parts = Object.entries(this.inputs(signature)).map(([name, { dtype }]) => {
      if (!(name in columns)) throw new EndpointError(`The model wants “${name}”, which this page does not know.`);
      return `${JSON.stringify(name)}:${encode(columns[name], dtype)}`;
    });
    const body = `{"signature_name":${JSON.stringify(signature)},"inputs":{${parts.join(",")}}}`;
    const reply = await call(`${this.base}:predict`, this.model, { method: "POST", body, signal });
    return reply.outputs;
  }
}

/** Help that the page can do without, from the server that sends it; null where it has none. */
export async function optional(path, model, body) {
  try {
    const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
    return await call(`models/${encodeURIComponent(model)}/${path}`, model, options);
  } catch {
    return null;
  }
}
