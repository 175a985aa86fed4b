// Conversations in the browser's own database, and nowhere else.

import { titleOf } from "./conversation.js";

/** More than anybody reads; the list stays quick, and the browser's room is not eaten up. */
export const MOST = 500;

export class StoreFull extends Error {}

const FULL = "delete conversations, or export them first";

/** Keeps conversations; a summary of each apart, so that the list opens quickly. */
export class Store {
  /** @type {?IDBDatabase} null where the browser allows none: then they last as long as the page */
  #database = null;
  #memory = new Map();
  /** Ids of conversations that are kept, and so may be kept again without counting. */
  #known = new Set();
  #others = new BroadcastChannel("r1jax");
  /** Told when another tab has changed a conversation. */
  onother = (id) => id;

  async open() {
    try {
      const request = indexedDB.open("r1jax", 1);
      request.onupgradeneeded = () => {
        request.result.createObjectStore("conversations", { keyPath: "id" });
        request.result.createObjectStore("summaries", { keyPath: "id" });
      };
      this.#database = await done(request);
    } catch {
      this.#database = null;
    }
    this.#others.onmessage = ({ data }) => this.onother(data);
    return this;
  }

  /** Lets other tabs know that a conversation has changed. */
  tell(id) {
    this.#others.postMessage(id);
  }

  /** Whether conversations outlive the page. */
  get lasts() {
    return this.#database !== null;
  }

  /** @returns {Promise<{id: string, title: string, updated: number}[]>} newest first */
  async list() {
    const all = this.#database
      ? await done(this.#database.transaction("summaries").objectStore("summaries").getAll())
      : [...this.#memory.values()].map(summary);
    return all.sort((one, other) => other.updated - one.updated);
  }

  /** @returns {Promise<?import("./conversation.js").Conversation>} */
  async get(id) {
    if (!this.#database) return this.#memory.get(id) ?? null;
    const store = this.#database.transaction("conversations").objectStore("conversations");
    return (await done(store.get(id))) ?? null;
  }

  /** @returns {Promise<import("./conversation.js").Conversation[]>} */
  async all() {
    if (!this.#database) return [...this.#memory.values()];
    return done(this.#database.transaction("conversations").objectStore("conversations").getAll());
  }

  /**
   * Keeps a conversation. One that is kept already is handed to the browser before this
   * returns, so that it works while the page is being closed.
   * @throws {StoreFull} the conversation is kept as it was before
   */
  async put(conversation) {
    if (!this.#database) {
      this.#memory.set(conversation.id, conversation);
      return;
    }
    if (!this.#known.has(conversation.id)) await this.#makeRoom(conversation.id);
    const change = this.#database.transaction(["conversations", "summaries"], "readwrite");
    try {
      change.objectStore("conversations").put(conversation);
      change.objectStore("summaries").put(summary(conversation));
      change.commit(); // now: a page that is closed gets no second turn
      await complete(change);
      this.#known.add(conversation.id);
    } catch (error) {
      if (error?.name !== "QuotaExceededError") throw error;
      throw new StoreFull(`The browser has no room left for this page: ${FULL}.`);
    }
  }

  async #makeRoom(id) {
    const summaries = this.#database.transaction("summaries").objectStore("summaries");
    const [key, count] = await Promise.all([done(summaries.getKey(id)), done(summaries.count())]);
    if (key === undefined && count >= MOST) {
      throw new StoreFull(`${count} conversations are kept, and no more can be: ${FULL}.`);
    }
  }

  async remove(id) {
    this.#memory.delete(id);
    this.#known.delete(id);
    if (!this.#database) return;
    const change = this.#database.transaction(["conversations", "summaries"], "readwrite");
    change.objectStore("conversations").delete(id);
    change.objectStore("summaries").delete(id);
    await complete(change);
  }

  /** @returns {Promise<Set<string>>} ids of the conversations in which `words` are said */
  async search(words) {
    const wanted = words.toLowerCase();
    const says = (text) => text.toLowerCase().includes(wanted);
    const found = (await this.all()).filter(
      ({ title, messages }) => says(title) || messages.some((message) => says(message.content)),
    );
    return new Set(found.map(({ id }) => id));
  }
}

function summary({ id, title, updated }) {
  return { id, title: titleOf(title), updated };
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = request.onblocked = () => reject(request.error);
  });
}

function complete(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}
