import { AbideError } from '../suppression/errors.ts';

/** As long as the pool has anybody wait for a connection. */
const WAIT_MS_MAX = 3_000;

export type Turns = <T>(work: () => Promise<T>) => Promise<T>;

/**
 * At most `most` at once; whoever comes next waits for its turn, in order of arrival. Of one pool each kind of caller has so many
 * connections: a flood of one leaves the others theirs. Throws AbideError('overloaded').
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
      // Handed on, and so never taken by somebody who came later.
      const [next] = waiting;
      if (next === undefined) underWay -= 1;
      else next();
    }
  };
}
