// The conversation that is shown, and the answers that come, here and in the background.

import * as tree from "./conversation.js";
import { announce, h, toast } from "./dom.js";
import { Answer, Question } from "./message.js";
import { Run } from "./run.js";
import { askKey } from "./settings.js";
import { queue } from "./stream.js";

const SAVE_EVERY = 1000; // milliseconds, while an answer comes
const WAITING = "Waiting for the first token";
const ASK_QUEUE_AFTER = 2; // seconds without a token

export class Chat {
  /**
   * @param {{store: import("./store.js").Store, settings: import("./settings.js").Settings,
   *   follower: import("./scroll.js").Follower, onchange: function(): void,
   *   model: function(): ?Object}} parts onchange: the list of conversations may differ
   */
  constructor(parts) {
    Object.assign(this, parts);
    this.log = document.getElementById("log");
    this.empty = document.getElementById("empty");
    /** @type {Map<string, Run>} by conversation */
    this.runs = new Map();
    this.isDeleted = new Set();
    this.start();
    setInterval(() => this.#tick(), 1000);
    addEventListener("pagehide", () => this.#leave());
  }

  get run() {
    return this.runs.get(this.conversation.id) ?? null;
  }

  /** Begins a new conversation; it is kept once something was asked. */
  start() {
    this.#show(tree.create());
  }

  async open(id) {
    const conversation = this.runs.get(id)?.conversation ?? (await this.store.get(id));
    if (conversation) this.#show(conversation);
  }

  /** Forgets a conversation that is being deleted. */
  forget(id) {
    this.isDeleted.add(id);
    this.runs.get(id)?.stop();
    if (this.conversation.id === id) this.start();
  }

  /** A conversation has a new title. */
  renamed({ id, title }) {
    for (const known of [this.conversation, this.runs.get(id)?.conversation]) {
      if (known?.id === id) known.title = title;
    }
  }

  /** A deleted conversation has come back. */
  restored(id) {
    this.isDeleted.delete(id);
  }

  /** Another tab has changed a conversation: go on from there. */
  changedElsewhere(id) {
    if (this.conversation.id === id && !this.run) this.open(id);
  }

  /** Asks a question at the end of the branch that is shown. */
  send(text) {
    this.#ask(this.conversation.head, text);
  }

  stop() {
    this.run?.stop();
  }

  #ask(parent, text) {
    const { id } = tree.add(this.conversation, parent, "user", text);
    this.#answer(id);
  }

  /** Lets a question be answered, beside the answers it has. */
  async #answer(question) {
    const { conversation, settings } = this;
    const message = tree.add(conversation, question, "assistant");
    const run = new Run(conversation, message);
    this.runs.set(conversation.id, run);
    this.#show(conversation);
    this.follower.toEnd();
    this.views.at(-1).update(WAITING);
    announce("The question was sent");
    await this.#save(conversation);
    this.store.tell(conversation.id);
    this.onchange();
    await run.go(this.#body(conversation, question), settings.key);
    this.runs.delete(conversation.id);
    await this.#ended(run, question);
  }

  async #ended(run, question) {
    const { conversation, message, error } = run;
    const isShown = this.conversation === conversation;
    if (isShown) this.onrun(false);
    if (error?.status === 401 && isShown) {
      if (await askKey(this.settings, error.message)) return this.#again(conversation, message, question);
    }
    const outcome = message.finish === "stopped" ? "Stopped" : "The answer is complete";
    announce(error ? error.message : outcome);
    if (this.isDeleted.has(conversation.id)) return undefined;
    conversation.updated = Date.now();
    await this.#save(conversation);
    this.store.tell(conversation.id);
    return this.onchange();
  }

  /** Answers a question once more; an answer that failed before its first word goes. */
  #again(conversation, message, question) {
    if (message.error && !message.content && !message.reasoning) tree.drop(conversation, message);
    return this.#answer(question);
  }

  #body(conversation, question) {
    const { settings } = this;
    const model = this.model();
    const body = {
      ...settings.request(),
      messages: tree.toMessages(conversation, question, settings.sampling.system),
    };
    if (model) body.model = model.id;
    if (model?.reasoning) body.thinking = { type: settings.thinks ? "enabled" : "disabled" };
    return body;
  }

  /** Shows a conversation, from its first message. */
  #show(conversation) {
    this.conversation = conversation;
    const branch = tree.path(conversation);
    this.views = branch.map((message) => this.#view(message));
    this.log.replaceChildren(...this.views.map((view) => view.element));
    this.empty.hidden = branch.length > 0;
    document.title = branch.length ? `${conversation.title} – r1jax` : "r1jax";
    for (const view of this.views) view.paintNow?.();
    if (branch.length) this.follower.toEnd();
    else this.follower.toStart();
    const { run } = this;
    this.onrun?.(run !== null);
    if (run) run.onchange = () => this.#came(run);
  }

  #view(message) {
    const { conversation } = this;
    const among = tree.siblings(conversation, message);
    const onshow = (other) => {
      if (this.run) return;
      tree.show(conversation, other.id);
      this.#show(conversation);
      this.#save(conversation);
    };
    if (message.role === "user") {
      const onedit = (text) => this.run ?? this.#ask(message.parent, text);
      return new Question(message, among, { onedit, onshow });
    }
    // A page that was closed while the answer came left it unfinished.
    if (message.finish === null && message !== this.run?.message) message.finish = "stopped";
    const onretry = () => this.run ?? this.#again(conversation, message, message.parent);
    return new Answer(message, among, { onretry, onshow });
  }

  #came(run) {
    if (this.conversation === run.conversation) this.views.at(-1).update();
    if (performance.now() - run.saved < SAVE_EVERY) return;
    run.saved = performance.now();
    this.#save(run.conversation);
  }

  /** Says, once a second, what is being waited for, or for how long it thinks. */
  async #tick() {
    for (const run of this.runs.values()) run.tick();
    const { run } = this;
    if (!run || run.message.reasoning || run.message.content) return;
    let waiting = `${WAITING}, ${Math.round(run.seconds)} s`;
    if (run.seconds > ASK_QUEUE_AFTER) {
      const told = await queue(this.settings.key);
      if (told?.waiting) waiting += ` · ${told.waiting} in the queue, ${told.running} being answered`;
    }
    if (this.run === run && !run.message.reasoning && !run.message.content) this.views.at(-1).update(waiting);
  }

  /** Keeps what has come so far. Stops first, or the browser's cut would look like a fault. */
  #leave() {
    for (const run of this.runs.values()) {
      run.stop();
      this.#save(run.conversation);
    }
  }

  async #save(conversation) {
    if (this.isDeleted.has(conversation.id)) return;
    try {
      await this.store.put(conversation);
    } catch (error) {
      toast(`Not saved. ${error.message}`);
    }
  }
}

/** @returns {HTMLElement[]} questions to begin with, of the kinds that R1 is good at */
export function examples(onask) {
  const questions = [
    ["Maths", "Find all integers n for which n² + 19n + 92 is a perfect square."],
    ["Code", "Write a Python function that finds the longest palindrome in a string in linear time, and explain why it is linear."],
    ["Logic", "Three boxes are labelled “apples”, “oranges” and “both”, and every label is wrong. How many fruits must I take out to know all three?"],
  ];
  return questions.map(([kind, text]) =>
    h("button.example", { type: "button", onclick: () => onask(text) }, h("strong", {}, kind), h("span", {}, text)),
  );
}
