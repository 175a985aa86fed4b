// The server's API over fetch: the model's card, the queue, and streams of an answer.

export class ServerError extends Error {
  /** @param {number} status 0 where the error came in the middle of a stream */
  constructor(message, status, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class ConnectionLost extends Error {
  constructor() {
    super("The connection to the server was lost.");
  }
}

const SLICE = 8; // milliseconds of reading, then the page gets its turn

async function ask(path, options = {}, key = "") {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ConnectionLost();
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const said = body?.error;
  const message = said?.message ?? `The server answered with status ${response.status}.`;
  throw new ServerError(message, response.status, said?.code);
}

/** @returns {Promise<{id: string, max_model_len: number, reasoning?: boolean}>} */
export async function modelCard(key) {
  return (await (await ask("v1/models", {}, key)).json()).data[0];
}

/** @returns {Promise<?{waiting: number, running: number}>} sequences; null if not told */
export async function queue(key) {
  try {
    const text = await (await ask("metrics", {}, key)).text();
    const read = (name) => Number(text.match(new RegExp(`^r1jax:num_requests_${name}\\b.* ([\\d.]+)$`, "m"))[1]);
    return { waiting: read("waiting"), running: read("running") };
  } catch {
    return null;
  }
}

/**
 * Streams the answer to a conversation.
 * @param {Object} body of /v1/chat/completions
 * @param {{key: string, signal: AbortSignal}} options
 * @yields {{reasoning: string, content: string, finish: ?string, usage: ?Object}}
 * @throws {ServerError} with the server's own words
 * @throws {ConnectionLost} before the end of the stream
 */
export async function* streamChat(body, { key, signal }) {
  const response = await ask(
    "v1/chat/completions",
    {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        ...body,
        stream: true,
        stream_options: { include_usage: true, continuous_usage_stats: true },
      }),
      signal,
    },
    key,
  );
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message, 0, chunk.error.code);
    const choice = chunk.choices[0];
    yield {
      reasoning: choice?.delta.reasoning_content ?? "",
      content: choice?.delta.content ?? "",
      finish: choice?.finish_reason ?? null,
      usage: chunk.usage ?? null,
    };
  }
  throw new ConnectionLost();
}

/** Reads server-sent events, giving the page its turn between slices. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let since = performance.now();
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new ConnectionLost();
    });
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ")) yield line.slice(6).trimEnd();
      if (performance.now() - since > SLICE) {
        await new Promise((resolve) => setTimeout(resolve));
        since = performance.now();
      }
    }
  }
}
