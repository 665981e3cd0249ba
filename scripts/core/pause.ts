/** A pause before something is tried again: 0.5 s, then twice as long each time, 30 s at most. */
export class Pause {
  #seconds = 0
  #until = -Infinity
  #told = -Infinity

  /** Whether it lasts. */
  get isOn(): boolean {
    return performance.now() < this.#until
  }

  /**
   * Begins the next one.
   * @returns whether it is news: the first one since it went well, or the first one for a minute
   */
  begin(): boolean {
    this.#seconds = Math.min(this.#seconds * 2 || 0.5, 30)
    const now = performance.now()
    this.#until = now + this.#seconds * 1000
    const isNews = now - this.#told > 60_000
    if (isNews) this.#told = now
    return isNews
  }

  /** It went well: the next one is short again, and is news. */
  end(): void {
    this.#seconds = 0
    this.#told = -Infinity
  }
}
