/** Ctrl-C, or a SIGTERM: what runs is ended in an orderly way. A second one ends the process at once. */
export type Interruption = {
  readonly signal: AbortSignal;
  readonly isThere: () => boolean;
  /** Ends the process as whoever started it expects of a program that was interrupted; nothing where it was not. */
  pass(): void;
};

export function untilInterrupted(): Interruption {
  const ending = new AbortController();
  let by: NodeJS.Signals | undefined;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      by = signal;
      ending.abort(new Error(signal));
    });
  }
  return {
    signal: ending.signal,
    isThere: () => by !== undefined,
    pass: () => {
      if (by !== undefined) process.kill(process.pid, by);
    },
  };
}
