// Making elements, and the few things of the browser that every view needs.

/**
 * Makes an element. Strings become text, never markup.
 * @param {string} tag such as "button.icon.copy"
 * @param {Object<string, *>} [props] attributes; a function under "onclick" etc. listens
 * @param {...(Node|string|null)} children
 * @returns {HTMLElement}
 */
export function h(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** @returns {SVGElement} a symbol of the sprite in index.html */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** @returns {HTMLButtonElement} a button that shows a symbol and says its name */
export function iconButton(name, label, onclick) {
  return h("button.icon", { type: "button", "aria-label": label, title: label, onclick }, icon(name));
}

/** @returns {string} a random name; crypto.randomUUID is for secure pages only */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Copies text, also where the page came over plain http and has no clipboard. */
export async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = h("textarea.offscreen", { readonly: true });
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  if (!done) throw new Error("the browser does not let this page copy");
}

/** @returns {HTMLButtonElement} copies what `text()` gives, and shows that it did */
export function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    try {
      await copy(text());
      button.replaceChildren(icon("check"));
      announce("Copied");
    } catch (error) {
      toast(`Not copied: ${error.message}`);
    }
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

/** Tells a screen reader, when it has nothing else to say. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

/**
 * Shows a line at the foot of the page for some seconds.
 * @param {string} text
 * @param {{label: string, act: function(): void}} [action] offered as a button
 */
export function toast(text, action) {
  const box = document.getElementById("toasts");
  const line = h("div.toast", {}, text);
  if (action) {
    const act = () => {
      line.remove();
      action.act();
    };
    line.append(h("button", { type: "button", onclick: act }, action.label));
  }
  box.replaceChildren(line);
  setTimeout(() => line.remove(), action ? 8000 : 5000);
}
