// Carries files into the ledger, one at a time, oldest first. Any process may carry any file: the one that holds its lease begins
// after the last recorded row. It gives way to opt-outs that wait to be recorded here, and to stores, which would otherwise get
// what is decided now only after everything that a file decided before.
import { randomUUID } from 'node:crypto';
import { setImmediate as nextTurn, setTimeout as delay } from 'node:timers/promises';
import type { Import, ImportBatch, ImportRow, RowError } from '../../ledger/contract/imports.ts';
import type { Ledger } from '../../ledger/contract/ledger.ts';
import type { StoreLag } from '../../ledger/contract/propagation-lag.ts';
import { AbideError } from '../../suppression/errors.ts';
import type { ErrorCode } from '../../suppression/errors.ts';
import type { ApiLog } from '../deps.ts';
import { readFile } from './read-file.ts';
import { createReadRow } from './read-row.ts';

/** Large enough that a commit costs little, small enough that a live opt-out of somebody in it waits only a moment. */
const BATCH_ROWS = 2_000;
/** One is written while the next one is read and folded. */
const FLIGHTS = 2;
/** Parsing this much takes about a millisecond; then live requests get their turn. */
const PARSED_AT_ONCE = 32 * 1024;
/** A store that keeps up works through this in well under a second. */
const STORE_BACKLOG_MAX = 5_000;
/** However busy it is, a file goes on after this. */
const LIVE_MS_MAX = 250;
/** However slow a store is, a file's next rows are recorded after this: only then are they in force, and other stores get them. */
const STORE_MS_MAX = 10_000;
/** A canary is acknowledged as often as this, so that a store with nothing else to take is known to take something. */
const TAKING_MS = 60_000;
const LOOK_MS = 50;
const RENEW_MS = 1_000;
const AGAIN_MS = 1_000;
const TRIES = 3;
/** However often the ledger is away or locked, the file goes on when it is there again. */
const PASSING: readonly ErrorCode[] = ['ledger-unavailable', 'overloaded'];
/** For these, trying again changes nothing. */
const REFUSED: readonly ErrorCode[] = ['budget-exhausted', 'unauthenticated'];

/**
 * Whether what a store lacks comes to it. That it is late says nothing: the file itself makes it so, and so does one decision that is
 * parked. A store that is away acknowledges nothing, and holds up nobody.
 */
const isTaking = ({ status, last_acknowledged_at: last }: StoreLag, now: string): boolean =>
  status === 'ok' || (last !== null && Date.parse(now) - Date.parse(last) < TAKING_MS);

type ImportLedger = Pick<Ledger, 'imports' | 'lag'>;

