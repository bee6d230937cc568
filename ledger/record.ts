// Recording. Concurrent intents share one transaction of two statements and two round trips: BEGIN travels with the first, COMMIT
// with the second. While it runs, the next intents gather.
//
//   1. read what the idempotency keys say and lock the subjects, in match key order; then the database's clock.
//   -. fold the batch in arrival order (fold-batch.ts): the second item of a subject sees what the first one made of it.
//   2. insert everything, set-based, sorted, without `on conflict`: a race shows as 23505 and begins again at 1.
//
// Both statements are in record-rows.ts.
//
// One clever statement does not do: an upsert cannot touch a row twice, a CTE sees the state from before the lock wait, and `on
// conflict do nothing` beside a select returns no row after waiting.
import { AbideError } from '../suppression/errors.ts';
import type { SealingKey } from '../suppression/seal.ts';
import { beginSpending } from './budgets.ts';
import type { OnRefused } from './budgets.ts';
import { createCompany, FEW } from './company.ts';
import type { OptOutIntent, RecordAnswer, Recorded } from './contract/opt-outs.ts';
import {
  asLedgerError,
  cutIfLate,
  isLockTimeout,
  isRace,
  isUnavailable,
  onClient,
  together,
} from './database.ts';
import type { Pool } from './database.ts';
import { foldBatch } from './fold-batch.ts';
import type { Pending } from './fold-batch.ts';
import type { KeyRing } from './key-ring.ts';
import { keyName, lockAndRead, writeAndCommit } from './record-rows.ts';
import type { RegisteredStore } from './stores.ts';
import { subjectKey } from './subject-key.ts';

const BATCH = 256;
/** While one transaction waits for the disk, another one works; a third one does not record more (measured at 32 clients). */
const FLIGHTS = 2;
/** Fewer than FEW requests wait this long for the first transaction, which may be waiting for a lock. */
const PATIENCE_MS = 10;
/** If more than this wait, it takes longer than a client waits: refusing early keeps memory and answers bounded. */
const QUEUE = 10_000;
/** A request that waits longer is answered and no longer tried: a table may be locked, or the database stand still. */
const WAIT_MS_MAX = 10_000;
/** A transaction has what is left of that for the request that waits longest, but at least this long; then it is cut off. */
const TRANSACTION_MS_MIN = 2_000;
const LOOK_MS = 250;

// A transaction that is cut off leaves a statement behind, which ends by itself, but no earlier than the line is cut: a COMMIT that
// is cancelled while it waits for a standby is a commit that the standby does not have.
const BEGIN = `begin isolation level read committed; set local synchronous_commit = on; set local lock_timeout = '1s';
  set local statement_timeout = '${WAIT_MS_MAX}ms'`;

/**
 * The text that two requests share if they ask for the same thing, whatever their spelling or API version. What only some requests
 * say stands at the end, so that requests without it keep the text that they always had.
 */
function intentText(intent: OptOutIntent): string {
  const [first, ...others] = intent.subjects
    .map(({ kind, value }) => [kind, value.reveal()] as const)
    .sort((a, b) => (`${a[0]}\0${a[1]}` < `${b[0]}\0${b[1]}` ? -1 : 1));
  const { regimes, evidence } = intent;
  const always = [
    ...first!,
    [...intent.scopes].sort(),
    intent.effectiveAt ?? null,
    intent.reason,
    intent.note ?? null,
  ];
  if (others.length === 0 && regimes.length === 0 && evidence === undefined) return JSON.stringify(always);
  return JSON.stringify([
    ...always,
    others,
    [...regimes].sort(),
    evidence === undefined ? null : [evidence.method, evidence.statement ?? null, evidence.source ?? null],
  ]);
}

export type Recorder = {
  record(intent: OptOutIntent, render: (recorded: Recorded) => string): Promise<RecordAnswer>;
  /** Whether any request waits for a free transaction. */
  isWaiting(): boolean;
};

