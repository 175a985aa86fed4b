// The box in which questions are written, and what stands around it.

const TALLEST = 240; // pixels, then it scrolls

export class Composer {
  /** @param {{onsend: function(string): void, onstop: function(): void, onthink: function(boolean): void}} actions */
  constructor(actions) {
    this.actions = actions;
    this.area = document.getElementById("question");
    this.send = document.getElementById("send");
    this.stop = document.getElementById("stop");
    this.think = document.getElementById("think");
    this.area.addEventListener("input", () => this.#fit());
    this.area.addEventListener("keydown", (event) => this.#key(event));
    this.send.addEventListener("click", () => this.submit());
    this.stop.addEventListener("click", () => actions.onstop());
    this.think.addEventListener("click", () => {
      this.setThinking(this.think.getAttribute("aria-pressed") !== "true");
      actions.onthink(this.think.getAttribute("aria-pressed") === "true");
    });
    this.#fit();
  }

  /** While an answer comes, the button stops it; what is typed waits. */
  setRunning(isRunning) {
    this.isRunning = isRunning;
    this.send.hidden = isRunning;
    this.stop.hidden = !isRunning;
  }

  setThinking(isOn) {
    this.think.setAttribute("aria-pressed", String(isOn));
  }

  /** Switches the switch itself off, for a model that cannot think. */
  setReasons(reasons) {
    this.think.disabled = !reasons;
    this.think.title = reasons
      ? "Let the model think before it answers"
      : "This model answers at once: it was not trained to think first";
    if (!reasons) this.setThinking(false);
  }

  submit() {
    const text = this.area.value.trim();
    if (!text || this.isRunning) return;
    this.area.value = "";
    this.#fit();
    this.actions.onsend(text.toWellFormed());
  }

  focus() {
    this.area.focus({ preventScroll: true });
  }

  #key(event) {
    // While letters are composed (Chinese, Japanese), Enter chooses one of them.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.submit();
  }

  #fit() {
    this.area.style.height = "auto";
    this.area.style.height = `${Math.min(this.area.scrollHeight, TALLEST)}px`;
    this.send.disabled = !this.area.value.trim();
  }
}
