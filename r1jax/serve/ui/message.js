// The view of one message: a question, or an answer with its thinking, numbers and errors.

import { copyButton, h, icon, iconButton } from "./dom.js";
import { GrowingProse } from "./render.js";

/** Rendering takes at most this share of the time, and comes at most so often. */
const SHARE = 0.2;
const SOONEST = 60; // milliseconds
const LATEST = 500;

/** @returns {string} such as "1,234 tokens" */
const tokens = (count) => `${count.toLocaleString("en")} token${count === 1 ? "" : "s"}`;

const speed = (rate) => (rate < 99.95 ? rate.toFixed(1) : Math.round(rate).toLocaleString("en"));

/** @returns {string} such as "0.4 s", "12 s", "3 min 5 s" */
function time(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** @returns {HTMLElement} "‹ 2/3 ›", or nothing where there is one branch only */
function branches(message, among, onshow) {
  if (among.length < 2) return null;
  const place = among.indexOf(message);
  const go = (step, name, label) => {
    const button = iconButton(name, label, () => onshow(among[place + step]));
    button.disabled = !among[place + step];
    return button;
  };
  return h(
    "span.branches",
    {},
    go(-1, "left", "Earlier version"),
    h("span", {}, `${place + 1}/${among.length}`),
    go(1, "right", "Later version"),
  );
}

/** A question, as typed; it can be edited, which begins a branch. */
export class Question {
  /** @param {{onedit: function(string): void, onshow: function(Object): void}} actions */
  constructor(message, among, actions) {
    this.message = message;
    this.text = h("div.text", {}, message.content);
    this.bar = h(
      "div.actions",
      {},
      branches(message, among, actions.onshow),
      iconButton("edit", "Edit", () => this.edit()),
      copyButton("Copy question", () => message.content),
    );
    this.onedit = actions.onedit;
    this.element = h("article.question", { "aria-label": "Question", "data-id": message.id }, this.text, this.bar);
  }

  edit() {
    const area = h("textarea", { "aria-label": "Edit question", rows: 3 });
    area.value = this.message.content;
    const leave = () => {
      this.element.classList.remove("editing");
      this.element.replaceChildren(this.text, this.bar);
    };
    const send = () => area.value.trim() && this.onedit(area.value);
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
      else if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      else send();
      event.preventDefault();
      event.stopPropagation();
    });
    this.element.classList.add("editing");
    this.element.replaceChildren(
      area,
      h(
        "div.choice",
        {},
        h("button", { type: "button", onclick: leave }, "Cancel"),
        h("button.primary", { type: "button", onclick: send }, "Send"),
      ),
    );
    area.focus();
  }
}

/** An answer. While it comes, `update` is called as often as one likes. */
export class Answer {
  /** @param {{onretry: function(): void, onshow: function(Object): void}} actions */
  constructor(message, among, actions) {
    this.message = message;
    this.thought = new GrowingProse(h("div.prose.thought"));
    this.prose = new GrowingProse(h("div.prose"));
    this.summary = h("summary");
    this.details = h("details.thinking", { hidden: true }, this.summary, this.thought.element);
    this.details.addEventListener("toggle", () => this.update());
    this.summary.addEventListener("click", () => (this.wasToggled = true));
    this.wait = h("p.wait", { hidden: true });
    this.note = h("p.note", { hidden: true });
    this.retry = h("button", { type: "button", onclick: actions.onretry }, icon("again"), "Try again");
    this.trouble = h("div.trouble", { role: "alert", hidden: true });
    this.stats = h("span.stats");
    this.bar = h(
      "div.actions",
      { hidden: true },
      branches(message, among, actions.onshow),
      copyButton("Copy answer", () => message.content),
      iconButton("again", "Answer again", actions.onretry),
      this.stats,
    );
    this.element = h("article.answer", { "aria-label": "Answer", "data-id": message.id });
    this.element.append(this.details, this.prose.element, this.wait, this.note, this.trouble, this.bar);
    this.isAlone = among.length < 2;
    this.isDue = false;
    this.cost = 0;
  }

  /** Shows, soon, what the message has become. `waiting` is what to say before it comes. */
  update(waiting = "") {
    this.waiting = waiting;
    if (this.isDue) return;
    this.isDue = true;
    const pause = Math.min(Math.max(this.cost / SHARE, SOONEST), LATEST);
    setTimeout(() => requestAnimationFrame(() => this.#paint()), this.isBehind ? 0 : pause);
  }

  /** Shows the beginning at once, so that a kept conversation does not flicker in. */
  paintNow() {
    this.isDue = true;
    this.#paint();
    return this;
  }

  #paint() {
    this.isDue = false;
    const begun = performance.now();
    const { message } = this;
    const isWhole = message.finish !== null;
    this.#showThinking(isWhole);
    const thoughtShown = !this.details.open || this.thought.show(message.reasoning, isWhole || message.content !== "");
    const allShown = this.prose.show(message.content, isWhole) && thoughtShown;
    this.#showRest(isWhole);
    this.cost = performance.now() - begun;
    this.isBehind = !allShown;
    if (this.isBehind) this.update(this.waiting);
  }

  #showThinking(isWhole) {
    const { message, details } = this;
    const { stats } = message;
    if (!message.reasoning) return;
    const isThinking = !isWhole && !message.content;
    details.hidden = false;
    if (!this.wasToggled) details.open = isThinking;
    const count = stats.reasoning ? `, ${tokens(stats.reasoning)}` : "";
    const said = isThinking ? "Thinking…" : "Thought for";
    this.summary.textContent = `${said} ${time(stats.thinking ?? 0)}${count}`;
    details.classList.toggle("live", isThinking);
  }

  #showRest(isWhole) {
    const { message } = this;
    this.wait.hidden = !this.waiting || isWhole;
    this.wait.textContent = this.waiting;
    this.element.setAttribute("aria-busy", String(!isWhole));
    const isBare = message.error && !message.content && this.isAlone; // nothing to do with it
    this.bar.hidden = !isWhole || Boolean(isBare);
    this.trouble.hidden = !message.error;
    if (message.error && !this.trouble.firstChild) this.trouble.append(h("p", {}, message.error), this.retry);
    const notes = { length: "Ended at the limit of tokens.", stopped: "Stopped." };
    this.note.hidden = !notes[message.finish];
    this.note.textContent = notes[message.finish] ?? "";
    if (isWhole) this.stats.textContent = numbers(message.stats);
  }
}

/** @returns {string} what an answer took */
function numbers(stats) {
  const said = [];
  if (stats.completion) said.push(tokens(stats.completion));
  if (stats.completion > 1 && stats.writing > 0) {
    said.push(`${speed((stats.completion - 1) / stats.writing)} tokens/s`);
  }
  if (stats.first !== undefined) said.push(`first after ${time(stats.first)}`);
  if (stats.prompt) {
    const cached = stats.cached ? `, ${stats.cached.toLocaleString("en")} cached` : "";
    said.push(`prompt ${tokens(stats.prompt)}${cached}`);
  }
  return said.join(" · ");
}
