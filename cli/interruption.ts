import { constants } from 'node:os';

/** Ctrl-C, or a SIGTERM, ends what runs in an orderly way. A second one ends the process at once. */
export type Interruption = {
  readonly signal: AbortSignal;
  readonly isThere: () => boolean;
  /** From here on an interruption ends the process at once. */
  stop(): void;
  /** Ends the process as its caller expects of an interrupted program; does nothing if it was not interrupted. */
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
      if (by === undefined) return;
      process.kill(process.pid, by);
      // Still here: the first process of a container, as in our image, which the kernel does not end by its own signal. It went on,
      // and ended with the code for "done".
      process.exit(128 + constants.signals[by]);
    },
  };
}
