// Watches whether Abide ever claims better than the truth. The truth is what the stores themselves hold.
import { STORES } from './system.ts';
import type { Deployment, StoreName } from './system.ts';

/** Clocks are one machine's, cut to milliseconds. */
const ROUNDING_MS = 2;

export type Truth = {
  /** An opt-out that was answered 2xx, just now. */
  answered(email: string): void;
  /** Stops looking; gives every lie that was told, and how many samples were taken and how many could have shown one. */
  stop(): Promise<{ readonly lies: readonly string[]; readonly samples: number; readonly telling: number }>;
};

/**
 * Samples the lag again and again. Whatever was answered 2xx before a sample was asked for, and is not in a store after
 * the sample was answered, must be outstanding in it, and at least as old as it is. A sample that is refused or not
 * answered claims nothing.
 */
export function watchTruth(system: Deployment): Truth {
  const open = new Map<StoreName, Map<string, number>>(STORES.map((name) => [name, new Map()]));
  const lies: string[] = [];
  let samples = 0;
  let telling = 0;
  let stopping = false;

  async function sample(): Promise<void> {
    const oldest = new Map(STORES.map((name) => [name, [...open.get(name)!.entries()][0]]));
    const lag = await system.lag().catch(() => undefined);
    for (const [name, entry] of oldest) {
      if (entry === undefined) continue;
      const [email, answeredAt] = entry;
      const held = await system.stores[name].held(email);
      if (held?.includes('email') === true) {
        open.get(name)!.delete(email);
        continue;
      }
      if (lag === undefined) continue;
      samples += 1;
      const claimed = lag.stores.find(({ store }) => store === name)!;
      const ageMs = Date.parse(lag.as_of) - ROUNDING_MS - answeredAt;
      if (ageMs <= 0) continue;
      telling += 1;
      const claimedMs = (claimed.oldest_outstanding_seconds ?? Infinity) * 1_000;
      if (claimedMs < ageMs || claimed.outstanding === 0) {
        lies.push(
          `${name}: claims ${claimedMs} ms, ${claimed.outstanding} outstanding; one is ${ageMs} ms old`,
        );
      }
      if (claimed.status === 'ok' && ageMs > 1_000) lies.push(`${name}: ok, and one is ${ageMs} ms old`);
    }
  }

  const looking = (async () => {
    while (!stopping) {
      await sample();
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  // A store that cannot be looked into fails the test at stop(), not the process before.
  looking.catch(() => undefined);
  return {
    answered: (email) => {
      for (const name of STORES) open.get(name)!.set(email, Date.now());
    },
    stop: async () => {
      stopping = true;
      await looking;
      return { lies, samples, telling };
    },
  };
}
