// The ledger of one process: a pool, what is kept of it in memory, and the jobs that keep it moving.
import { setTimeout as delay } from 'node:timers/promises';
import type { AcknowledgementAnswer, StoreObservation } from '../suppression/acknowledgement.ts';
import { AbideError } from '../suppression/errors.ts';
import type { SealingKey } from '../suppression/seal.ts';
import { createAcknowledge } from './acknowledge.ts';
import type { Settled } from './acknowledge.ts';
import { createAuthenticator, createKey, listKeys } from './api-keys.ts';
import { Bell } from './bell.ts';
import { createSpend } from './budgets.ts';
import type { OnRefused } from './budgets.ts';
import { canaryOf, forgetCanaries, issueCanaries } from './canary.ts';
import type { Canaries } from './canary.ts';
import { checkSendable } from './check-sendable.ts';
import type { Direction } from './contract/budgets.ts';
import type { Ledger } from './contract/ledger.ts';
import type { RecordAnswer } from './contract/opt-outs.ts';
import type { LagReport } from './contract/propagation-lag.ts';
import { asLedgerError, openPool } from './database.ts';
import type { Pool } from './database.ts';
import { eraseSubjects } from './erase.ts';
import { findGrant, findOptOut, findOptOutAsOf, listOptOuts, lookupSubject } from './find.ts';
import { judgeGate } from './gate.ts';
import { recordGrant } from './grant.ts';
import { createFreshReading } from './fresh-reading.ts';
import { createHousekeeping, makePartitions } from './housekeeping.ts';
import { createImports } from './imports.ts';
import { repeatJobs } from './jobs.ts';
import type { KeyRing } from './key-ring.ts';
import { newestOf, outstandingPage } from './outstanding.ts';
import { propagationOf, propagationOfGrants } from './propagation.ts';
import { askListing, nextListingPage, readListing, recordOfKnown, takeListed } from './own-suppressions.ts';
import type { RecordOptOut } from './own-suppressions.ts';
import { readLag } from './propagation-lag.ts';
import { findParked, listParked, retryParked } from './quarantine.ts';
import {
  askReconciliation,
  listReconciliations,
  nextReconciliationPage,
  takeComparison,
} from './reconcile.ts';
import { BULK_FLIGHTS, createBulkRecorder } from './record-in-bulk.ts';
import { createRecorder } from './record.ts';
import { reissue } from './reissue.ts';
import { createSetBackWatch } from './set-back.ts';
import { findStore, listStores, observeStore } from './stores.ts';
import type { RegisteredStore } from './stores.ts';
import {
  currentTransportKey,
  destroyOldTransportKeys,
  findTransportKey,
  livingTransportKeys,
} from './transport-keys.ts';
import { createTurns } from './turns.ts';
import { createUsageCounter } from './usage.ts';
import { createPropagationWatch } from './wait-for-propagation.ts';
import { createWatermarkJob } from './watermark.ts';

const REGISTRY_MS = 500;
const WATERMARK_MS = 500;
const SET_BACK_MS = 500;
const LAG_CACHE_MS = 250;
/** How soon another process' commit is noticed; this process' own is noticed at once. */
const POLL_MS = 100;
const HOUSEKEEPING_MS = 60_000;
const USAGE_MS = 5_000;
/** How soon an import is noticed that another process left or received. */
const IMPORTS_MS = 500;
/** For how long a sign of life waits for what becomes of its observation, and how soon one that failed is taken again. */
const OBSERVED_MS = 1_000;
const OBSERVE_AGAIN_MS = 10_000;
/** The share of the pool's connections for what clients ask, and as much again for what workers ask. */
const SHARE = 3 / 8;
/** How often per interval each process looks whether a canary's time has come: several processes share them. */
const CANARY_LOOKS = 4;
/** A database that restarts may fail one look; two mean that nobody knows whether anything can be recorded, as on a full disk. */
const FAILED_LOOKS = 2;