/** Runs until it is disposed; what it then carries is left to the next process. */
export function startImports({ ledger, log }: { ledger: ImportLedger; log: ApiLog }): AsyncDisposable {
  const { imports } = ledger;
  const holder = randomUUID();
  const closing = new AbortController();
  /** How often in a row an import failed here for a reason that may pass. */
  const failed = new Map<string, number>();

  async function* piecesOf({ id }: Import): AsyncGenerator<Buffer> {
    for (let n = 0; ; n += 1) {
      const piece = await imports.piece(id, n);
      if (piece === undefined) return;
      for (let at = 0; at < piece.length; at += PARSED_AT_ONCE) {
        yield piece.subarray(at, at + PARSED_AT_ONCE);
        await nextTurn();
      }
    }
  }

  /** Batches of what is not recorded yet. */
  async function* batchesOf(of: Import): AsyncGenerator<ImportBatch> {
    const readRow = createReadRow(of);
    // A dry run records nothing, so it counts the whole file anew.
    const wanted = of.repeats === undefined || of.dryRun ? undefined : await imports.notTaken(of.repeats);
    let after = of.rowsDone;
    let rows: ImportRow[] = [];
    let errors: RowError[] = [];
    let taken = 0;
    let through = after;
    const batch = (): ImportBatch => {
      const made = { after, through, rows, errors, taken };
      [after, rows, errors, taken] = [through, [], [], 0];
      return made;
    };
    for await (const given of readFile(of.format, piecesOf(of), { scopes: false })) {
      if (given.row <= of.rowsDone) continue;
      if (wanted?.has(given.row) === false) taken += 1;
      else {
        const read = readRow(given);
        if ('row' in read) rows.push(read);
        else errors.push(...read);
      }
      through = given.row;
      if (through - after === BATCH_ROWS) yield batch();
    }
    if (through > after) yield batch();
  }

  /** While a store is waited for, a tenth of the time may go into counting. What it takes at once is known before each batch. */
  let behind = false;
  let lookAt = 0;
  const isStoreBehind = async (): Promise<boolean> => {
    const began = performance.now();
    if (behind && began < lookAt) return true;
    const { as_of: now, stores } = await ledger.lag();
    behind = stores.some(
      (store) =>
        store.required &&
        isTaking(store, now) &&
        (store.outstanding ?? 0) - (store.quarantined ?? 0) > STORE_BACKLOG_MAX,
    );
    lookAt = began + (performance.now() - began) * 10;
    return behind;
  };

  /** False: another process has the import by now, or this process ends. */
  async function untilCalm({ id }: Import): Promise<boolean> {
    const began = performance.now();
    while (imports.isLiveWaiting() && performance.now() - began < LIVE_MS_MAX) await delay(1);
    let renewedAt = performance.now();
    while (!closing.signal.aborted && performance.now() - began < STORE_MS_MAX && (await isStoreBehind())) {
      await delay(LOOK_MS);
      if (performance.now() - renewedAt < RENEW_MS) continue;
      if (!(await imports.renew(id, holder))) return false;
      renewedAt = performance.now();
    }
    return !closing.signal.aborted;
  }

  /** False if it was not carried to its end. */
  async function carry(of: Import): Promise<boolean> {
    const underWay: Promise<boolean>[] = [];
    let before: Promise<unknown> = Promise.resolve();
    for await (const batch of batchesOf(of)) {
      if (!(await untilCalm(of))) break;
      if (underWay.length === FLIGHTS && !(await underWay.shift()!)) return false;
      const recorded = imports.record(of, holder, batch, before);
      // A failure is looked at when its turn comes.
      recorded.catch(() => undefined);
      underWay.push(recorded);
      before = recorded;
    }
    const all = await Promise.all(underWay);
    return !closing.signal.aborted && all.every((recorded) => recorded);
  }

  async function carryToItsEnd(of: Import): Promise<void> {
    try {
      if (await carry(of)) {
        const ended = await imports.finish(of.id, holder);
        if (ended?.failure !== undefined) {
          const { rowsDone, rowsTotal } = ended;
          log.error(
            { import: of.id, rowsDone, rowsTotal },
            'an import failed: its file lacks some of its rows',
          );
        }
        failed.delete(of.id);
      } else await imports.release(of.id, holder);
    } catch (error) {
      const tries = (failed.get(of.id) ?? 0) + 1;
      const code = error instanceof AbideError ? error.code : undefined;
      const passes = code !== undefined && PASSING.includes(code);
      if (!passes) failed.set(of.id, tries);
      const details = { import: of.id, error, tries };
      const isRefused = code !== undefined && REFUSED.includes(code);
      if (passes || (tries < TRIES && !isRefused)) {
        log.warn(details, 'an import was interrupted and continues');
        await imports.release(of.id, holder).catch(() => undefined);
        await delay(AGAIN_MS, undefined, { signal: closing.signal }).catch(() => undefined);
      } else {
        log.error(details, 'an import failed');
        failed.delete(of.id);
        await imports.finish(of.id, holder, code ?? 'internal-error').catch(() => undefined);
      }
    }
  }

  /** Whether it failed is said once, however often it is tried in vain. */
  let isFailing = false;
  async function claim(): Promise<Import | undefined> {
    try {
      const next = await imports.claim(holder);
      isFailing = false;
      return next;
    } catch (error) {
      if (!isFailing) log.warn({ error }, 'imports wait, since none can be claimed: will try again');
      isFailing = true;
      return undefined;
    }
  }

  const running = (async () => {
    while (!closing.signal.aborted) {
      const next = await claim();
      if (next === undefined) await imports.untilWaiting(closing.signal);
      else await carryToItsEnd(next);
    }
  })();

  return {
    [Symbol.asyncDispose]: async () => {
      closing.abort();
      await running;
    },
  };
}
