// Follows the end of a growing page until the reader scrolls away from it.

const NEAR = 40; // pixels from the end that count as the end

export class Follower {
  /**
   * @param {HTMLElement} scroller
   * @param {HTMLElement} content what grows in it
   * @param {HTMLButtonElement} button takes the reader back to the end
   */
  constructor(scroller, content, button) {
    this.scroller = scroller;
    this.button = button;
    this.follows = true;
    this.last = 0;
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    scroller.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && this.#leave(), { passive: true });
    button.addEventListener("click", () => this.toEnd());
    const observer = new ResizeObserver(() => this.#grew());
    observer.observe(scroller);
    observer.observe(content);
  }

  #grew() {
    if (this.follows) this.scroller.scrollTop = this.scroller.scrollHeight;
    else this.#showButton();
  }

  /** Stays at the beginning, for what is to be read from there. */
  toStart() {
    this.follows = false;
    this.scroller.scrollTop = 0;
  }

  toEnd() {
    this.follows = true;
    this.#grew();
    this.button.hidden = true;
  }

  #scrolled() {
    const { scrollTop } = this.scroller;
    if (this.#distance() < NEAR) this.follows = true;
    else if (scrollTop < this.last - 2) this.follows = false;
    this.last = scrollTop;
    this.#showButton();
  }

  #leave() {
    if (this.scroller.scrollHeight > this.scroller.clientHeight) this.follows = false;
  }

  #showButton() {
    this.button.hidden = this.follows || this.#distance() < NEAR;
  }

  #distance() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight;
  }
}
