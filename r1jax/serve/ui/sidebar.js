// The list of conversations: open, rename, delete (and undo), search, export, import.

import { fromJson, titleOf, toJson } from "./conversation.js";
import { h, iconButton, toast } from "./dom.js";

export class Sidebar {
  /**
   * @param {import("./store.js").Store} store
   * @param {{onopen: function(string): void, ongone: function(string): void,
   *   onback: function(string): void, onrename: function(Object): void}} actions
   */
  constructor(store, actions) {
    this.store = store;
    this.actions = actions;
    this.current = null;
    this.list = document.getElementById("conversations");
    this.search = document.getElementById("search");
    this.search.addEventListener("input", () => this.refresh());
    this.file = document.getElementById("import-file");
    this.file.addEventListener("change", () => this.#import(this.file.files[0]));
    document.getElementById("export").addEventListener("click", () => this.#export());
    document.getElementById("import").addEventListener("click", () => this.file.click());
  }

  /** Lists again what the store holds. */
  async refresh(current = this.current) {
    this.current = current;
    const words = this.search.value.trim();
    const [all, found] = await Promise.all([this.store.list(), words ? this.store.search(words) : null]);
    const shown = found ? all.filter(({ id }) => found.has(id)) : all;
    const empty = h("li.empty", {}, words ? "Nothing found" : "No conversations yet");
    this.list.replaceChildren(...(shown.length ? shown.map((item) => this.#row(item)) : [empty]));
  }

  #row({ id, title }) {
    const open = h("button.open", { type: "button", title, onclick: () => this.actions.onopen(id) }, title);
    if (id === this.current) open.setAttribute("aria-current", "true");
    const row = h("li", {}, open);
    row.append(
      iconButton("edit", `Rename “${title}”`, () => this.#rename(row, id, title)),
      iconButton("trash", `Delete “${title}”`, () => this.#delete(id, title)),
    );
    return row;
  }

  #rename(row, id, title) {
    const input = h("input", { "aria-label": "New name", maxlength: 100 });
    input.value = title;
    let isLeft = false;
    const leave = async (isWanted) => {
      if (isLeft) return;
      isLeft = true;
      const conversation = await this.store.get(id);
      if (isWanted && input.value.trim() && conversation) {
        conversation.title = titleOf(input.value);
        await this.store.put(conversation);
        this.store.tell(id);
        this.actions.onrename(conversation);
      }
      await this.refresh();
    };
    input.addEventListener("keydown", (event) => {
      if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
      event.stopPropagation();
      leave(event.key === "Enter");
    });
    input.addEventListener("blur", () => leave(true));
    row.replaceChildren(input);
    input.select();
  }

  async #delete(id, title) {
    this.actions.ongone(id); // first, so that an answer that still comes is kept no more
    const conversation = await this.store.get(id);
    await this.store.remove(id);
    this.store.tell(id);
    await this.refresh();
    const act = async () => {
      this.actions.onback(id);
      await this.store.put(conversation);
      this.store.tell(id);
      await this.refresh();
    };
    toast(`Deleted “${title}”`, { label: "Undo", act });
  }

  async #export() {
    const text = toJson(await this.store.all());
    const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    const day = new Date().toISOString().slice(0, 10);
    h("a", { href: url, download: `r1jax-conversations-${day}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  async #import(file) {
    this.file.value = "";
    let count = 0;
    try {
      for (const conversation of fromJson(await file.text())) {
        await this.store.put(conversation);
        count += 1;
      }
      toast(`Imported ${count} conversation${count === 1 ? "" : "s"}`);
    } catch (error) {
      toast(`Imported ${count}, then stopped: ${error.message}`);
    }
    await this.refresh();
  }
}

/** Opens and closes the list on narrow screens. */
export function toggleSidebar(isOpen = !document.body.classList.contains("listing")) {
  document.body.classList.toggle("listing", isOpen);
  document.getElementById("menu").setAttribute("aria-expanded", String(isOpen));
}
