// A conversation is a tree: an edited question or a second answer begins a branch beside
// the first. Everything here is plain data, fit for IndexedDB and for JSON.

import { newId } from "./dom.js";

/**
 * @typedef {Object} Stats how an answer came; times in seconds, the rest in tokens
 * @property {number} [first] until the first token
 * @property {number} [thinking] from the first token to the end of the thinking
 * @property {number} [writing] from the first token to the last
 * @property {number} [prompt]
 * @property {number} [cached] of the prompt
 * @property {number} [completion] thinking included
 * @property {number} [reasoning]
 */

/**
 * @typedef {Object} Message
 * @property {string} id
 * @property {?string} parent null for the first question
 * @property {"user"|"assistant"} role
 * @property {string} content
 * @property {string} [reasoning]
 * @property {?string} [finish] "stop", "length", "stopped" (by the reader), "error";
 *   null while it comes
 * @property {string} [error] what the reader is told
 * @property {Stats} [stats]
 */

/**
 * @typedef {Object} Conversation
 * @property {string} id
 * @property {string} title
 * @property {number} updated milliseconds since 1970
 * @property {?string} head the last message of the branch that is shown
 * @property {Message[]} messages parents before their children
 */

export const FORMAT = "r1jax-conversations";

/** @returns {Conversation} */
export function create() {
  return { id: newId(), title: "New chat", updated: Date.now(), head: null, messages: [] };
}

/** @returns {?Message} */
export function find(conversation, id) {
  return conversation.messages.find((message) => message.id === id) ?? null;
}

/** @returns {Message[]} the branch that is shown, first question first */
export function path(conversation, head = conversation.head) {
  const branch = [];
  for (let m = find(conversation, head); m; m = find(conversation, m.parent)) branch.unshift(m);
  return branch;
}

/** @returns {Message[]} a message and those that stand in its place on other branches */
export function siblings(conversation, message) {
  return conversation.messages.filter((other) => other.parent === message.parent);
}

/** Shows the branch through `id` that was last written to. */
export function show(conversation, id) {
  conversation.head = id;
  for (;;) {
    const child = conversation.messages.findLast((m) => m.parent === conversation.head);
    if (!child) return;
    conversation.head = child.id;
  }
}

/** Adds a message behind `parent` and shows its branch. @returns {Message} */
export function add(conversation, parent, role, content = "") {
  const message = { id: newId(), parent, role, content };
  if (role === "assistant") Object.assign(message, { reasoning: "", finish: null, stats: {} });
  if (conversation.messages.length === 0) conversation.title = titleOf(content);
  conversation.messages.push(message);
  conversation.head = message.id;
  conversation.updated = Date.now();
  return message;
}

/** Takes out a message that nothing follows. */
export function drop(conversation, message) {
  conversation.messages = conversation.messages.filter((other) => other !== message);
  conversation.head = message.parent;
}

/**
 * @returns {{role: string, content: string}[]} what the server is sent to answer `head`;
 *   thoughts of earlier answers are not part of it, as R1 was trained
 */
export function toMessages(conversation, head, system) {
  const turns = path(conversation, head)
    .filter((message) => message.role === "user" || message.content)
    .map(({ role, content }) => ({ role, content }));
  return system ? [{ role: "system", content: system }, ...turns] : turns;
}

/** @returns {string} the beginning of a question, on one line */
export function titleOf(text) {
  const line = text.trim().replace(/\s+/g, " ");
  const letters = Array.from(line);
  return letters.length > 60 ? `${letters.slice(0, 59).join("")}…` : line || "New chat";
}

/** @returns {string} all conversations as one JSON text */
export function toJson(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

/**
 * Reads what `toJson` wrote. Nothing of the text is trusted: only known fields of the
 * right types are kept, and every conversation gets a new id.
 * @returns {Conversation[]}
 * @throws {Error} saying what is wrong
 */
export function fromJson(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error("the file is not JSON");
  }
  if (value?.format !== FORMAT || !Array.isArray(value.conversations)) {
    throw new Error("the file does not hold conversations of this page");
  }
  if (value.version !== 1) throw new Error(`version ${value.version} is not known here`);
  return value.conversations.map(readConversation);
}

function readConversation(value) {
  const conversation = create();
  if (!Array.isArray(value?.messages)) throw new Error("a conversation has no messages");
  conversation.title = titleOf(text(value.title));
  if (Number.isFinite(value.updated)) conversation.updated = value.updated;
  const known = new Set([null]);
  for (const item of value.messages) {
    const message = readMessage(item);
    if (!known.has(message.parent) || known.has(message.id)) {
      throw new Error("a conversation's messages do not follow one another");
    }
    known.add(message.id);
    conversation.messages.push(message);
  }
  const last = conversation.messages.at(-1)?.id ?? null;
  conversation.head = known.has(value.head) ? value.head : last;
  return conversation;
}

function readMessage(value) {
  const { id, parent, role } = value ?? {};
  if (typeof id !== "string" || !(parent === null || typeof parent === "string")) {
    throw new Error("a message has no id");
  }
  if (role !== "user" && role !== "assistant") throw new Error("a message has no role");
  const message = { id, parent, role, content: text(value.content) };
  if (role === "user") return message;
  const stats = Object.entries(value.stats ?? {}).filter(([, number]) => Number.isFinite(number));
  message.reasoning = text(value.reasoning);
  message.finish = ["stop", "length", "stopped", "error"].find((f) => f === value.finish) ?? "stopped";
  message.stats = Object.fromEntries(stats);
  if (value.error) message.error = text(value.error);
  return message;
}

function text(value) {
  return typeof value === "string" ? value.toWellFormed() : "";
}
