// The exchange with the store about one batch: apply, read back, and what follows for each decision.
import { setTimeout as delay } from 'node:timers/promises';
import { Item } from '../connectors/contract/connector.ts';
import type { ApplyOutcome, Connector, Held, Store } from '../connectors/contract/connector.ts';
import { LIFT_NOT_UNDONE, compareHeld, grantedSince, mustHold } from '../suppression/acknowledgement.ts';
import type { Newest } from '../suppression/acknowledgement.ts';
import type { Granted, Instant } from '../suppression/decision.ts';
import { heldAs } from '../suppression/scope.ts';
import type { StoreScopes } from '../suppression/scope.ts';
import { Address } from '../suppression/subject.ts';
import { toHeld } from './carried.ts';
import type { Carried, Result } from './carried.ts';
import type { LedgerAccess } from './ledger-access.ts';
import { nextStep } from './next-step.ts';
import type { StoreReach } from './reach-store.ts';

type Pair = { readonly carried: Carried; readonly item: Item };

/** What the store is told of a decision: only what concerns the scopes that it holds. */
export function toItem(
  { decision, lane }: Carried,
  value: string,
  { held, makeKey }: { readonly held: StoreScopes; readonly makeKey: (value: string) => string },
): Item {
  const suppressed = Object.entries(decision.suppressed).flatMap(([scope, since]) =>
    heldAs(scope, held).map((name) => [name, since] as const),
  );
  const kept = new Set(suppressed.map(([name]) => name));
  // A channel's grant and its topic's may have the same name there: the newer one says what is to be cleared.
  const granted: Record<string, Granted> = {};
  for (const [scope, grant] of Object.entries(decision.granted))
    for (const name of heldAs(scope, held))
      if (!kept.has(name) && grant.version > (granted[name]?.version ?? 0)) granted[name] = grant;
  return new Item({
    seq: decision.seq,
    version: decision.version,
    subject: { kind: decision.kind, value: new Address(value) },
    key: makeKey(value),
    suppressed: Object.fromEntries(suppressed),
    granted,
    effectiveAt: decision.effectiveAt,
    lane,
  });
}

/**
 * Carries a batch; `items[n]` is what the store is told of `batch[n]`. Each decision is given to `report` or `letGo`.
 * Throws what the store throws: the decisions given on by then are answered for, and the rest is unknown.
 */
