// Is it still the store that it was? What it says that it is, and whether it still holds the newest canary. The ledger judges,
// with the next sign of life: what was acknowledged belongs to what the store then was.
import { setTimeout as delay } from 'node:timers/promises';
import type { Store } from '../connectors/contract/connector.ts';
import { differenceOf } from '../suppression/acknowledgement.ts';
import type { StoreObservation } from '../suppression/acknowledgement.ts';
import type { StoreScopes } from '../suppression/scope.ts';
import { toHeld } from './carried.ts';
import type { LedgerAccess } from './ledger-access.ts';
import type { createAddressOpener } from './open-addresses.ts';
import type { StoreReach, WorkerStore } from './reach-store.ts';

/** How often it is looked. */
const OBSERVE_MS = 2_000;

type Observed = { readonly generation: number; readonly store: StoreObservation };

export function createStoreObserver({
  store: { connector, makeKey },
  held,
  reach,
  ledger,
  addressOf,
  signal,
}: {
  store: WorkerStore;
  held: StoreScopes;
  reach: StoreReach;
  ledger: Pick<LedgerAccess, 'canary'>;
  addressOf: ReturnType<typeof createAddressOpener>;
  signal: AbortSignal;
}) {
  /** Whose decisions the canaries are, as of the last look. */
  let canarySubject: string | undefined;
  let observed: Observed | undefined;
  let isAway = false;

  async function observe(generation: number): Promise<void> {
    try {
      const open = await reach.open();
      // A store that does not tell us (a role that may not ask, say) still has the canary.
      const incarnation = await reach
        .call(async (deadline) => open.incarnation?.(deadline))
        .catch(() => undefined);
      const canary = await lookAtCanary(open);
      // What was lost stays said until it was told: the next canary would cover it up.
      const lost = observed?.generation === generation && observed.store.canary === 'lost';
      observed = { generation, store: { incarnation, canary: lost ? 'lost' : canary } };
      isAway = false;
    } catch {
      // A store or a ledger that is away says nothing of what the store is; that it is away others report.
      isAway = true;
    }
  }

  /** Asked of the ledger before the store is read: what comes in between can only be newer. */
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
    /** Until `signal` aborts. `generation` is undefined while the store is better left alone. */
    async observeAlways(generation: () => number | undefined): Promise<void> {
      while (!signal.aborted) {
        await delay(OBSERVE_MS, undefined, { signal }).catch(() => undefined);
        const of = generation();
        if (of !== undefined && !signal.aborted) await observe(of);
      }
    },
    /** The store could not be asked when it was last looked. */
    isAway: (): boolean => isAway,
    isCanary: (subjectId: string): boolean => subjectId === canarySubject,
    /** What is to be told of the store in this generation; undefined: nothing new. */
    untold: (generation: number): Observed | undefined =>
      observed?.generation === generation ? observed : undefined,
    /** What was seen meanwhile is for the next time. */
    told(one: Observed | undefined): void {
      if (observed === one) observed = undefined;
    },
  };
}
