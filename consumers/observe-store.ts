// Is it still the store that it was? The worker looks at what the store says it is, and whether it still holds the newest canary.
// The ledger judges, with the next sign of life: an acknowledgement belongs to what the store was at the time.
import { setTimeout as delay } from 'node:timers/promises';
import type { Log, Store } from '../connectors/contract/connector.ts';
import { differenceOf } from '../suppression/acknowledgement.ts';
import type { StoreObservation } from '../suppression/acknowledgement.ts';
import type { StoreScopes } from '../suppression/scope.ts';
import { toHeld } from './carried.ts';
import type { LedgerAccess } from './ledger-access.ts';
import { failureCode, ownWords } from './next-step.ts';
import type { createAddressOpener } from './open-addresses.ts';
import type { StoreReach, WorkerStore } from './reach-store.ts';

/** How often the store is looked at. */
const OBSERVE_MS = 2_000;

type Observed = { readonly generation: number; readonly store: StoreObservation };

export function createStoreObserver({
  store: { name, connector, makeKey },
  held,
  reach,
  ledger,
  addressOf,
  log,
  signal,
}: {
  store: WorkerStore;
  held: StoreScopes;
  reach: StoreReach;
  ledger: Pick<LedgerAccess, 'canary'>;
  addressOf: ReturnType<typeof createAddressOpener>;
  log: Log;
  signal: AbortSignal;
}) {
  /** The subject of the canaries, as of the last look. */
  let canarySubject: string | undefined;
  let hasLooked = false;
  let observed: Observed | undefined;
  let isAway = false;
  let saysWhich = true;

  async function observe(generation: number): Promise<void> {
    try {
      const open = await reach.open();
      // A store that does not tell us (a role that may not ask, say) still has the canary.
      const incarnation = await askIncarnation(open);
      const canary = await lookAtCanary(open);
      // A loss stays reported for as long as the generation lasts: the next canary would cover it up.
      const lost = observed?.generation === generation && observed.store.canary === 'lost';
      observed = { generation, store: { incarnation, canary: lost ? 'lost' : canary } };
      isAway = false;
      hasLooked = true;
    } catch {
      // A store or a ledger that is away says nothing of what the store is; others report that it is away.
      isAway = true;
    }
  }

  async function askIncarnation(open: Store): Promise<StoreObservation['incarnation']> {
    try {
      const incarnation = await reach.call(async (deadline) => open.incarnation?.(deadline));
      saysWhich = true;
      return incarnation;
    } catch (error) {
      if (saysWhich)
        log.warn(
          { store: name, code: failureCode(error), reason: ownWords(error) },
          'the store does not say which one it is: only its canary shows whether it still is that',
        );
      saysWhich = false;
      return undefined;
    }
  }

  /** Asks the ledger before it reads the store: what comes in between can only be newer. */
  async function lookAtCanary(open: Store): Promise<StoreObservation['canary']> {
    if (connector.evidence !== 'read_back') return undefined;
    const canary = await ledger.canary(signal);
    canarySubject = canary?.subjectId;
    if (canary === undefined) return undefined;
    const address = await addressOf(canary);
    if ('not' in address) return undefined;
    const key = { kind: canary.kind, key: makeKey(address.value) };
    const [answer] = await reach.call((deadline) => open.readBack([key], deadline));
    const difference = differenceOf(canary, held, answer && toHeld(answer));
    return difference === 'missing' || difference === 'older' ? 'lost' : 'held';
  }

  return {
    observe,
    /** Runs until `signal` aborts. `generation` is undefined while the store is better left alone. */
    async observeAlways(generation: () => number | undefined): Promise<void> {
      while (!signal.aborted) {
        await delay(OBSERVE_MS, undefined, { signal }).catch(() => undefined);
        const of = generation();
        if (of !== undefined && !signal.aborted) await observe(of);
      }
    },
    /** Whether the store could not be asked at the last look. */
    isAway: (): boolean => isAway,
    /** Before the first look anybody may be: a worker that just started may carry the next one first. */
    mayBeCanary: (subjectId: string): boolean => !hasLooked || subjectId === canarySubject,
    /** What is still to be told of the store in this generation; undefined: nothing new. */
    untold: (generation: number): Observed | undefined =>
      observed?.generation === generation ? observed : undefined,
    /** What was seen meanwhile is kept for the next time. */
    told(one: Observed | undefined): void {
      // That the ledger was told of a loss is not yet that it began a new generation.
      if (observed === one && one?.store.canary !== 'lost') observed = undefined;
    },
  };
}