/** `onRecorded` is called after a COMMIT that brought decisions. */
export function createRecorder({
  pool,
  ring,
  transportKey,
  stores,
  onRecorded,
  onRefused,
}: {
  pool: Pool;
  ring: KeyRing;
  transportKey: () => SealingKey;
  stores: () => readonly RegisteredStore[];
  onRecorded: () => void;
  onRefused: OnRefused;
}): Recorder {
  let queue: Pending[] = [];
  let flights = 0;
  let scheduled = false;
  let patience: NodeJS.Timeout | undefined;
  let looking = false;
  const company = createCompany();
  /** Subjects and keys of the batches under way: an item that shares one waits for the batch instead of racing it. */
  const underWay = new Set<string>();

  /** Runs after the current turn: requests that arrived in the same burst share a transaction. */
  function schedule(): void {
    if (scheduled || flights >= FLIGHTS || queue.length === 0) return;
    const patientMs =
      flights === 0 ? company.patienceMs(queue.length) : queue.length < FEW ? patienceOf(queue[0]!) : 0;
    if (patientMs > 0) {
      patience ??= setTimeout(() => {
        patience = undefined;
        schedule();
      }, patientMs);
      return;
    }
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      const waiting = queue.length;
      const batch = nextBatch();
      if (batch.length === 0) return;
      company.began(waiting);
      flights += 1;
      void recordBatch(batch).finally(() => {
        flights -= 1;
        for (const { names } of batch) for (const name of names) underWay.delete(name);
        schedule();
      });
      schedule();
    });
  }

  /** The item that waits longest stands first. */
  function refuseLate(): void {
    const now = performance.now();
    const inTime = queue.findIndex(({ until }) => until > now);
    for (const item of queue.splice(0, inTime === -1 ? queue.length : inTime)) item.reject(tooLate());
  }

  /** Looks as long as anything waits, however long the batches under way take. */
  function lookForLate(): void {
    if (looking || queue.length === 0) return;
    looking = true;
    setTimeout(() => {
      looking = false;
      refuseLate();
      lookForLate();
    }, LOOK_MS).unref();
  }

  /** In order of arrival; an item whose subject or key is under way, or waits already, stays where it is. */
  function nextBatch(): Pending[] {
    refuseLate();
    const batch: Pending[] = [];
    const waiting: Pending[] = [];
    const held = new Set<string>();
    // The queue is shared among the free flights: one batch of everything would leave this process idle while it is written, and
    // the database idle while the next one is made.
    const share = Math.ceil(queue.length / (FLIGHTS - flights));
    const most = Math.min(BATCH, queue.length - share < FEW ? queue.length : share);
    for (const [n, item] of queue.entries()) {
      if (batch.length === most) {
        waiting.push(...queue.slice(n));
        break;
      }
      const { names } = item;
      if (names.some((name) => underWay.has(name) || held.has(name))) {
        for (const name of names) held.add(name);
        waiting.push(item);
      } else batch.push(item);
    }
    for (const { names } of batch) for (const name of names) underWay.add(name);
    queue = waiting;
    return batch;
  }

  /** A race is repeated; after two failures, or if one item is at fault, each item goes alone. */
  async function recordBatch(batch: readonly Pending[]): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await recordOnce(batch);
        return;
      } catch (error) {
        if (isRace(error) && attempt < (batch.length === 1 ? 10 : 3)) continue;
        if (isUnavailable(error) || batch.length === 1) {
          for (const item of batch) item.reject(asLedgerError(whatItMeans(error, item)));
          return;
        }
        for (const item of batch) {
          if (item.until <= performance.now()) item.reject(tooLate());
          else await recordBatch([item]);
        }
        return;
      }
    }
  }

  async function recordOnce(batch: readonly Pending[]): Promise<void> {
    const committed = await onClient(pool, (client) => {
      const leftMs = Math.max(TRANSACTION_MS_MIN, batch[0]!.until - performance.now());
      return cutIfLate(client, leftMs, async () => {
        const [, opened] = await together(client, () => [
          client.query(BEGIN),
          lockAndRead(client, ring, batch),
        ]);
        const callers = batch.map(({ intent }) => intent.caller);
        const spending = await beginSpending(client, 'opt_out', callers, onRefused);
        const using = { client, ring, transport: transportKey(), stores: stores(), spending };
        const { rows, answer } = await foldBatch(batch, opened, using);
        const spent = await spending.write();
        return { seqs: await writeAndCommit(client, ring, rows), answer, spent };
      });
    });
    // Only here, after COMMIT returned, does anybody get a 2xx.
    committed.answer(committed.seqs);
    committed.spent();
    if (committed.seqs.size > 0) onRecorded();
  }

  return {
    isWaiting: () => queue.length > 0,
    record: (intent, render) => {
      if (queue.length >= QUEUE) {
        return Promise.reject(new AbideError('overloaded', undefined, { retryAfterSeconds: 1 }));
      }
      const { caller } = intent;
      const nameOf = (key: Buffer): string => keyName(key.toString('hex'), caller.client);
      const [keyHex, ...olderKeyHexes] = fingerprintsOfKey(ring, caller.client, intent.idempotencyKey).map(
        nameOf,
      );
      const keys = intent.subjects.map((subject) => subjectKey(ring, subject));
      const intentHexes = ring.fingerprints('intent', intentText(intent)).map((one) => one.toString('hex'));
      const names = keys.map(({ hex }) => hex);
      if (keyHex !== undefined) names.push(keyHex);
      return new Promise((resolve, reject) => {
        queue.push({
          intent,
          render,
          keys,
          keyHex,
          names,
          olderKeyHexes,
          intentHexes,
          until: performance.now() + WAIT_MS_MAX,
          resolve,
          reject,
        });
        company.came(flights > 0);
        schedule();
        lookForLate();
      });
    },
  };
}

/** What is left of the time that an item waits for the transaction under way. */
const patienceOf = ({ until }: Pending): number => until - WAIT_MS_MAX + PATIENCE_MS - performance.now();

/**
 * What a caller's key is known by, since the key itself may be somebody's address; then what it was known by under peppers that were
 * replaced. None if there is no key.
 */
export const fingerprintsOfKey = (
  ring: KeyRing,
  client: string,
  idempotencyKey: string | undefined,
): readonly Buffer[] =>
  idempotencyKey === undefined ? [] : ring.fingerprints('idempotency-key', `${client}\0${idempotencyKey}`);

/** Nothing of the item was begun. */
const tooLate = (): AbideError =>
  new AbideError('overloaded', `The request waited for ${WAIT_MS_MAX / 1000} s; nothing was recorded.`, {
    retryAfterSeconds: 1,
  });

function whatItMeans(error: unknown, item: Pending): unknown {
  if (isLockTimeout(error) || isRace(error)) {
    const code = item.keyHex === undefined ? 'overloaded' : 'idempotency-key-in-use';
    return new AbideError(code, undefined, { cause: error, retryAfterSeconds: 1 });
  }
  return error;
}
