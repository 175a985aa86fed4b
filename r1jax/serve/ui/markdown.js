// From what a model writes to elements. A model may write anything, so: raw HTML is text;
// links go to http, https and mailto alone; images are links, for a picture from another
// host would tell it who reads. DOMPurify then lets pass only what is listed here.

import { Lexer, Marked } from "./vendor/marked-18.2.1/marked.esm.js";
import "./vendor/dompurify-3.4.18/purify.min.js";

const { DOMPurify } = globalThis;

const ALLOWED = {
  ALLOWED_TAGS: [
    ..."a blockquote br code del div em h1 h2 h3 h4 h5 h6 hr li ol p pre span strong".split(" "),
    ..."table tbody td th thead tr ul".split(" "),
  ],
  ALLOWED_ATTR: ["align", "class", "href", "rel", "start", "target", "title"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["align", "rel", "start", "target"],
  RETURN_DOM_FRAGMENT: true,
};

/** Characters that maths may span; an opening sign without an end soon is a plain sign. */
const LONGEST_MATHS = 4000;
const within = (open, close) => String.raw`${open}((?:(?!${close})[^]){1,${LONGEST_MATHS}}?)${close}`;
const DOLLARS = within(String.raw`\$\$`, String.raw`\$\$`);
const BRACKETS = within(String.raw`\\\[`, String.raw`\\\]`);
const ROUND = within(String.raw`\\\(`, String.raw`\\\)`);
const BLOCK = new RegExp(String.raw`^ {0,3}(?:${DOLLARS}|${BRACKETS})[ \t]*(?:\n|$)`);
const BLOCK_OPENS = /^ {0,3}(?:\$\$(?![^]*\$\$)|\\\[(?![^]*\\\]))/;
const INLINE = [
  [new RegExp(`^${BRACKETS}`), true],
  [new RegExp(`^${DOLLARS}`), true],
  [new RegExp(`^${ROUND}`), false],
  // As pandoc has it, so that "$5 and $6" are prices.
  [/^\$(?!\s)((?:\\[^]|[^\\$\n]){1,400}?)(?<!\s)\$(?!\d)/, false],
];

/** Whether more text may come, so that maths without its end is not yet plain text. */
let isOpenEnded = false;

const blockMaths = {
  name: "blockMaths",
  level: "block",
  start: (source) => source.match(/(?<=^|\n) {0,3}(?:\$\$|\\\[)/)?.index,
  tokenizer(source) {
    const closed = BLOCK.exec(source);
    if (closed) return { type: "blockMaths", raw: closed[0], tex: closed[1] ?? closed[2] };
    if (isOpenEnded && source.length < LONGEST_MATHS && BLOCK_OPENS.test(source)) {
      return { type: "blockMaths", raw: source, tex: source, isPending: true };
    }
    return undefined;
  },
  renderer: ({ tex, isPending }) =>
    isPending ? `<p class="pending">${escape(tex)}</p>` : `<div class="maths display">${escape(tex)}</div>`,
};

const inlineMaths = {
  name: "inlineMaths",
  level: "inline",
  start: (source) => source.match(/\$|\\\(|\\\[/)?.index,
  tokenizer(source) {
    for (const [pattern, isDisplay] of INLINE) {
      const found = pattern.exec(source);
      if (found) return { type: "inlineMaths", raw: found[0], tex: found[1], isDisplay };
    }
    return undefined;
  },
  renderer: ({ tex, isDisplay }) => `<span class="maths${isDisplay ? " display" : ""}">${escape(tex)}</span>`,
};

const marked = new Marked({
  gfm: true,
  extensions: [blockMaths, inlineMaths],
  tokenizer: { html: () => undefined },
  renderer: {
    html: ({ text }) => (/^<br\s*\/?>$/i.test(text) ? "<br>" : escape(text)),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    link({ href, title, tokens }) {
      return link(href, title, this.parser.parseInline(tokens));
    },
    image: ({ href, title, text }) => link(href, title, escape(text || "image")),
    code: ({ text, lang }) =>
      `<pre><code class="language-${(lang ?? "").match(/^[\w+#.-]*/)[0]}">${escape(text)}</code></pre>`,
  },
});

function link(href, title, label) {
  if (!/^(?:https?|mailto):/i.test(href)) return label;
  const shown = title ? ` title="${escape(title)}"` : "";
  return `<a href="${escape(href)}"${shown} target="_blank" rel="noopener noreferrer nofollow">${label}</a>`;
}

function escape(text) {
  const names = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return text.replace(/[&<>"']/g, (letter) => names[letter]);
}

/**
 * Cuts markdown into blocks.
 * @param {string} source
 * @param {boolean} isWhole whether nothing will follow
 * @param {Object} links definitions of links that stood before
 * @returns {{type: string, raw: string}[]} whose raw texts join to the source
 */
export function cut(source, isWhole, links) {
  isOpenEnded = !isWhole;
  const lexer = new Lexer(marked.defaults);
  Object.assign(lexer.tokens.links, links);
  return orPlain(
    () => [...lexer.lex(source)],
    () => [{ type: "plain", raw: source }],
  );
}

/** @returns {DocumentFragment} the elements of some blocks; maths is still TeX */
export function build(tokens) {
  const plain = () => tokens.map(({ raw }) => `<p class="pending">${escape(raw)}</p>`).join("");
  const isPlain = tokens.some(({ type }) => type === "plain");
  return purify(isPlain ? plain() : orPlain(() => marked.parser(tokens), plain));
}

/** Marked calls itself for what is nested; what is nested too deeply is shown as written. */
function orPlain(make, otherwise) {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return otherwise();
  }
}

/** @returns {DocumentFragment} the harmless part of some HTML */
export function purify(html) {
  return DOMPurify.sanitize(html, ALLOWED);
}