export type OpenLedger = Ledger &
  AsyncDisposable & {
    /** The registry as of at most half a second ago. */
    stores(): readonly RegisteredStore[];
    /** Reads the registry anew, e.g. after it was synced. */
    refresh(): Promise<void>;
  };

type LedgerLog = Record<'info' | 'warn', (fields: object, message: string) => void>;

/**
 * Opens the ledger for one process. The schema is there already and the ring is the database's own. It ends the pool when it is
 * disposed, and if it cannot be opened.
 * `onSettled` sees each acknowledgement that was new, `onExhausted` each request that a spent budget refused.
 */
export async function openLedger({
  pool,
  ring,
  log,
  onSettled = () => undefined,
  onExhausted = () => undefined,
  onFound = () => undefined,
  onSetBack = () => undefined,
  canaries,
}: {
  pool: Pool;
  ring: KeyRing;
  log: LedgerLog;
  onSettled?: (store: RegisteredStore, settled: readonly Settled[]) => void;
  onExhausted?: (direction: Direction) => void;
  /** Sees each recorded opt-out that a store had taken by itself. */
  onFound?: (answer: RecordAnswer) => void;
  /** The database went back in time (LEDGER_SET_BACK): this process must end. Called at each look, every half second. */
  onSetBack?: (error: AbideError) => void;
  /** Undefined: none are issued, and none is missed. */
  canaries?: Canaries | undefined;
}): Promise<OpenLedger> {
  const closing = new AbortController();
  const recorded = new Bell();
  const waitingImports = new Bell();
  const bulkPool = openPool(pool.options.connectionString!, {
    max: BULK_FLIGHTS,
    onError: (error) => log.warn({ error: error.message }, 'a database connection was lost'),
    name: 'abide import',
    pipeline: false,
  });
  const files = createImports({ pool, ring, onWaiting: () => waitingImports.ring() });
  const endPools = async (): Promise<void> => {
    await Promise.all([pool.end(), bulkPool.end()]);
  };
  let stores: readonly RegisteredStore[];
  let transport: SealingKey;
  let livingKeys: Awaited<ReturnType<typeof livingTransportKeys>>;
  try {
    stores = await listStores(pool);
    transport = await currentTransportKey(pool, ring);
    livingKeys = await livingTransportKeys(pool);
    await makePartitions(pool);
    if (canaries === undefined) await forgetCanaries(pool);
  } catch (error) {
    await endPools();
    throw error;
  }

  const refresh = async (): Promise<void> => {
    stores = await listStores(pool);
  };
  const renewTransportKeys = async (): Promise<void> => {
    transport = await currentTransportKey(pool, ring);
    await destroyOldTransportKeys(pool);
    livingKeys = await livingTransportKeys(pool);
  };

  let failedLooks = 0;
  const issue = async (of: Canaries): Promise<void> => {
    try {
      if (await issueCanaries(pool, { ring, transport }, stores, of)) recorded.ring();
      failedLooks = 0;
    } catch (error) {
      failedLooks += 1;
      throw error;
    }
  };
  const readLagNow = (): Promise<LagReport> => readLag(pool, { canariesFail: failedLooks >= FAILED_LOOKS });
  const watermark = createWatermarkJob(pool);
  const setBack = createSetBackWatch(pool);
  const lookForSetBack = async (): Promise<void> => {
    try {
      await setBack.look();
    } catch (error) {
      if (error instanceof AbideError && error.code === 'LEDGER_SET_BACK') onSetBack(error);
      throw error;
    }
  };
  const usage = createUsageCounter(pool);
  const jobs = repeatJobs(
    [
      { name: 'registry', pauseMs: REGISTRY_MS, run: refresh },
      { name: 'set-back', pauseMs: SET_BACK_MS, run: lookForSetBack },
      { name: 'watermark', pauseMs: WATERMARK_MS, run: () => watermark.advance() },
      {
        name: 'housekeeping',
        pauseMs: HOUSEKEEPING_MS,
        run: createHousekeeping(pool, { imports: files, renewTransportKeys }),
      },
      { name: 'usage', pauseMs: USAGE_MS, run: () => usage.write() },
      ...(canaries === undefined
        ? []
        : [
            {
              name: 'canaries',
              pauseMs: (canaries.everySeconds * 1000) / CANARY_LOOKS,
              run: () => issue(canaries),
            },
          ]),
    ],
    { log, signal: closing.signal },
  );

  const asked = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      throw asLedgerError(error);
    }
  };

  // The rest of the pool is for recording, for keys, for the lag and for the jobs.
  const share = Math.max(1, Math.floor(pool.options.max * SHARE));
  const [turnsOfClients, turnsOfWorkers] = [createTurns(share), createTurns(share)];
  const forClient = <T>(work: () => Promise<T>): Promise<T> => asked(() => turnsOfClients(work));
  const forWorker = <T>(work: () => Promise<T>): Promise<T> => asked(() => turnsOfWorkers(work));

  const eachAsked = <Methods extends Readonly<Record<string, (...args: never[]) => Promise<unknown>>>>(
    methods: Methods,
  ): Methods =>
    Object.fromEntries(
      Object.entries(methods).map(([name, method]) => [
        name,
        (...args: never[]) => asked(() => method(...args)),
      ]),
    ) as Methods;

  const context = () => ({ ring, stores });
  const seals = () => ({ ring, transport, livingKeys });
  const authenticate = createAuthenticator(pool);
  const raise = async (store: RegisteredStore, subjectId: string, above: number): Promise<void> => {
    const done = await reissue(pool, { ring, transport }, { subjectId, above, store });
    if (done === 'above_already') return;
    log.warn(
      { store: store.name, subjectId },
      done === 'decided'
        ? 'a store is ahead of the ledger: its subject is decided again'
        : 'a store is ahead of the ledger again and again: its subject is in quarantine there',
    );
    recorded.ring();
  };
  const acknowledge = createAcknowledge(pool, raise);
  const observing = new Set<number>();
  /** Never throws, for no acknowledgement would come through without the sign of life. The worker says it again until it is taken. */
  const observe = async (
    store: RegisteredStore,
    worker: string,
    observed: StoreObservation,
  ): Promise<void> => {
    if (observing.has(store.id)) return;
    observing.add(store.id);
    try {
      const why = await observeStore(pool, store, worker, observed);
      if (why !== undefined) {
        log.warn({ store: store.name, why }, 'a store is no longer what it was: a new generation begins');
        await refresh();
      }
    } catch (error) {
      log.warn({ store: store.name, error: asLedgerError(error) }, 'what a store is now could not be noted');
      await delay(OBSERVE_AGAIN_MS, undefined, { signal: closing.signal }).catch(() => undefined);
    } finally {
      observing.delete(store.id);
    }
  };
  const onRefused: OnRefused = ({ lineage, direction, perDay }, isFirst) => {
    onExhausted(direction);
    if (isFirst)
      log.warn({ keyId: lineage, direction, perDay }, "a key's budget of the day is spent: more is refused");
  };
  const spend = createSpend(pool, onRefused);
  const recorder = createRecorder({
    pool,
    ring,
    transportKey: () => transport,
    stores: () => stores,
    onRecorded: () => recorded.ring(),
    onRefused,
  });

  const bulk = createBulkRecorder({
    pool: bulkPool,
    ring,
    transportKey: () => transport,
    onRecorded: () => recorded.ring(),
    onRefused,
  });

  let lag: { report: Promise<LagReport>; until: number } | undefined;
  const freshLag = createFreshReading(readLagNow);
  const watch = createPropagationWatch(async (ids) => {
    const found = await propagationOf(pool, stores, ids);
    const others = ids.filter((id) => !found.has(id));
    if (others.length === 0) return found;
    return new Map([...found, ...(await propagationOfGrants(pool, stores, others))]);
  });

  /** Nobody waits for an answer to what a store took by itself. */
  const recordFound: RecordOptOut = async (intent) => {
    onFound(await recorder.record(intent, () => ''));
  };

  return {
    record: async (intent, render) => {
      const answer = await recorder.record(intent, render);
      for (const { seq } of answer.decisions) setBack.saw(seq);
      return answer;
    },
    findOptOut: (id, client) => forClient(() => findOptOut(pool, context(), id, client)),
    findOptOutAsOf: (id, client) => forClient(() => findOptOutAsOf(pool, ring, id, client)),
    signing: ring.signing,
    listOptOuts: (filter) => forClient(() => listOptOuts(pool, context(), filter)),
    lookupSubject: (subject) => forClient(() => lookupSubject(pool, context(), subject)),
    erase: (subjects, caller) => forClient(() => eraseSubjects(pool, { ring, stores }, subjects, caller)),
    grant: (intent, render) =>
      forClient(async () => {
        const answer = await recordGrant(pool, { ring, transport, stores, onRefused }, intent, render);
        for (const { seq } of answer.decisions) setBack.saw(seq);
        if (answer.decisions.length > 0) recorded.ring();
        return answer;
      }),
    findGrant: (id, client) => forClient(() => findGrant(pool, context(), { id, client })),
    waitForPropagation: (id, waitMs, signal, fresh) =>
      asked(() => watch.wait(id, waitMs, AbortSignal.any([signal, closing.signal]), fresh)),
    checkSendable: (items) => forClient(() => checkSendable(pool, ring, items)),
    spend: (caller, direction, count) => asked(() => spend(caller, direction, count)),
    lag: () => {
      const now = performance.now();
      if (lag === undefined || lag.until < now) {
        const fresh = { report: asked(readLagNow), until: now + LAG_CACHE_MS };
        lag = fresh;
        fresh.report.catch(() => {
          if (lag === fresh) lag = undefined;
        });
      }
      return lag.report;
    },
    gate: (name, maxAgeSeconds) =>
      asked(async () => {
        const [gate, store] = await Promise.all([
          freshLag().then((report) => judgeGate(report, name, maxAgeSeconds)),
          findStore(pool, name),
        ]);
        if (store === undefined) return undefined;
        return store.retiredAt === undefined ? gate : { ...gate, reason: 'retired' as const };
      }),
    listParked: (name, filter) => forClient(() => listParked(pool, name, filter)),
    findParked: (name, seq) => forClient(() => findParked(pool, name, seq)),
    retryParked: (name, which, caller) => forClient(() => retryParked(pool, name, which, caller)),
    acknowledge: (name, report) =>
      forWorker(async (): Promise<AcknowledgementAnswer> => {
        // The generation must be the current one: an acknowledgement of the one before speaks of another store. If it ended within
        // the half second since the registry was read, the statements themselves settle nothing.
        const store =
          stores.find((one) => one.name === name && one.generation === report.generation) ??
          (await findStore(pool, name));
        if (store === undefined) {
          return {
            accepted: 0,
            duplicate: 0,
            rejected: report.acknowledgements.map(({ seq }) => ({ seq, code: 'not_due' as const })),
          };
        }
        const { settled, ...answer } = await acknowledge(store, report);
        if (report.observed !== undefined && report.generation === store.generation) {
          await Promise.race([
            observe(store, report.worker.id, report.observed),
            delay(OBSERVED_MS, undefined, { signal: closing.signal, ref: false }).catch(() => undefined),
          ]);
        }
        if (settled.length > 0) {
          watch.settled(
            store.name,
            settled.map(({ seq }) => seq),
          );
          onSettled(store, settled);
        }
        return answer;
      }),
    outstanding: (store, { waitMs, signal, ...ask }) =>
      asked(async () => {
        const until = performance.now() + waitMs;
        for (;;) {
          const page = await turnsOfWorkers(() => outstandingPage(pool, seals(), store, ask));
          const left = until - performance.now();
          if (
            page === undefined ||
            page.decisions.length > 0 ||
            // A worker that pages through a back-fill goes on at once if nothing on the page was due.
            (page.next !== undefined && ask.after?.startsWith('backfill:') === true) ||
            left <= 0 ||
            signal.aborted ||
            closing.signal.aborted
          ) {
            return page;
          }
          await recorded.wait(Math.min(left, POLL_MS), AbortSignal.any([signal, closing.signal]));
        }
      }),
    newest: (store, subjectId) => forWorker(() => newestOf(pool, store, subjectId)),
    transportKey: (id) => forWorker(() => findTransportKey(pool, ring, id)),
    canary: (name) =>
      forWorker(async () => {
        const store = stores.find((one) => one.name === name) ?? (await findStore(pool, name));
        return store && (await canaryOf(pool, seals(), store));
      }),
    reconciliationPage: (name, worker) =>
      forWorker(async () => {
        const store = await findStore(pool, name);
        return store && (await nextReconciliationPage(pool, seals(), store, worker));
      }),
    compared: (name, page, comparison) =>
      forWorker(async () => {
        const store = await findStore(pool, name);
        if (store === undefined) return false;
        const { taken, ahead } = await takeComparison(pool, store, page, comparison);
        for (const [subjectId, above] of ahead) await raise(store, subjectId, above);
        if (taken)
          await recordOfKnown(
            pool,
            ring,
            store,
            { run: page.run, own: comparison.ownSuppressions ?? [] },
            recordFound,
            (subject, error) =>
              log.warn(
                { store: name, subject, error },
                'what the store suppresses by itself is not recorded: the address does not open',
              ),
          );
        if (comparison.differences.length > 0) recorded.ring();
        return taken;
      }),
    reconcile: (name, caller) =>
      forClient(async () => {
        const store = await findStore(pool, name);
        if (store === undefined || store.retiredAt !== undefined || store.evidence !== 'read_back')
          return undefined;
        await askListing(pool, store);
        return await askReconciliation(pool, store, caller);
      }),
    reconciliations: (name, limit) =>
      forClient(async () => {
        const store = await findStore(pool, name);
        return store && (await listReconciliations(pool, store, limit));
      }),
    imports: {
      ...eachAsked(files),
      record: (of, holder, batch, before) => asked(() => bulk.record(of, holder, batch, before)),
      isLiveWaiting: () => recorder.isWaiting(),
      untilWaiting: (signal) => waitingImports.wait(IMPORTS_MS, AbortSignal.any([signal, closing.signal])),
    },
    listingPage: (name, worker) =>
      forWorker(async () => {
        const store = await findStore(pool, name);
        return store && (await nextListingPage(pool, ring, store, worker));
      }),
    listed: (name, page, listed) =>
      forWorker(async () => {
        const store = await findStore(pool, name);
        return store !== undefined && (await takeListed(pool, ring, store, page, listed, recordFound));
      }),
    listing: (name) =>
      forClient(async () => {
        const store = await findStore(pool, name);
        return store && (await readListing(pool, store));
      }),
    authenticate: (token) => asked(() => authenticate(token)),
    countUse: (use) => usage.count(use),
    createKey: (fields) => asked(() => createKey(pool, fields)),
    listKeys: () => asked(() => listKeys(pool)),
    ready: () =>
      asked(async () => {
        await pool.query('select is_newest_pepper($1) and exists (select from decisions)', [ring.pepperId]);
      }),
    stores: () => stores,
    refresh: () => asked(refresh),
    [Symbol.asyncDispose]: async () => {
      closing.abort();
      await jobs;
      await usage.write().catch((error: unknown) => {
        log.warn({ error: asLedgerError(error) }, 'the usage of versions since the last write is lost');
      });
      await endPools();
    },
  };
}
