// Waiting that ends when the caller says so, and leaves neither a timer nor a listener behind.

/** Rejects with the signal's reason where that ends it. */
export function delay(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => end(() => reject(signal?.reason as Error));
    const timer = setTimeout(() => end(resolve), ms);
    const end = (settle: () => void): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
      settle();
    };
    signal?.addEventListener('abort', stop);
    if (signal?.aborted === true) stop();
  });
}

/** What `work` gives, or else: `tooLate` after so long, the signal's reason where that ends it. Both end the work's signal. */
export async function within<T>(
  ms: number,
  { signal, tooLate }: { readonly signal: AbortSignal | undefined; readonly tooLate: () => Error },
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const ending = new AbortController();
  const timer = setTimeout(() => ending.abort(tooLate()), ms);
  const stop = (): void => ending.abort(signal?.reason);
  signal?.addEventListener('abort', stop);
  const ended = new Promise<never>((_, reject) => {
    ending.signal.addEventListener('abort', () => reject(ending.signal.reason as Error));
  });
  try {
    return await Promise.race([work(ending.signal), ended]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
  }
}
