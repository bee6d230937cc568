/** Wakes everybody who waits; a wait also ends after a time, since other processes cannot wake it. */
export class Bell {
  readonly #waiting = new Set<() => void>();
  ring(): void {
    for (const wake of [...this.#waiting]) wake();
  }
  wait(ms: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', wake);
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      signal.addEventListener('abort', wake, { once: true });
      this.#waiting.add(wake);
    });
  }
}
