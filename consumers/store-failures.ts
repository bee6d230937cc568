// When a store fails: how long it is left alone, and whether the store is at fault or one decision that it chokes on.
import type { Log } from '../connectors/contract/connector.ts';
import { causeCode } from '../suppression/errors.ts';
import type { Carried, Result } from './carried.ts';
import type { InHand } from './in-hand.ts';
import { failureCode, ownWords, retryDelayMs } from './next-step.ts';

const STORE_DOWN_MS_MAX = 5_000;
/** A store that asks to be left alone for this long is late for a reason, and the log says so. */
const LONG_ALONE_MS = 5_000;
/** After two failures a batch is halved, so that one item that the store chokes on holds up nobody else. */
const TOGETHER_MAX = 2;

export function createStoreFailures({
  store,
  hand,
  report,
  noteError,
  log,
}: {
  store: string;
  hand: Pick<InHand, 'putBack'>;
  report: (carried: Carried, result: Result) => void;
  noteError: (code: string) => void;
  log: Log;
}) {
  let inARow = 0;
  let downUntil = 0;
  let saidToBeAlone = false;
  /** When the store last carried anything well, and since when each decision has failed. */
  let lastSuccessAt = -Infinity;
  const failedSince = new WeakMap<Carried, number>();

  function storeFailed(batch: readonly Carried[], error: unknown): void {
    const code = failureCode(error);
    if (inARow === 0)
      log.warn(
        { store, code, cause: causeCode(error), reason: ownWords(error) },
        'store failed, will try again',
      );
    inARow += 1;
    noteError(code);
    for (const carried of batch) {
      if (!failedSince.has(carried)) failedSince.set(carried, performance.now());
    }
    // The next one goes alone, and shows at once whether the store is at fault.
    const forMs = inARow === 1 ? 0 : retryDelayMs(inARow - 1, Math.random(), STORE_DOWN_MS_MAX);
    downUntil = performance.now() + forMs;
    // A single failed decision goes behind the others: if they succeed, it is at fault; if they fail, the store is.
    hand.putBack(batch, batch.length === 1);
  }

  return {
    inARow: (): number => inARow,
    /** The store is left alone until then. */
    downUntil: (): number => downUntil,
    storeFailed,

    /** A throw is "unknown" for the whole batch: the write may have happened, and applying again is harmless. */
    callFailed(batch: readonly Carried[], error: unknown): void {
      const [only] = batch;
      if (only === undefined) return;
      for (const carried of batch) carried.throws += 1;
      if (
        batch.length === 1 &&
        only.throws > TOGETHER_MAX &&
        lastSuccessAt > (failedSince.get(only) ?? Infinity)
      ) {
        // The store carried others meanwhile and chokes on this one: the ledger parks it after some attempts.
        const code = failureCode(error);
        noteError(code);
        // Logged once per decision: thousands may be tried again and again, and the quarantine shows them.
        if (only.attempts === 1)
          log.warn({ store, seq: only.decision.seq, code }, 'store fails on one decision');
        report(only, { outcome: 'failed', code });
        return;
      }
      for (const carried of batch) carried.attempts -= 1;
      if (batch.length > 1 && only.throws >= TOGETHER_MAX) {
        const half = Math.ceil(batch.length / 2);
        const pieces = [Symbol('first half'), Symbol('second half')] as const;
        for (const [n, carried] of batch.entries()) carried.piece = pieces[n < half ? 0 : 1];
      }
      storeFailed(batch, error);
    },

    /** Leaves the store alone for as long as it asks. */
    leaveAlone(batch: readonly Carried[], forMs: number): void {
      for (const carried of batch) carried.attempts -= 1;
      downUntil = performance.now() + forMs;
      if (forMs >= LONG_ALONE_MS) {
        noteError('STORE_ASKS_TO_WAIT');
        if (!saidToBeAlone) log.warn({ store, forMs }, 'the store asks to be left alone');
        saidToBeAlone = true;
      }
      hand.putBack(batch);
    },

    /** The store answered for all of a batch. */
    answered(): void {
      if (inARow > 0) log.info({ store }, 'store answers again');
      inARow = 0;
      saidToBeAlone = false;
    },

    /** The store has taken a decision. */
    tookOne(): void {
      lastSuccessAt = performance.now();
    },
  };
}
