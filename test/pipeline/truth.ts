// Watches whether Abide ever claims better than the truth. The truth is what the stores themselves hold.
import { STORES } from './system.ts';
import type { Deployment, StoreName } from './system.ts';

/** Clocks are one machine's, cut to milliseconds. */
const ROUNDING_MS = 2;

export type Truth = {
  /** An opt-out that was answered 2xx, just now. */
  answered(email: string, scopes?: readonly string[], recordedAt?: number): void;
  /** Somebody consents again, from now on: whether a store still suppresses them is no longer checked. */
  lifted(email: string): void;
  /**
   * Somebody changed this store past Abide, just now. Nothing can be said any more of what was recorded before: until it has
   * looked, Abide cannot know. (An answer may come late: what it tells may have been in the store and gone by then.)
   */
  tampered(store: StoreName): void;
  /** Stops looking; gives every lie that was told, how many samples were taken, and how many could have shown a lie. */
  stop(): Promise<{ readonly lies: readonly string[]; readonly samples: number; readonly telling: number }>;
};

/**
 * Samples the lag again and again. Anything that was answered 2xx before a sample was asked for, and is not in a store after the
 * sample was answered, must be outstanding in it, and at least as old as it is. A sample that is refused or not answered claims
 * nothing.
 */
export function watchTruth(system: Deployment): Truth {
  type Entry = { readonly email: string; readonly scopes: readonly string[]; readonly answeredAt: number };
  const open = new Map<StoreName, Set<Entry>>(STORES.map((name) => [name, new Set()]));
  const tamperedAt = new Map<StoreName, number>();
  const lies: string[] = [];
  let samples = 0;
  let telling = 0;
  let stopping = false;

  /** The oldest of these that the store does not hold now; what it holds is no longer watched. */
  async function oldestMissing(name: StoreName, entries: readonly Entry[]): Promise<Entry | undefined> {
    const [first] = entries;
    if (first === undefined) return undefined;
    const isMissing = ({ scopes }: Entry, held: readonly string[] | undefined): boolean =>
      !scopes.every((scope) => held?.includes(scope) === true);
    // Mostly the first one tells already; if that one has come, all are looked up at once.
    let missing: Entry | undefined;
    if (isMissing(first, await system.stores[name].held(first.email))) {
      missing = first;
    } else {
      const contents = await system.stores[name].contents();
      const wanting = entries.filter((entry) => isMissing(entry, contents.get(entry.email)?.suppressed));
      for (const entry of entries) if (!wanting.includes(entry)) open.get(name)!.delete(entry);
      missing = wanting[0];
    }
    // The store may have been tampered with while it was looked into.
    return missing !== undefined && open.get(name)!.has(missing) ? missing : undefined;
  }

  async function sample(): Promise<void> {
    const asked = new Map(STORES.map((name) => [name, [...open.get(name)!]]));
    const lag = await system.lag().catch(() => undefined);
    for (const [name, entries] of asked) {
      const entry = await oldestMissing(name, entries);
      if (entry === undefined || lag === undefined) continue;
      samples += 1;
      const claimed = lag.stores.find(({ store }) => store === name)!;
      const ageMs = Date.parse(lag.as_of) - ROUNDING_MS - entry.answeredAt;
      if (ageMs <= 0) continue;
      telling += 1;
      const claimedMs = (claimed.oldest_outstanding_seconds ?? Infinity) * 1_000;
      // The back-fill shows what a store that is being filled anew still lacks; it is not counted one by one.
      if (claimed.backfill === null && (claimedMs < ageMs || claimed.outstanding === 0)) {
        lies.push(
          `${name}: claims ${claimedMs} ms, ${claimed.outstanding} outstanding; ${entry.email} is ${ageMs} ms old`,
        );
      }
      if (claimed.status === 'ok' && ageMs > 1_000)
        lies.push(`${name}: ok, and ${entry.email} is ${ageMs} ms old`);
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
    answered: (email, scopes = ['email'], recordedAt = Date.now()) => {
      const entry = { email, scopes, answeredAt: Date.now() };
      for (const [name, entries] of open)
        if (recordedAt - ROUNDING_MS > (tamperedAt.get(name) ?? 0)) entries.add(entry);
    },
    lifted: (email) => {
      for (const entries of open.values())
        for (const entry of entries) if (entry.email === email) entries.delete(entry);
    },
    tampered: (name) => {
      tamperedAt.set(name, Date.now());
      open.get(name)!.clear();
    },
    stop: async () => {
      stopping = true;
      await looking;
      return { lies, samples, telling };
    },
  };
}
