/** Ctrl-C, or a SIGTERM: what runs is ended in an orderly way. A second one ends the process at once. */
export type Interruption = {
  readonly signal: AbortSignal;
  readonly isThere: () => boolean;
  /** From here on it ends the process at once. */
  stop(): void;
  /** Ends the process as whoever started it expects of a program that was interrupted; nothing where it was not. */
  pass(): void;
};

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

export function untilInterrupted(): Interruption {
  const ending = new AbortController();
  let by: NodeJS.Signals | undefined;
  const end = (signal: NodeJS.Signals): void => {
    by = signal;
    ending.abort(new Error(signal));
  };
  for (const signal of SIGNALS) process.once(signal, end);
  return {
    signal: ending.signal,
    isThere: () => by !== undefined,
    stop: () => {
      for (const signal of SIGNALS) process.off(signal, end);
    },
    pass: () => {
      if (by !== undefined) process.kill(process.pid, by);
    },
  };
}
