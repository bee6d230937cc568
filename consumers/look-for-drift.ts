// Looks for what a store made later of what it was told: what it had acknowledged is read back again, and its own list is gone
// through.
import { TryLater } from '../connectors/contract/connector.ts';
import type { Log } from '../connectors/contract/connector.ts';
import { untilAborted } from '../connectors/contract/until-aborted.ts';
import { AbideError } from '../suppression/errors.ts';
import type { StoreScopes } from '../suppression/scope.ts';
import { toHeld } from './carried.ts';
import type { LedgerAccess } from './ledger-access.ts';
import { listOwnAlways } from './list-own.ts';
import { failureCode } from './next-step.ts';
import type { createAddressOpener } from './open-addresses.ts';
import type { StoreReach, WorkerStore } from './reach-store.ts';
import { reconcileAlways } from './reconcile.ts';

/** Listing may cost a store a pass over all that it holds. */
const LIST_MS_MAX = 60_000;

type Looked = {
  readonly store: WorkerStore;
  readonly held: StoreScopes;
  readonly reach: StoreReach;
  readonly ledger: LedgerAccess;
  readonly addressOf: ReturnType<typeof createAddressOpener>;
  readonly noteError: (code: string) => void;
  readonly log: Log;
  readonly signal: AbortSignal;
};

/** Runs until `signal` aborts, as far as the store can be read and can list. */
export async function lookForDrift(looked: Looked): Promise<void> {
  const { connector, isPlain } = looked.store;
  if (connector.evidence !== 'read_back') return;
  await Promise.all([reconcile(looked), isPlain ? listOwn(looked) : undefined]);
}

function reconcile({ store, held, reach, ledger, addressOf, noteError, log, signal }: Looked): Promise<void> {
  let isReading = true;
  return reconcileAlways({
    ledger,
    held,
    batchMax: store.connector.limits.batch,
    keyOf: async (decision) => {
      const address = await addressOf(decision);
      if ('value' in address) return { kind: decision.kind, key: store.makeKey(address.value) };
      if (address.not !== 'destroyed') return undefined;
      // The ledger gives out another copy when the page is asked for again.
      throw new AbideError('SEALED_UNREADABLE');
    },
    readBack: async (subjects) => {
      try {
        const open = await reach.open();
        const answers = await reach.call((deadline) => open.readBack(subjects, deadline));
        isReading = true;
        return answers.map((answer) => answer && toHeld(answer));
      } catch (error) {
        // If nothing is due to a store that is away, only this would report that it is away.
        if (!(error instanceof TryLater)) noteError(failureCode(error));
        throw error;
      }
    },
    onFailure: (error) => {
      if (isReading)
        log.warn({ store: store.name, code: failureCode(error) }, 'reconciliation waits for the store');
      isReading = false;
    },
    signal,
  });
}

function listOwn({ store, reach, ledger, log, signal }: Looked): Promise<void> {
  let isListing = true;
  let canList = true;
  return listOwnAlways({
    ledger,
    scan: async (after) => {
      const open = await reach.open();
      if (open.scan === undefined) {
        if (canList)
          log.info(
            { store: store.name },
            'the store cannot list what it holds: people whom only it knows are not found',
          );
        canList = false;
        return [];
      }
      const deadline = AbortSignal.any([signal, AbortSignal.timeout(LIST_MS_MAX)]);
      const entries = await untilAborted(open.scan(after, deadline), deadline);
      isListing = true;
      return entries;
    },
    onFailure: (error) => {
      if (isListing) log.info({ store: store.name, code: failureCode(error) }, 'listing waits for the store');
      isListing = false;
    },
    signal,
  });
}
