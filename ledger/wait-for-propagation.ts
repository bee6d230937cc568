// Waits until every required store has confirmed an opt-out, without holding a connection. What this process itself settles is
// noticed at once; what another process settles, at the next look. Looks gather: while one is under way the next ones wait for it
// together.
import { rememberLast } from '../suppression/remember-last.ts';
import type { Propagation } from './contract/propagation.ts';

/**
 * How soon another process' acknowledgement is noticed: at first, and after many looks. Otherwise everybody who waits for a store
 * that is away would keep the ledger busy ten times a second.
 */
const LOOK_MS = 100;
const LOOK_MS_MAX = 1_000;
/** At least this many of the decisions settled last are remembered. */
const REMEMBERED = 5_000;

/** A decision, and the stores that must settle it. */
type Awaited = { readonly seq: number; readonly awaited: readonly string[] };

export type PropagationWatch = {
  /** To be called when a store has just settled these decisions. */
  settled(store: string, seqs: readonly number[]): void;
  /**
   * The propagation once it is no longer pending, or as it is when the time is over or nobody waits any more. What was decided just
   * now, `fresh`, is not looked for before its stores have settled it.
   */
  wait(
    optOutId: string,
    waitMs: number,
    signal: AbortSignal,
    fresh?: readonly Awaited[],
  ): Promise<Propagation>;
};

export function createPropagationWatch(
  look: (optOutIds: readonly string[]) => Promise<ReadonlyMap<string, Propagation>>,
): PropagationWatch {
  // What was settled last while anybody waits, so that a decision settled between a look and the wait after it is not missed.
  const settledBy = rememberLast<number, ReadonlySet<string>>(REMEMBERED);
  let waits = 0;
  const waiting = new Map<number, Set<() => void>>();
  const lookAt = gather(look);

  /** Resolves once each of these stores has settled each decision beyond what `known` has, or the time is over. */
  function untilSettled(
    { decisions, known }: { decisions: readonly Awaited[]; known: ReadonlyMap<number, ReadonlySet<string>> },
    ms: number,
    signal: AbortSignal,
  ): Promise<void> {
    const all = (): boolean =>
      decisions.every(({ seq, awaited }) =>
        awaited.every(
          (store) => settledBy.get(seq)?.has(store) === true && known.get(seq)?.has(store) !== true,
        ),
      );
    if (all() || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = (): void => {
        if (all()) end();
      };
      const end = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', end);
        for (const { seq } of decisions) {
          const woken = waiting.get(seq);
          woken?.delete(wake);
          if (woken?.size === 0) waiting.delete(seq);
        }
        resolve();
      };
      const timer = setTimeout(end, ms);
      signal.addEventListener('abort', end, { once: true });
      for (const { seq } of decisions) waiting.set(seq, (waiting.get(seq) ?? new Set()).add(wake));
    });
  }

  async function untilPropagated(
    id: string,
    waitMs: number,
    signal: AbortSignal,
    fresh: readonly Awaited[],
  ): Promise<Propagation> {
    const until = performance.now() + waitMs;
    const due = fresh.filter(({ awaited }) => awaited.length > 0);
    if (due.length > 0 && waitMs > 0)
      await untilSettled({ decisions: due, known: new Map() }, Math.min(waitMs, LOOK_MS), signal);
    // What was settled before the last look. That look shows whether it counted: a settlement of another generation does not.
    let known: ReadonlyMap<number, ReadonlySet<string>> = new Map();
    for (let pauseMs = LOOK_MS; ; pauseMs = Math.min(LOOK_MS_MAX, 2 * pauseMs)) {
      const propagation = await lookAt(id);
      if (propagation === undefined) throw new Error('an opt-out without a decision');
      const left = until - performance.now();
      if (propagation.state !== 'pending' || left <= 0 || signal.aborted) return propagation;
      const decisions = awaitedOf(propagation);
      await untilSettled({ decisions, known }, Math.min(left, pauseMs), signal);
      known = new Map(decisions.map(({ seq }) => [seq, new Set(settledBy.get(seq))]));
    }
  }

  return {
    settled: (store, seqs) => {
      if (waits === 0) return;
      for (const seq of seqs) {
        settledBy.set(seq, new Set([...(settledBy.get(seq) ?? []), store]));
        for (const wake of [...(waiting.get(seq) ?? [])]) wake();
      }
    },
    wait: async (id, waitMs, signal, fresh = []) => {
      waits += 1;
      try {
        return await untilPropagated(id, waitMs, signal, fresh);
      } finally {
        waits -= 1;
      }
    },
  };
}

/** The decisions because of which an opt-out is not complete, each with the stores that still owe it. */
function awaitedOf({ stores }: Propagation): Awaited[] {
  const owed = stores
    .filter(({ required }) => required)
    .flatMap(({ store, decisions }) =>
      decisions
        .filter(({ state }) => ['pending', 'quarantined', 'paused'].includes(state))
        .map(({ seq }) => ({ seq, store })),
    );
  return [...Map.groupBy(owed, ({ seq }) => seq)].map(([seq, group]) => ({
    seq,
    awaited: group.map(({ store }) => store),
  }));
}

function gather(
  look: (ids: readonly string[]) => Promise<ReadonlyMap<string, Propagation>>,
): (id: string) => Promise<Propagation | undefined> {
  let next = new Map<string, PromiseWithResolvers<Propagation | undefined>>();
  let underWay = false;
  async function lookAtAll(): Promise<void> {
    underWay = true;
    while (next.size > 0) {
      const asked = next;
      next = new Map();
      try {
        const found = await look([...asked.keys()]);
        for (const [id, { resolve }] of asked) resolve(found.get(id));
      } catch (error) {
        for (const { reject } of asked.values()) reject(error);
      }
    }
    underWay = false;
  }
  return (id) => {
    const asked = next.get(id) ?? Promise.withResolvers<Propagation | undefined>();
    next.set(id, asked);
    if (!underWay) void lookAtAll();
    return asked.promise;
  };
}
