// Waiting that ends when the caller says so, and leaves neither a timer nor a listener behind.

/** Some 24 days: a timer that is given more fires at once, and Infinity means never. */
const TIMER_MS_MAX = 2 ** 31 - 1;
const after = (ms: number, then: () => void): ReturnType<typeof setTimeout> =>
  setTimeout(then, Math.min(ms, TIMER_MS_MAX));

/** Rejects with the signal's reason if that ends it. */
export function delay(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => end(() => reject(signal?.reason as Error));
    const timer = after(ms, () => end(resolve));
    const end = (settle: () => void): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
      settle();
    };
    signal?.addEventListener('abort', stop);
    if (signal?.aborted === true) stop();
  });
}

/** The time that is left, for work that knows whether it goes on. */
export type Clock = {
  /** Stands still until it is restarted. */
  stop(): void;
  /** Begins anew, with this much time. */
  restart(ms: number): void;
};

/** What `work` gives, or `tooLate` after `ms`, or the signal's reason if that ends it. Both end the work's signal. */
export async function within<T>(
  ms: number,
  { signal, tooLate }: { readonly signal: AbortSignal | undefined; readonly tooLate: (ms: number) => Error },
  work: (signal: AbortSignal, clock: Clock) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const ending = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isOver = false;
  const clock: Clock = {
    stop: () => clearTimeout(timer),
    restart: (leftMs) => {
      clearTimeout(timer);
      if (!isOver) timer = after(leftMs, () => ending.abort(tooLate(leftMs)));
    },
  };
  clock.restart(ms);
  const stop = (): void => ending.abort(signal?.reason);
  signal?.addEventListener('abort', stop);
  const ended = new Promise<never>((_, reject) => {
    ending.signal.addEventListener('abort', () => reject(ending.signal.reason as Error));
  });
  try {
    return await Promise.race([work(ending.signal, clock), ended]);
  } finally {
    isOver = true;
    clock.stop();
    signal?.removeEventListener('abort', stop);
  }
}
