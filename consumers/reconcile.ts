// Reads back, page by page, what a store acknowledged long ago, and tells the ledger what differs. It repairs nothing: the
// ledger makes what differs outstanding again, and the worker carries it like anything else.
import { setTimeout as delay } from 'node:timers/promises';
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

/** How often the ledger is asked whether something is to be compared. */
const ASK_MS = 2_000;
/** So many that cannot be read, and none that can: it is the store. */
const UNREADABLE_MAX = 3;

/**
 * Until `signal` aborts. `keyOf` gives a decision's key in the store, undefined where the address cannot be had; `readBack`
 * asks the store. What fails is said once and tried again: a store that is away is the worker's to report. A page that goes on
 * failing is read in ever smaller pieces, until it shows whom the store cannot read while it reads others: what nobody can
 * read is not held.
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
  /** Of pages, in a row. */
  let failures = 0;
  while (!signal.aborted) {
    let restMs = ASK_MS;
    try {
      const page = await ledger.reconciliationPage(signal);
      if (page !== undefined) {
        restMs = page.pauseMs;
        await ledger.compared(page, await compare(page), signal);
        failures = 0;
      }
    } catch (error) {
      if (!signal.aborted) onFailure(error);
      failures += 1;
      restMs = ASK_MS;
    }
    await delay(restMs, undefined, { signal }).catch(() => undefined);
  }

  async function compare({ decisions, own: recorded }: ReconciliationPage): Promise<Comparison> {
    const differences: Difference[] = [];
    const ownSuppressions: OwnSuppression[] = [];
    let own = 0;
    const lookForOwn = (decision: Decision, answer: Held | undefined): void => {
      const more = heldOfItsOwn(decision, held, answer);
      if (more.length === 0) return;
      own += 1;
      const suppressed = more.filter((scope) => recorded?.scopes.includes(scope));
      if (suppressed.length > 0) ownSuppressions.push({ seq: decision.seq, suppressed });
    };
    const [compared, unread] = await readAll(decisions, (decision, answer) => {
      const kind = differenceOf(decision, held, answer);
      if (kind === undefined) lookForOwn(decision, answer);
      else differences.push({ seq: decision.seq, kind, heldVersion: answer?.version });
    });
    // Nothing was decided of them that the store holds: there is nothing that could be missing.
    await readAll(recorded?.others ?? [], lookForOwn);
    return { compared, differences, own, ownSuppressions, unread };
  }

  /** How many were read, and how many cannot be: their address cannot be had. */
  async function readAll(
    decisions: readonly Decision[],
    see: (decision: Decision, answer: Held | undefined) => void,
  ): Promise<readonly [read: number, unread: number]> {
    let read = 0;
    const size = Math.max(1, Math.floor(batchMax / 2 ** failures));
    const unreadable: { decision: Decision; error: unknown }[] = [];
    for (let from = 0; from < decisions.length; from += size) {
      const pairs: { decision: Decision; key: SubjectKey }[] = [];
      for (const decision of decisions.slice(from, from + size)) {
        const key = await keyOf(decision);
        if (key !== undefined) pairs.push({ decision, key });
      }
      if (pairs.length === 0) continue;
      try {
        const answers = await readBack(pairs.map(({ key }) => key));
        for (const [n, { decision }] of pairs.entries()) see(decision, answers[n]);
        read += pairs.length;
      } catch (error) {
        if (size > 1) throw error;
        unreadable.push({ decision: pairs[0]!.decision, error });
        if (read === 0 && unreadable.length === UNREADABLE_MAX) throw error;
      }
    }
    if (read === 0 && unreadable[0] !== undefined) throw unreadable[0].error;
    for (const { decision } of unreadable) see(decision, undefined);
    read += unreadable.length;
    return [read, decisions.length - read];
  }
}
