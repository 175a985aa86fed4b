// Markdown that grows. Blocks that can no longer change are made once and stay; only the
// last one is made again as text comes, a growing list by its items and growing code by
// its letters. Work is done in slices, so that no frame waits long, and the result is
// what rendering the whole text at once gives.

import { colour, frame, setMaths } from "./dress.js";
import { build, cut } from "./markdown.js";

const SLICE = 6; // milliseconds of work at a time
const WINDOW = 16_000; // characters looked at in one slice

/** @typedef {{token: Object, nodes: Node[]}} Block */

export class GrowingProse {
  /** @param {HTMLElement} element to fill */
  constructor(element) {
    this.element = element;
    this.#restart({});
  }

  #restart(links) {
    this.done = 0; // characters in blocks that stay
    this.window = WINDOW;
    /** @type {Block[]} shown, but may change */
    this.open = [];
    this.links = links;
    this.element.replaceChildren();
  }

  /**
   * Shows as much of `text` as a slice allows. Each text begins with the one before.
   * @param {boolean} isWhole whether nothing will follow
   * @returns {boolean} whether all of it is shown
   */
  show(text, isWhole, slice = SLICE) {
    const end = performance.now() + slice;
    for (;;) {
      const part = text.slice(this.done, this.done + this.window);
      const isLast = this.done + part.length === text.length;
      const tokens = cut(part, isWhole && isLast, this.links);
      const staying = isWhole && isLast ? tokens.length : countStaying(tokens, part);
      const kept = this.#keep(tokens.slice(0, staying), end);
      if (kept < staying) return false;
      if (isLast) {
        this.#showOpen(tokens.slice(staying));
        return isWhole ? this.#settleLinks(text, end) : true;
      }
      this.window = staying === 0 ? 2 * this.window : WINDOW; // a block may be longer
      if (performance.now() > end) return false;
    }
  }

  /** Makes blocks that stay, in order, while there is time. @returns {number} how many */
  #keep(tokens, end) {
    let count = 0;
    for (const token of tokens) {
      if (count > 0 && performance.now() > end) break;
      const block = this.#make(token, 0);
      block.nodes.filter((node) => node.querySelectorAll).forEach(colour);
      this.open.shift();
      this.done += token.raw.length;
      if (token.type === "def") this.links[token.tag] ??= { href: token.href, title: token.title };
      count += 1;
    }
    return count;
  }

  #showOpen(tokens) {
    tokens.forEach((token, place) => this.#make(token, place));
    for (const { nodes } of this.open.splice(tokens.length)) nodes.forEach((node) => node.remove());
  }

  /** Makes the open block at `place`, out of what stands there if it grew from that. */
  #make(token, place) {
    const old = this.open[place];
    const isSame = old?.token.raw === token.raw && old.token.type === token.type;
    const block = isSame ? old : ((old && grow(old, token)) ?? this.#build(token, place));
    this.open[place] = block;
    return block;
  }

  #build(token, place) {
    const nodes = dressed([token]);
    this.open[place]?.nodes.forEach((node) => node.remove());
    const next = this.open.slice(place + 1).flatMap((block) => block.nodes)[0] ?? null;
    for (const node of nodes) this.element.insertBefore(node, next);
    return { token, nodes };
  }

  /** Once the text has ended: a link may have been defined after it was used. */
  #settleLinks(text, end) {
    if (this.settled || Object.keys(this.links).length === 0) return true;
    this.settled = true;
    this.#restart(this.links);
    return this.show(text, true, end - performance.now());
  }
}

/**
 * Counts the blocks at the beginning that text to come cannot change: those before a block
 * whose first line is complete. Until then that line may still turn out to go on with them.
 */
function countStaying(tokens, source) {
  const complete = source.lastIndexOf("\n");
  let offset = 0;
  let staying = 0;
  tokens.forEach((token, index) => {
    const firstLine = source.indexOf("\n", offset);
    if (token.type !== "space" && firstLine !== -1 && firstLine <= complete) staying = index;
    offset += token.raw.length;
  });
  return offset === source.length ? staying : 0;
}

function dressed(tokens) {
  const fragment = build(tokens);
  setMaths(fragment);
  frame(fragment);
  return [...fragment.childNodes];
}

/** @returns {?Block} the old block with what the new one adds, null where it cannot be */
function grow(old, token) {
  if (old.token.type !== token.type) return null;
  if (token.type === "code") return growCode(old, token);
  if (token.type === "list") return growList(old, token);
  return null;
}

function growCode(old, token) {
  if (old.token.lang !== token.lang || !token.text.startsWith(old.token.text)) return null;
  const code = old.nodes[0].querySelector("code");
  if (code.classList.contains("coloured") || !code.firstChild) return null;
  code.firstChild.appendData(token.text.slice(old.token.text.length));
  return { token, nodes: old.nodes };
}

function growList(old, token) {
  const isSame = ["ordered", "start", "loose"].every((key) => old.token[key] === token[key]);
  const list = old.nodes[0];
  if (!isSame || list.children.length !== old.token.items.length) return null;
  const first = token.items.findIndex((item, place) => old.token.items[place]?.raw !== item.raw);
  const same = first === -1 ? token.items.length : first;
  const kept = 1 + 2 * same; // a line end comes first, and after each item
  while (list.childNodes.length > kept) list.lastChild.remove();
  if (same < token.items.length) {
    const [rest] = dressed([{ ...token, items: token.items.slice(same) }]);
    list.append(...[...rest.childNodes].slice(1));
  }
  return { token, nodes: old.nodes };
}
