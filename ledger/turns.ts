import { AbideError } from '../suppression/errors.ts';

/** As long as the pool lets anybody wait for a connection. */
const WAIT_MS_MAX = 3_000;

export type Turns = <T>(work: () => Promise<T>) => Promise<T>;

/**
 * Runs at most `most` at once; later callers wait for their turn, in order of arrival. Each kind of caller has so many connections
 * of one pool: a flood of one leaves the others theirs. Throws AbideError('overloaded').
 */
export function createTurns(most: number, waitMsMax = WAIT_MS_MAX): Turns {
  let underWay = 0;
  const waiting = new Set<() => void>();

  const turn = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const begin = (): void => {
        clearTimeout(late);
        waiting.delete(begin);
        resolve();
      };
      const late = setTimeout(() => {
        waiting.delete(begin);
        reject(new AbideError('overloaded', undefined, { retryAfterSeconds: 1 }));
      }, waitMsMax);
      waiting.add(begin);
    });

  return async (work) => {
    if (underWay < most) underWay += 1;
    else await turn();
    try {
      return await work();
    } finally {
      // The turn is handed on, so that a later caller never takes it.
      const [next] = waiting;
      if (next === undefined) underWay -= 1;
      else next();
    }
  };
}