export function createBatchCarrier({
  connector,
  held,
  call,
  ledger,
  targetSince,
  report,
  letGo,
  signal,
}: {
  connector: Connector;
  held: StoreScopes;
  call: StoreReach['call'];
  ledger: Pick<LedgerAccess, 'newest'>;
  /** Since when the store has been told of all that it is told of now, if the ledger says so. */
  targetSince: () => Instant | undefined;
  report: (carried: Carried, result: Result) => void;
  letGo: (carried: Carried) => void;
  signal: AbortSignal;
}): (open: Store, batch: readonly Carried[], items: readonly Item[]) => Promise<void> {
  return connector.versions === 'none' ? carryUnversioned : carryVersioned;

  async function carryVersioned(
    open: Store,
    batch: readonly Carried[],
    items: readonly Item[],
  ): Promise<void> {
    const told = await withoutOldGrants(open, batch, items);
    const outcomes = await call((deadline) => open.apply(told, deadline));
    await follow(open, batch, told, outcomes);
  }

  /** A row without a version was never told of anything. For a store that cannot be read, the ledger knows what it was told. */
  async function withoutOldGrants(
    open: Store,
    batch: readonly Carried[],
    items: readonly Item[],
  ): Promise<readonly Item[]> {
    const doubtful = [...items.keys()].filter((n) => sinceItIsThere(items[n]!) !== items[n]);
    if (doubtful.length === 0) return items;
    const told = [...items];
    if (connector.evidence === 'read_back') {
      const keys = doubtful.map((n) => items[n]!);
      const answers = await call((deadline) => open.readBack(keys, deadline));
      for (const [m, n] of doubtful.entries())
        if (answers[m]?.version === undefined) told[n] = sinceItIsThere(items[n]!);
    } else for (const n of doubtful) told[n] = sinceItIsThere(items[n]!, await newestOf(batch[n]!));
    return told;
  }

  /** The same item if nothing is left out. */
  function sinceItIsThere(item: Item, newest?: Newest): Item {
    const granted = grantedSince(item.granted, targetSince(), newest?.firstAcknowledgedVersion);
    const isWhole = Object.keys(granted).length === Object.keys(item.granted).length;
    return isWhole ? item : new Item({ ...item, granted });
  }

  /**
   * Suppressing goes in any order and together. Lifting goes one subject at a time, and nothing else of that subject goes
   * meanwhile: ask the ledger whether the grant is still the newest, apply, ask again, read back; if it was overtaken, suppress
   * again. What the store was told of before is not lifted again: it may have suppressed it by itself since.
   */
  async function carryUnversioned(
    open: Store,
    batch: readonly Carried[],
    items: readonly Item[],
  ): Promise<void> {
    const lifts = items.map((item) => Object.keys(item.granted).length > 0);
    const together = items.filter((_, n) => !lifts[n]);
    if (together.length > 0) {
      const outcomes = await call((deadline) => open.apply(together, deadline));
      await follow(
        open,
        batch.filter((_, n) => !lifts[n]),
        together,
        outcomes,
      );
    }
    for (const [n, item] of items.entries()) {
      if (!lifts[n]) continue;
      const carried = batch[n]!;
      let newest = await newestOf(carried);
      let outcomes: readonly ApplyOutcome[] = [];
      const notYetLifted = new Item({ ...item, granted: grantedAfter(newest.acknowledgedVersion, item) });
      const told = sinceItIsThere(notYetLifted, newest);
      if (!isNewer(newest, carried)) {
        outcomes = await call((deadline) => open.apply([told], deadline));
        newest = await newestOf(carried);
      } else if (carried.throws === 0) {
        // Overtaken before the store was told: the newer decision supersedes this one.
        letGo(carried);
        continue;
      }
      if (isNewer(newest, carried)) {
        await takeBack(open, carried, item, newest);
        continue;
      }
      await follow(open, [carried], [told], outcomes);
    }
  }

  function newestOf({ decision }: Carried): Promise<Newest> {
    return call((deadline) => ledger.newest(decision.subjectId, deadline));
  }

  /**
   * The newer decision may have been settled before the lifting arrived, so what it suppressed must be held afterwards. If that is
   * not certain the ledger is told at once, and has the newer one carried again: nobody else knows, least of all after a restart.
   */
  async function takeBack(open: Store, carried: Carried, item: Item, newer: Newest): Promise<void> {
    let isHeld = false;
    try {
      isHeld = await suppressAgain(open, item, newer);
    } finally {
      if (isHeld) letGo(carried);
      else report(carried, { of: newer, outcome: 'failed', code: LIFT_NOT_UNDONE });
    }
  }

  async function suppressAgain(open: Store, item: Item, newer: Newest): Promise<boolean> {
    const scopes = mustHold(newer, held);
    const suppressed = Object.fromEntries(
      scopes.map((scope) => [scope, newer.suppressed[scope] ?? item.effectiveAt]),
    );
    const again = new Item({ ...item, version: newer.version, suppressed, granted: {} });
    const [outcome] = await call((deadline) => open.apply([again], deadline));
    // Who is absent now may be there again before anybody asks: the newer decision's own try says so, and parks it.
    if (outcome === undefined || outcome.kind === 'refused' || outcome.kind === 'absent') return false;
    if (connector.evidence !== 'read_back') return true;
    const [now] = await call((deadline) => open.readBack([again], deadline));
    return compareHeld(newer, held, toHeld(now)) !== 'missing';
  }

  async function follow(
    open: Store,
    batch: readonly Carried[],
    items: readonly Item[],
    outcomes: readonly ApplyOutcome[],
  ): Promise<void> {
    if (outcomes.length !== items.length)
      throw new Error('the connector answered for a different number of items');
    const appliedAt = new Date().toISOString();
    const toRead: Pair[] = [];
    for (const [n, carried] of batch.entries()) {
      const step = nextStep(outcomes[n]!, connector.evidence);
      switch (step.kind) {
        case 'read_back':
          toRead.push({ carried, item: items[n]! });
          break;
        case 'acknowledge':
          report(carried, { outcome: 'applied', appliedAt });
          break;
        case 'leave':
          letGo(carried);
          break;
        case 'park':
          report(carried, { outcome: step.outcome, code: step.code, appliedAt });
      }
    }
    if (toRead.length > 0) await readBack(open, toRead, appliedAt);
  }

  async function readBack(open: Store, pairs: readonly Pair[], appliedAt: string): Promise<void> {
    const { afterMs, withinMs } = connector.settles ?? { afterMs: 0, withinMs: 0 };
    const giveUpAt = performance.now() + withinMs;
    if (afterMs > 0) await delay(afterMs, undefined, { signal });
    let waiting = pairs;
    for (;;) {
      const answers = await call((deadline) =>
        open.readBack(
          waiting.map(({ item }) => item),
          deadline,
        ),
      );
      const verifiedAt = new Date().toISOString();
      const missing: (Pair & { readonly heldNow: Held })[] = [];
      for (const [n, { carried, item }] of waiting.entries()) {
        const heldNow = toHeld(answers[n]);
        if (isVerified(carried, item, heldNow))
          report(carried, { outcome: 'verified', held: heldNow, appliedAt, verifiedAt });
        else missing.push({ carried, item, heldNow });
      }
      if (missing.length === 0) return;
      if (performance.now() >= giveUpAt) {
        for (const { carried, heldNow } of missing)
          report(carried, { outcome: 'failed', held: heldNow, code: 'NOT_HELD', appliedAt, verifiedAt });
        return;
      }
      waiting = missing;
      await delay(Math.min(1_000, Math.max(20, afterMs)), undefined, { signal });
    }
  }

  function isVerified({ decision, attempts }: Carried, { granted }: Item, heldNow: Held): boolean {
    const compared = compareHeld(decision, held, heldNow);
    // A version above ours is for the ledger to judge: it is a newer decision of its own, or the store is ahead of it.
    if (compared !== 'held') return compared === 'newer';
    const told = attempts > 1 && heldNow.version === decision.version;
    const lifted = Object.keys(granted).filter(
      (scope) => connector.versions === 'none' || granted[scope]!.version === decision.version,
    );
    return told || !lifted.some((scope) => heldNow.suppressed.includes(scope));
  }
}

const isNewer = ({ version }: Newest, { decision }: Carried): boolean => version > decision.version;

const grantedAfter = (version: number, { granted }: Item): Item['granted'] =>
  Object.fromEntries(Object.entries(granted).filter(([, grant]) => grant.version > version));
