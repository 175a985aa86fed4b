// One answer while it comes: it fills a message, and tells whoever watches.

import { ServerError, streamChat } from "./stream.js";

export class Run {
  /** Told at every change, and once more at the end. */
  onchange = () => {};

  /**
   * @param {import("./conversation.js").Conversation} conversation
   * @param {import("./conversation.js").Message} message empty, to be filled
   */
  constructor(conversation, message) {
    this.conversation = conversation;
    this.message = message;
    this.begun = performance.now();
    this.saved = -Infinity; // when, as performance.now() tells it
    this.error = null;
    this.aborter = new AbortController();
  }

  /** Seconds since the question was sent. */
  get seconds() {
    return (performance.now() - this.begun) / 1000;
  }

  /** Lets the time pass while the model thinks. */
  tick() {
    const { content, reasoning, stats } = this.message;
    if (content || !reasoning) return;
    stats.thinking = this.seconds - stats.first;
    this.onchange();
  }

  stop() {
    this.aborter.abort();
  }

  /** Asks and reads to the end; never throws. `error` says what went wrong. */
  async go(body, key) {
    const { message } = this;
    try {
      for await (const delta of streamChat(body, { key, signal: this.aborter.signal })) {
        this.#take(delta);
        this.onchange();
      }
      message.finish ??= "stop";
    } catch (error) {
      message.finish = "stopped";
      if (!this.aborter.signal.aborted) this.#fail(error);
    }
    this.onchange();
  }

  #fail(error) {
    this.error = error;
    this.message.finish = "error";
    this.message.error = error.message;
    // Anything else is a fault of this page: show it, and leave its trace to developers.
    if (!(error instanceof ServerError) && error.name !== "Error") console.error(error);
  }

  #take({ reasoning, content, finish, usage }) {
    const { message } = this;
    const { stats } = message;
    if (reasoning || content) {
      stats.first ??= this.seconds;
      stats.writing = this.seconds - stats.first;
      if (!message.content) stats.thinking = stats.writing;
    }
    message.reasoning += reasoning;
    message.content += content;
    if (finish) message.finish = finish;
    if (!usage) return;
    stats.prompt = usage.prompt_tokens;
    stats.completion = usage.completion_tokens;
    stats.reasoning = usage.completion_tokens_details?.reasoning_tokens ?? 0;
    stats.cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  }
}
