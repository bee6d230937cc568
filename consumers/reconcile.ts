// Reads back, page by page, what a store acknowledged long ago, and tells the ledger what differs. It repairs nothing: the
// ledger makes what differs outstanding again, and the worker carries it like anything else.
import { setTimeout as delay } from 'node:timers/promises';
import { TryLater } from '../connectors/contract/connector.ts';
import type { Held, SubjectKey } from '../connectors/contract/connector.ts';
import { differenceOf, heldOfItsOwn } from '../suppression/acknowledgement.ts';
import type {
  Comparison,
  Difference,
  OwnSuppression,
  ReconciliationPage,
} from '../suppression/acknowledgement.ts';
import type { Decision } from '../suppression/decision.ts';
import type { StoreScopes } from '../suppression/scope.ts';
import type { LedgerAccess } from './ledger-access.ts';
import { REPORT_SCOPES_MAX } from './report-always.ts';

/** How often the ledger is asked whether there is anything to compare. */
const ASK_MS = 2_000;
/** If this many cannot be read before anybody can, the store is at fault. */
const UNREADABLE_MAX = 3;

/**
 * Runs until `signal` aborts. `keyOf` gives a decision's key in the store, undefined if the address cannot be had; `readBack` asks
 * the store. A failure is said once and tried again: reporting a store that is away is up to the worker. A page that goes on
 * failing is read in ever smaller pieces, until it shows whom the store cannot read while it reads others: what cannot be read is
 * not held.
 */
export async function reconcileAlways({
  ledger,
  held,
  batchMax,
  keyOf,
  readBack,
  onFailure,
  signal,
}: {
  ledger: Pick<LedgerAccess, 'reconciliationPage' | 'compared'>;
  held: StoreScopes;
  batchMax: number;
  keyOf: (decision: Decision) => Promise<SubjectKey | undefined>;
  readBack: (keys: readonly SubjectKey[]) => Promise<readonly (Held | undefined)[]>;
  onFailure: (error: unknown) => void;
  signal: AbortSignal;
}): Promise<void> {
  /** Readings in a row that failed. */
  let failures = 0;
  while (!signal.aborted) {
    let restMs = ASK_MS;
    try {
      const page = await ledger.reconciliationPage(signal);
      if (page !== undefined) {
        restMs = page.pauseMs;
        await ledger.compared(page, await compare(page), signal);
      }
      failures = 0;
    } catch (error) {
      if (!signal.aborted) onFailure(error);
      restMs = error instanceof TryLater ? Math.max(ASK_MS, error.delayMs) : ASK_MS;
    }
    await delay(restMs, undefined, { signal }).catch(() => undefined);
  }

  async function compare({ decisions, own: recorded }: ReconciliationPage): Promise<Comparison> {
    const differences: Difference[] = [];
    const ownSuppressions: OwnSuppression[] = [];
    let own = 0;
    let told = 0;
    const lookForOwn = (decision: Decision, answer: Held | undefined): void => {
      const more = heldOfItsOwn(decision, held, answer);
      if (more.length === 0) return;
      own += 1;
      const suppressed = more.filter((scope) => recorded?.scopes.includes(scope));
      told += suppressed.length;
      // Those beyond the limit are found by the next pass: the ones before them are recorded by then.
      if (suppressed.length > 0 && told <= REPORT_SCOPES_MAX)
        ownSuppressions.push({ seq: decision.seq, suppressed });
    };
    const [compared, unread] = await readAll(decisions, (decision, answer) => {
      const kind = differenceOf(decision, held, answer);
      if (kind === undefined) lookForOwn(decision, answer);
      else differences.push({ seq: decision.seq, kind, heldVersion: answer?.version });
    });
    // No decision about these people concerns what the store holds: there is nothing that could be missing.
    await readAll(recorded?.others ?? [], lookForOwn);
    return { compared, differences, own, ownSuppressions, unread };
  }

  /** Returns how many were read, and how many cannot be because their address cannot be had. */
  async function readAll(
    decisions: readonly Decision[],
    see: (decision: Decision, answer: Held | undefined) => void,
  ): Promise<readonly [read: number, unread: number]> {
    let read = 0;
    const size = Math.max(1, Math.floor(batchMax / 2 ** failures));
    type Pair = { readonly decision: Decision; readonly key: SubjectKey };
    /** Somebody whom the store could read; it is asked for them again to tell whether it is there. */
    let readable: SubjectKey | undefined;
    let unreadable: Pair[] = [];
    const readOnceMore = async ({ decision, key }: Pair, other: SubjectKey): Promise<void> => {
      try {
        const [answer] = await readBack([key]);
        see(decision, answer);
      } catch (error) {
        if (error instanceof TryLater) throw error;
        await readBack([other]);
        see(decision, undefined);
      }
      read += 1;
    };
    for (let from = 0; from < decisions.length; from += size) {
      signal.throwIfAborted();
      const pairs: Pair[] = [];
      for (const decision of decisions.slice(from, from + size)) {
        const key = await keyOf(decision);
        if (key !== undefined) pairs.push({ decision, key });
      }
      if (pairs.length === 0) continue;
      try {
        const answers = await readBack(pairs.map(({ key }) => key));
        for (const [n, { decision }] of pairs.entries()) see(decision, answers[n]);
        read += pairs.length;
        readable = pairs[0]!.key;
      } catch (error) {
        if (error instanceof TryLater) throw error;
        if (size > 1) {
          failures += 1;
          throw error;
        }
        unreadable.push(...pairs);
        const isLast = from + size >= decisions.length;
        if (readable === undefined && (isLast || unreadable.length === UNREADABLE_MAX)) throw error;
      }
      if (readable === undefined) continue;
      for (const pair of unreadable) await readOnceMore(pair, readable);
      unreadable = [];
    }
    return [read, decisions.length - read];
  }
}
